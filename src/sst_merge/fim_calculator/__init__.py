"""How strongly a direction of the core space moves a log-likelihood: capture apart from algebra."""

from ..data_loader.batch import Batch
from .by_role import compute_fim_benign, compute_fim_harm, lora_gradient_variance_approximation
from .capture import CoreModel
from .defaults import DAMPING, ESTIMATOR, POINT, STRUCTURE, TRUST_BUDGET, Estimator, Point
from .estimate import compute_fim
from .expansion_point import trust_region_share
from .fisher import Fisher
from .identity import fingerprint, point_digest
from .kept_parts import parts_beside, remove_parts
from .likelihood import answer_log_probabilities, divergences, mean_divergence, token_log_odds, token_logprobs
from .points import auto_structure, build_spaces, module_updates, point_cores
from .recomputing import replaced_forward
from .role_patches import RolePatches, point_settings, role_patches
from .structures import BlockFisher, DiagonalFisher, KroneckerFisher, LayerFisher, SampleGradients
from .token_budget import TokenBudget
from .vila import Identification, restrict_spaces, vila_parameter_identification

__all__ = [
    "DAMPING",
    "ESTIMATOR",
    "POINT",
    "STRUCTURE",
    "TRUST_BUDGET",
    "Batch",
    "BlockFisher",
    "CoreModel",
    "DiagonalFisher",
    "Estimator",
    "Fisher",
    "Identification",
    "KroneckerFisher",
    "LayerFisher",
    "Point",
    "RolePatches",
    "SampleGradients",
    "TokenBudget",
    "replaced_forward",
    "answer_log_probabilities",
    "auto_structure",
    "build_spaces",
    "compute_fim",
    "compute_fim_benign",
    "compute_fim_harm",
    "divergences",
    "fingerprint",
    "lora_gradient_variance_approximation",
    "mean_divergence",
    "module_updates",
    "parts_beside",
    "point_cores",
    "point_digest",
    "point_settings",
    "remove_parts",
    "restrict_spaces",
    "role_patches",
    "token_log_odds",
    "token_logprobs",
    "trust_region_share",
    "vila_parameter_identification",
]
