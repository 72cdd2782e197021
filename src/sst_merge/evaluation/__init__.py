"""Samples in, records out; measures are pure functions of records."""

from .front import hypervolume, pareto_mask
from .intervals import Estimate, mcnemar, paired_bootstrap, seed_interval, wilson_interval
from .safety_tax_calculator import (
    Composite,
    SweepPoint,
    composite,
    drift,
    drift_reduction,
    point_at_safety,
    retention,
    safety_tax,
    tax_reduction,
    utility_at_safety,
)

__all__ = [
    "Composite",
    "Estimate",
    "SweepPoint",
    "composite",
    "drift",
    "drift_reduction",
    "hypervolume",
    "mcnemar",
    "paired_bootstrap",
    "pareto_mask",
    "point_at_safety",
    "retention",
    "safety_tax",
    "seed_interval",
    "tax_reduction",
    "utility_at_safety",
    "wilson_interval",
]
