"""Samples in, records out; measures are pure functions of records."""

from .drift_intervals import drift_intervals
from .drift_sweeps import DriftDraws, DriftSamples, drift_draws
from .front import hypervolume, pareto_mask
from .intervals import Estimate, mcnemar, paired_bootstrap, seed_interval, wilson_interval
from .metrics_reporter import compare_over_seeds, rates_over_seeds, summarize
from .ranking import pareto_share, rank_intervals
from .resampling import Measured
from .retention_curve import retention_curve
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
from .score_table import ScoreTable, sweep_samples
from .seed_sweeps import SeedSweep, SeedSweepSamples, reduction, seed_draws, seed_sweeps
from .seeds import hierarchical_bootstrap, seed_rate_interval
from .summary import Comparison, Rate, Summary, read_summary, write_summary
from .sweep_intervals import SweepEstimates, SweepSamples, sweep_intervals

__all__ = [
    "Comparison",
    "Composite",
    "DriftDraws",
    "DriftSamples",
    "Estimate",
    "Measured",
    "Rate",
    "ScoreTable",
    "SeedSweep",
    "SeedSweepSamples",
    "Summary",
    "SweepEstimates",
    "SweepPoint",
    "SweepSamples",
    "compare_over_seeds",
    "composite",
    "drift",
    "drift_draws",
    "drift_intervals",
    "drift_reduction",
    "hierarchical_bootstrap",
    "hypervolume",
    "mcnemar",
    "paired_bootstrap",
    "pareto_mask",
    "pareto_share",
    "point_at_safety",
    "rank_intervals",
    "rates_over_seeds",
    "read_summary",
    "reduction",
    "retention",
    "retention_curve",
    "safety_tax",
    "seed_draws",
    "seed_interval",
    "seed_rate_interval",
    "seed_sweeps",
    "summarize",
    "sweep_intervals",
    "sweep_samples",
    "tax_reduction",
    "utility_at_safety",
    "wilson_interval",
    "write_summary",
]
