"""Refusal, harm and incoherence: three questions, each with its own judges."""

from .base import Column, Judge
from .check import JudgeCheck, LabelledAnswer, agreement, check_judge, read_labelled, run_judge_check
from .make import DEFAULT_JUDGES, JUDGES, make_judges

__all__ = [
    "DEFAULT_JUDGES",
    "JUDGES",
    "Column",
    "Judge",
    "JudgeCheck",
    "LabelledAnswer",
    "agreement",
    "check_judge",
    "make_judges",
    "read_labelled",
    "run_judge_check",
]
