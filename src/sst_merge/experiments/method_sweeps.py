"""Who takes part in a comparison: a method, its settings, and the strengths it is swept over.

Every swept gets the same number of strengths, spread over its own useful range, from weak to strong safety;
which of them is used is decided on dev prompts. A method with a knob for safety is swept over that; one without is
swept over the weight of the safety adapter, which leaves the skill as it is and so is kinder to it than λ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..methods import MergeProblem, get_method
from ..worlds.updates import Update
from .paths import SAFETY_WEIGHT, sst_problem, sst_updates_by_knob, updates_by_knob

__all__ = ["METHOD_SWEEPS", "EVERY_METHOD", "SAME_AS", "MethodSweep"]


@dataclass(frozen=True)
class MethodSweep:
    """A method with settings and its sweep.

    Attributes:
        label: as printed.
        method: registered name.
        values: of the knob, from weak to strong safety.
        options: other settings.
        knob: the option that is swept; the method's own by default.
        prepare_once: whether the method's preparation does not read the knob, so that one serves the whole sweep.
    """

    label: str
    method: str
    values: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    knob: str | None = None
    prepare_once: bool = False

    @property
    def middle(self) -> float:
        """The value in the middle of the sweep."""
        return self.values[len(self.values) // 2]

    def path(self, problem: MergeProblem) -> Callable[[float], Update]:
        """Merged updates as a function of the knob; what does not depend on the knob is computed once.

        Args:
            problem: the merge.

        Returns:
            knob value → update.
        """
        knob = self.knob or get_method(self.method).knob
        if self.method == "sst":
            return sst_updates_by_knob(sst_problem(problem, self.options, knob, self.middle), knob, self.middle)
        return updates_by_knob(problem, self.method, self.options, knob, prepare_once=self.prepare_once)


AS_COLLECTED: Mapping[str, Any] = {"equal_traces": False, "output_shrinkage": 0.0}
"""The skills' Fishers of ``utility: fisher`` as they are collected."""

_MU = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005)
_SST: Mapping[str, Mapping[str, Any]] = {
    "SST-Merge": {},
    "SST-Merge, Fisher utility": {"utility": "fisher"},
    "SST-Merge, Fisher utility, wide inputs": {"utility": "fisher", "inputs": "wide"},
    "SST-Merge, Fisher utility, no shrinkage": {"utility": "fisher", "output_shrinkage": 0.0},
    "SST-Merge, Fisher utility, as collected": {"utility": "fisher", **AS_COLLECTED},
    "SST-Merge, interpolate": {"combine": "interpolate"},
    **{f"SST-Merge, {s}": {"fisher": {"structure": s}} for s in ("diagonal", "block", "lowrank")},
    **{f"SST-Merge, {e} labels": {"fisher": {"estimator": e}} for e in ("empirical", "sampled")},
    **{f"SST-Merge, {point} point": {"fisher": {"point": point}} for point in ("merged", "own", "base")},
}
_BUDGETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)

# Ranges of the safety adapter's weight (or of the safety update's own factor).
_SUM = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
_TRIMMED = (0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4, 3.2)
_AVERAGE = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0)
_SHARE = (0.2, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
_HARM_WEIGHT = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 5.0, 15.0)


def _by_weight(
    label: str, method: str, values: tuple[float, ...], *, once: bool = False, **options: Any
) -> MethodSweep:
    return MethodSweep(label, method, values, options, SAFETY_WEIGHT, once)


