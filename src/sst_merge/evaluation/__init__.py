"""A run of suites over models: check, load, ask, judge, summarise, write."""

from .adapters import BASE_NAME, EvaluatedAdapter, check_adapters, find_adapters
from .config import EvaluationConfig
from .metrics_reporter import summarize
from .records import Record, read_records
from .run import EvaluationRun, evaluate_models
from .settings import ModelSettings
from .summary import Comparison, Summary, read_summary, write_summary

__all__ = [
    "BASE_NAME",
    "Comparison",
    "EvaluatedAdapter",
    "EvaluationConfig",
    "EvaluationRun",
    "ModelSettings",
    "Record",
    "Summary",
    "check_adapters",
    "evaluate_models",
    "find_adapters",
    "read_records",
    "read_summary",
    "summarize",
    "write_summary",
]
