"""How strongly a direction of the core space moves a log-likelihood: capture apart from algebra."""

from ..data_loader.batch import IGNORED, Batch
from .capture import CoreModel, GradientCallback
from .estimate import (
    Estimator,
    compute_fim,
    compute_fim_benign,
    compute_fim_harm,
    lora_gradient_variance_approximation,
    token_log_odds,
    token_logprobs,
)
from .fisher import Fisher, fingerprint
from .points import LowRankUpdates, Point, auto_structure, build_spaces, point_cores
from .structures import BlockFisher, DiagonalFisher, KroneckerFisher, LayerFisher, SampleGradients
from .vila import Identification, restrict_spaces, vila_parameter_identification

__all__ = [
    "IGNORED",
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
    "SampleGradients",
    "auto_structure",
    "build_spaces",
    "compute_fim",
    "compute_fim_benign",
    "compute_fim_harm",
    "fingerprint",
    "lora_gradient_variance_approximation",
    "point_cores",
    "restrict_spaces",
    "token_log_odds",
    "token_logprobs",
    "vila_parameter_identification",
]
