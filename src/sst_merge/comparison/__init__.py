"""Merge methods side by side on the lab: the same adapters, data, strengths and prompts for every method.

What the demo and the experiments share. The top of the house: nothing imports this room but the command line.
"""

from .contestants import CONTESTANTS, Contestant
from .lab_problem import LabSetup, lab_setup
from .sweep import SweepResult, measure_cores, sweep

__all__ = ["CONTESTANTS", "Contestant", "LabSetup", "SweepResult", "lab_setup", "measure_cores", "sweep"]
