"""Refusal, harm and incoherence: three questions, each with its own judges.

A judge is one declaration in one file (:func:`judge`). Files of this room are found by themselves, but those whose name
begins with an underscore, which are helpers; other packages name theirs by entry points of the group
``sst_merge.judges``. docs/extending/judge.md shows how to add one.
"""

from .check import JudgeCheck, LabelledAnswer, agreement, check_judge, read_labelled, run_judge_check
from .contract import Column, Judge, JudgeKind, JudgeSettings, judge
from .greedy_refusals import GreedyRefusals
from .registry import DEFAULT_JUDGES, available_judges, make_judges

__all__ = [
    "DEFAULT_JUDGES",
    "Column",
    "GreedyRefusals",
    "Judge",
    "JudgeCheck",
    "JudgeKind",
    "JudgeSettings",
    "LabelledAnswer",
    "agreement",
    "available_judges",
    "check_judge",
    "judge",
    "make_judges",
    "read_labelled",
    "run_judge_check",
]
