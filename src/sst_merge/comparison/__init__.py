"""Merge methods side by side on the lab: the same adapters, data, strengths and prompts for every method.

What the demo and the experiments share. The top of the house: nothing imports this room but the command line.
"""

from .contestants import CONTESTANTS, EVERY_METHOD, SAME_AS, Contestant
from .lab_problem import Answer, LabSetup, Measure, lab_setup, skill_family
from .paths import SAFETY_WEIGHT
from .sweep import SweepResult, sweep
from .updates import Update, UpdatedModel, adapters_update, core_update

__all__ = [
    "CONTESTANTS",
    "EVERY_METHOD",
    "SAFETY_WEIGHT",
    "SAME_AS",
    "Answer",
    "Contestant",
    "LabSetup",
    "Measure",
    "SweepResult",
    "Update",
    "UpdatedModel",
    "adapters_update",
    "core_update",
    "lab_setup",
    "skill_family",
    "sweep",
]
