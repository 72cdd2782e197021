"""A run of suites over models: check, load, ask, judge, summarise, write."""

from .._moved import moved_from
from .adapters import EvaluatedAdapter, check_adapters, find_adapters
from .config import EvaluationConfig
from .metrics_reporter import summarize
from .plan import EvaluationPlan, plan_evaluation
from .records import Record, read_records
from .run import EvaluationRun, evaluate_models
from .settings import ModelSettings
from .summary import Comparison, Summary, read_summary, write_summary

__all__ = [
    "Comparison",
    "EvaluatedAdapter",
    "EvaluationConfig",
    "EvaluationPlan",
    "EvaluationRun",
    "ModelSettings",
    "Record",
    "Summary",
    "check_adapters",
    "evaluate_models",
    "find_adapters",
    "plan_evaluation",
    "read_records",
    "read_summary",
    "summarize",
    "write_summary",
]

__getattr__ = moved_from(
    __name__,
    "measures.drift",
    "measures.front",
    "measures.intervals",
    "measures.ranking",
    "measures.resampling",
    "measures.safety_tax",
    "measures.sweeps",
)
