"""Models, suites and judges brought together: loads a base once, asks every adapter everything, resumes, writes."""

from .adapters import BASE_NAME, EvaluatedAdapter, check_adapters, find_adapters
from .run import EvaluationRun, evaluate_models
from .settings import ModelSettings

__all__ = [
    "BASE_NAME",
    "EvaluatedAdapter",
    "EvaluationRun",
    "ModelSettings",
    "check_adapters",
    "evaluate_models",
    "find_adapters",
]
