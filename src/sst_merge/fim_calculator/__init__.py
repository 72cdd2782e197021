"""How strongly a direction of the core space moves a log-likelihood: capture apart from algebra."""

from ..data_loader.batch import IGNORED, Batch
from .by_role import compute_fim_benign, compute_fim_harm, lora_gradient_variance_approximation
from .capture import CoreModel, GradientCallback
from .defaults import DAMPING, ESTIMATOR, POINT, STRUCTURE, TRUST_BUDGET, Estimator, Point
from .estimate import compute_fim
from .expansion_point import trust_region_share
from .fisher import Fisher
from .identity import fingerprint, point_digest
from .likelihood import answer_log_probabilities, divergences, mean_divergence, token_log_odds, token_logprobs
from .points import LowRankUpdates, auto_structure, build_spaces, point_cores
from .role_patches import RolePatches, point_settings, role_patches
from .structures import BlockFisher, DiagonalFisher, KroneckerFisher, LayerFisher, SampleGradients
from .vila import Identification, restrict_spaces, vila_parameter_identification

__all__ = [
    "DAMPING",
    "ESTIMATOR",
    "IGNORED",
    "POINT",
    "STRUCTURE",
    "TRUST_BUDGET",
    "Batch",
    "BlockFisher",
    "CoreModel",
    "DiagonalFisher",
    "Estimator",
    "Fisher",
    "GradientCallback",
    "Identification",
    "KroneckerFisher",
    "LayerFisher",
    "LowRankUpdates",
    "Point",
    "RolePatches",
    "SampleGradients",
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
    "point_cores",
    "point_digest",
    "point_settings",
    "restrict_spaces",
    "role_patches",
    "token_log_odds",
    "token_logprobs",
    "trust_region_share",
    "vila_parameter_identification",
]