METHOD_SWEEPS: Mapping[str, MethodSweep] = {
    c.label: c
    for c in (
        MethodSweep("Task Arithmetic", "task_arithmetic", _SUM),
        MethodSweep("Task Arithmetic, interpolated", "task_arithmetic", _SHARE, {"combine": "interpolate"}),
        MethodSweep("Random subspace", "random_subspace", (0.8, 1.4, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0, 4.8)),
        *(MethodSweep(label, "sst", _MU, options) for label, options in _SST.items()),
        MethodSweep("SST-Merge, refined", "sst", _BUDGETS, {"refine": 60}, knob="tax_budget"),
        MethodSweep(
            "SST-Merge, Fisher utility, refined",
            "sst",
            _BUDGETS,
            {"refine": 60, "utility": "fisher"},
            knob="tax_budget",
        ),
        _by_weight("Weighted average", "linear", _AVERAGE),
        _by_weight("Weighted average × 2", "linear", _AVERAGE, strength=2.0),
        _by_weight("TIES", "ties", _TRIMMED),
        _by_weight("TIES, density 1", "ties", _TRIMMED, density=1.0),
        _by_weight("DARE linear", "dare_linear", _SUM),
        _by_weight("DARE linear, density 0.5", "dare_linear", _SUM, density=0.5),
        _by_weight("DARE TIES", "dare_ties", _TRIMMED),
        _by_weight("Magnitude pruning", "magnitude_prune", _TRIMMED),
        _by_weight("DELLA", "della", _TRIMMED),
        _by_weight("Breadcrumbs", "breadcrumbs", _SUM),
        _by_weight("SCE", "sce", _AVERAGE),
        _by_weight("Subspace Boosting", "subspace_boosting", _SUM),
        _by_weight("KnOTS", "knots", _TRIMMED),
        _by_weight("TIES on the core", "core_ties", _TRIMMED),
        _by_weight("DARE on the core", "core_dare", _SUM),
        _by_weight("TSV-M", "tsv_m", _SUM),
        _by_weight("Iso-C", "iso_c", _SUM),
        _by_weight("Iso-CTS", "iso_cts", _SUM),
        _by_weight("Model Stock", "model_stock", _AVERAGE),
        _by_weight("Fisher merging", "fisher_merging", _AVERAGE, once=True),
        _by_weight("Fisher merging, kronecker", "fisher_merging", _AVERAGE, once=True, structure="kronecker"),
        _by_weight("RegMean", "regmean", _AVERAGE),
        MethodSweep("AdaMerging", "ada_merging", _HARM_WEIGHT),
        MethodSweep("Layer-wise interpolation", "layer_interpolation", _HARM_WEIGHT),
        MethodSweep("AlignGuard-LoRA", "alignguard_lora", _SUM, knob="safety_strength", prepare_once=True),
        MethodSweep(
            "AlignGuard-LoRA, kronecker", "alignguard_lora", _SUM, {"structure": "kronecker"}, "safety_strength", True
        ),
        MethodSweep("AlignGuard-LoRA, penalty", "alignguard_lora", _SUM, {"mode": "penalty"}, "safety_strength", True),
        MethodSweep("Safe LoRA", "safe_lora", _SUM, {}, "safety_strength", True),
        MethodSweep("SafeMERGE", "safe_merge", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), prepare_once=True),
        MethodSweep("RESTA", "resta", _SUM, prepare_once=True),
        MethodSweep("RESTA with DARE", "resta_dare", _SUM, {"drop": 0.5}, prepare_once=True),
        MethodSweep("MergeAlign", "mergealign", _SHARE, prepare_once=True),
        _by_weight("LED-Merging", "led_merging", _TRIMMED, once=True),
        MethodSweep("Safe Delta", "safe_delta", (1.0, 0.8, 0.6, 0.4, 0.25, 0.11, 0.06, 0.03, 0.01)),
        MethodSweep("Benign null space", "benign_null_space", _TRIMMED, prepare_once=True),
    )
}

SAME_AS: Mapping[str, str] = {"svd": "Task Arithmetic"}
"""Registered methods that need no sweep of their own: ``svd`` without a cut is the plain sum."""

EVERY_METHOD: tuple[str, ...] = tuple(
    label for label, c in METHOD_SWEEPS.items() if c.method != "sst" or label in {"SST-Merge", "SST-Merge, refined"}
)
"""One or a few method_sweeps of each registered method; SST-Merge's own parts are left to its ablation."""
