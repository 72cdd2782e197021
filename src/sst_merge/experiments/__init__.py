"""The three experiments on the lab: cells on disk, finished once, and reports made from them alone."""

from .cells import Cell, CellStore
from .config import ExperimentConfig, load_experiment_config

__all__ = ["Cell", "CellStore", "ExperimentConfig", "load_experiment_config"]
