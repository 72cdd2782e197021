"""Who takes part where: method_sweeps of drift and of many experts, and the variants of SST-Merge's ablation.

Every swept of one experiment has the same number of strengths over its own useful range; dev prompts choose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from .cells import canonical
from .method_sweeps import AS_COLLECTED, EVERY_METHOD, METHOD_SWEEPS, MethodSweep
from .paths import HARD_K

if TYPE_CHECKING:
    from .config import AblationConfig

__all__ = [
    "TWO_STAGE_SWEEPS",
    "DRIFT_SWEEPS",
    "PLAIN",
    "TwoStageSweep",
    "ablation_line_up",
    "chosen_labels",
    "sweep_line_up",
]

PLAIN = "Task Arithmetic"
"""The bar to beat."""

# From the whole of every task to little of it: what plain merging can do for safety is to merge less.
_LESS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_LESS_AVERAGED = (3.0, 2.5, 2.0, 1.6, 1.3, 1.0, 0.8, 0.6, 0.4)
_MU = (30.0, 10.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)


def _less(label: str, method: str, values: tuple[float, ...] = _LESS, **options: Any) -> MethodSweep:
    return MethodSweep(label, method, values, options, "strength", prepare_once=method in {"fisher_merging", "regmean"})


_ALIGNED = {"aligned_base": True}
DRIFT_SWEEPS: Mapping[str, MethodSweep] = {
    c.label: c
    for c in (
        _less(PLAIN, "task_arithmetic"),
        _less("TIES", "ties", _LESS_AVERAGED),
        _less("DARE linear", "dare_linear", density=0.5),
        _less("Subspace Boosting", "subspace_boosting"),
        _less("KnOTS", "knots", _LESS_AVERAGED),
        _less("TSV-M", "tsv_m"),
        _less("Iso-C", "iso_c"),
        _less("Fisher merging", "fisher_merging", _LESS_AVERAGED),
        _less("RegMean", "regmean", _LESS_AVERAGED),
        MethodSweep("AlignGuard-LoRA", "alignguard_lora", (0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0), _ALIGNED,
                   prepare_once=True),
        MethodSweep(
            "AlignGuard-LoRA, kronecker", "alignguard_lora", (0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0),
            {**_ALIGNED, "structure": "kronecker"}, prepare_once=True,
        ),
        MethodSweep(
            "AlignGuard-LoRA, penalty", "alignguard_lora", (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
            {**_ALIGNED, "mode": "penalty"}, prepare_once=True,
        ),
        MethodSweep("Safe LoRA", "safe_lora", (-0.1, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)),
        MethodSweep("RESTA", "resta", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), prepare_once=True),
        MethodSweep("RESTA with DARE", "resta_dare", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), {"drop": 0.5},
                   prepare_once=True),
        MethodSweep("MergeAlign", "mergealign", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), prepare_once=True),
        MethodSweep("Safe Delta", "safe_delta", (1.0, 0.8, 0.6, 0.4, 0.25, 0.11, 0.06, 0.03, 0.01), _ALIGNED),
        MethodSweep("SST-Merge", "sst", _MU, _ALIGNED),
        MethodSweep("SST-Merge, Fisher utility", "sst", _MU, {**_ALIGNED, "utility": "fisher"}),
        MethodSweep("SST-Merge, Fisher utility, wide inputs", "sst", _MU,
                   {**_ALIGNED, "utility": "fisher", "inputs": "wide"}),
        MethodSweep(
            "SST-Merge, Fisher utility, no shrinkage", "sst", _MU,
            {**_ALIGNED, "utility": "fisher", "output_shrinkage": 0.0},
        ),
        MethodSweep(
            "SST-Merge, Fisher utility, as collected", "sst", _MU,
            {**_ALIGNED, "utility": "fisher", **AS_COLLECTED},
        ),
    )
}  # fmt: skip
"""Methods that need no safety adapter, because the base itself is aligned."""


@dataclass(frozen=True)
class TwoStageSweep:
    """A method that merges many experts, in two stages: strength of the skills, then safety on top.

    Attributes:
        label: as printed.
        method: registered name.
        strengths: λ of the skills alone, chosen by dev retention.
        options: other settings.
        shares: how much safety; for ``added`` the safety update's own factor, for ``averaged`` its share of the
            average, for ``mu`` μ of SST-Merge's filter. From weak to strong.
        safety: how safety enters.
    """

    label: str
    method: str
    strengths: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[float, ...] = (0.5, 0.7, 0.85, 1.0, 1.25)
    safety: Literal["added", "averaged", "mu"] = "added"

    def safety_weight(self, share: float, strength: float, experts: int) -> float:
        """Weight of the safety adapter, a skill's being 1.

        Args:
            share: one of :attr:`shares`.
            strength: λ that multiplies the whole merge.
            experts: number of skills.

        Returns:
            The weight.
        """
        return share / strength if self.safety == "added" else experts * share / (1 - share)


_SUMS = (0.2, 0.3, 0.45, 0.7, 1.0)
_AVERAGES = (0.7, 1.0, 1.5, 2.2, 3.0)
_SHARES = (0.2, 0.4, 0.55, 0.7, 0.85)


def _summed(label: str, method: str, **options: Any) -> TwoStageSweep:
    return TwoStageSweep(label, method, _SUMS, options)


def _averaged(label: str, method: str, **options: Any) -> TwoStageSweep:
    return TwoStageSweep(label, method, _AVERAGES, options, _SHARES, "averaged")


def _fisher_weighted(label: str, **options: Any) -> TwoStageSweep:
    given = {"utility": "fisher", "fisher": {"structure": "kronecker"}, **options}
    return TwoStageSweep(label, "sst", (0.8, 1.0, 1.2, 1.5, 2.0), given, (10.0, 3.0, 1.0, 0.3, 0.1), "mu")


TWO_STAGE_SWEEPS: Mapping[str, TwoStageSweep] = {
    c.label: c
    for c in (
        _summed(PLAIN, "task_arithmetic"),
        _averaged("TIES", "ties"),
        _summed("DARE linear", "dare_linear", density=0.5),
        _summed("Subspace Boosting", "subspace_boosting"),
        _averaged("KnOTS", "knots"),
        _summed("TSV-M", "tsv_m"),
        _averaged("RegMean", "regmean"),
        _averaged("Fisher merging", "fisher_merging"),
        _averaged("Fisher merging, kronecker", "fisher_merging", structure="kronecker"),
        _fisher_weighted("SST-Merge"),
        _fisher_weighted("SST-Merge, wide inputs", inputs="wide"),
        _fisher_weighted("SST-Merge, no shrinkage", output_shrinkage=0.0),
        _fisher_weighted("SST-Merge, as collected", **AS_COLLECTED),
    )
}  # fmt: skip
"""Methods that merge many experts."""


def chosen_labels(asked: Sequence[str], known: Mapping[str, object], default: Sequence[str] | None = None) -> list[str]:
    """Labels in the order asked for.

    Args:
        asked: labels, or registered names of methods; none for the default.
        known: label → swept.
        default: all known ones by default.

    Returns:
        The labels.

    Raises:
        ConfigError: a name that fits nobody here.
    """
    if not asked:
        return list(known if default is None else default)
    found: list[str] = []
    for name in asked:
        fitting = [name] if name in known else [k for k, c in known.items() if getattr(c, "method", None) == name]
        if not fitting:
            raise ConfigError(f"method {name!r} takes no part here; there are {', '.join(known)}")
        found += [label for label in fitting if label not in found]
    return found


def sweep_line_up(asked: Sequence[str]) -> dict[str, MethodSweep]:
    """MethodSweeps on the unaligned base; every registered method by default.

    Args:
        asked: labels or registered names.

    Returns:
        Label → swept.
    """
    labels = chosen_labels(asked, METHOD_SWEEPS, EVERY_METHOD)
    return {label: METHOD_SWEEPS[label] for label in labels}


def ablation_line_up(config: "AblationConfig") -> dict[str, tuple[MethodSweep, Mapping[str, Any]]]:
    """SST-Merge with one part changed at a time, and a small cross of structures and points.

    Args:
        config: which values.

    Returns:
        Label → (swept, what its problem has otherwise: numbers of calibration samples, share of skill data).
    """
    from ..methods import get_method, parse_options

    mu, method = METHOD_SWEEPS["SST-Merge"].values, get_method("sst")
    found: dict[str, tuple[MethodSweep, Mapping[str, Any]]] = {}
    seen = set[str]()

    def add(label: str, options: Mapping[str, Any], otherwise: Mapping[str, Any] | None = None) -> None:
        # A value that is the default, or stands in the cross, too, is one variant.
        same = parse_options(method, options).model_dump_json() + canonical(otherwise or {})
        if same not in seen:
            seen.add(same)
            found[label] = (MethodSweep(label, "sst", mu, options), otherwise or {})

    add("defaults", {})
    for name, values in (("structure", config.structures), ("estimator", config.estimators), ("point", config.points)):
        for value in values:
            add(f"{name} {value}", {"fisher": {name: value}})
    for value in config.combines:
        add(f"combine {value}", {"combine": value})
    if config.hard_filter:
        hard = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 96.0, 144.0, 200.0)
        found["hard filter"] = (MethodSweep("hard filter", "sst", hard, {}, HARD_K), {})
    for rho in config.damping:
        add(f"damping {rho:g}", {"damping": rho})
    for n in config.samples:
        add(f"{n} samples", {}, {"harm": n, "benign": n})
    if config.without_skill_data:
        add("without the skills' data", {}, {"skill_share": 0.0})
    for structure, point in product(config.cross_structures, config.cross_points):
        add(f"{structure}, {point} point", {"fisher": {"structure": structure, "point": point}})
    found["random subspace"] = (METHOD_SWEEPS["Random subspace"], {})
    return found
