"""Two symmetric operators in, ordered directions out."""

from .efficiency import compute_safety_efficiency, rayleigh_quotients
from .gram import GramGEVP
from .iterative import CoreOperator, DampedFisher, OperatorSum, lobpcg_gevp, solve_linear
from .result import DenseGEVP, DiagonalGEVP, GEVPResult, KroneckerGEVP
from .solve import LayeredGEVP, solve_gevp
from .subspace import select_safety_subspace

__all__ = [
    "CoreOperator",
    "DampedFisher",
    "DenseGEVP",
    "DiagonalGEVP",
    "GEVPResult",
    "GramGEVP",
    "KroneckerGEVP",
    "LayeredGEVP",
    "OperatorSum",
    "compute_safety_efficiency",
    "lobpcg_gevp",
    "rayleigh_quotients",
    "select_safety_subspace",
    "solve_gevp",
    "solve_linear",
]
