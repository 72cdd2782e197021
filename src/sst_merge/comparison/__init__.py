"""Merge methods side by side on the lab: the same adapters, data, strengths and prompts for every method.

What the demo and the experiments share. The top of the house: nothing imports this room but the command line.
"""

from .contestants import AS_COLLECTED, CONTESTANTS, EVERY_METHOD, SAME_AS, Contestant
from .lab_problem import Answer, LabSetup, Measure, lab_setup, skill_family
from .paths import HARD_K, SAFETY_WEIGHT, SkillsThenSafety, method_path, sst_path, sst_problem
from .sweep import SweepResult, sweep
from .updates import Update, UpdatedModel, adapters_update, core_update

__all__ = [
    "AS_COLLECTED",
    "CONTESTANTS",
    "EVERY_METHOD",
    "HARD_K",
    "SAFETY_WEIGHT",
    "SAME_AS",
    "Answer",
    "Contestant",
    "LabSetup",
    "Measure",
    "SkillsThenSafety",
    "SweepResult",
    "Update",
    "UpdatedModel",
    "adapters_update",
    "core_update",
    "lab_setup",
    "method_path",
    "skill_family",
    "sst_path",
    "sst_problem",
    "sweep",
]
