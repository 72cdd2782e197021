"""A run of suites over models: check, load, ask, judge, summarise, write."""

from .adapters import BASE_NAME, EvaluatedAdapter, check_adapters, find_adapters
from .metrics_reporter import summarize
from .run import EvaluationRun, evaluate_models
from .score_table import ScoreTable
from .settings import ModelSettings
from .summary import Comparison, Rate, Summary, read_summary, write_summary

__all__ = [
    "BASE_NAME",
    "Comparison",
    "EvaluatedAdapter",
    "EvaluationRun",
    "ModelSettings",
    "Rate",
    "ScoreTable",
    "Summary",
    "check_adapters",
    "evaluate_models",
    "find_adapters",
    "read_summary",
    "summarize",
    "write_summary",
]
