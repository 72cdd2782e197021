"""SST-Merge with one part changed at a time: the variants of the ablation in experiment 3."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from ..methods import MethodSweep, get_method, parse_options
from .cells import canonical
from .method_sweeps import METHOD_SWEEPS
from .updates_by_knob import HARD_K

if TYPE_CHECKING:
    from .config import AblationConfig

__all__ = ["ablation_sweeps"]

_PARTS: Mapping[str, Mapping[str, Any]] = {
    "closed form": {"refine": 0},
    "core inputs": {"inputs": "core"},
    "core inputs, teachers": {"inputs": "core", "refine": "teachers"},
}
"""What the default adds to the filter on the core, one part taken away at a time."""

_HARD_K = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 96.0, 144.0, 200.0)


def ablation_sweeps(config: "AblationConfig") -> dict[str, tuple[MethodSweep, Mapping[str, Any]]]:
    """SST-Merge with one part changed at a time, and a small cross of structures and points.

    Args:
        config: which values.

    Returns:
        Label → (sweep, what its problem has otherwise: numbers of calibration samples, share of skill data).
    """
    standard, method = METHOD_SWEEPS["SST-Merge"], get_method("sst")
    found: dict[str, tuple[MethodSweep, Mapping[str, Any]]] = {}
    seen = set[str]()

    def add(label: str, options: Mapping[str, Any], otherwise: Mapping[str, Any] | None = None) -> None:
        # A value that is the default, or is part of the cross as well, is one variant.
        same = parse_options(method, options).model_dump_json() + canonical(otherwise or {})
        if same not in seen:
            seen.add(same)
            found[label] = (replace(standard, label=label, options=options), otherwise or {})

    add("defaults", {})
    if config.parts:
        for label, options in _PARTS.items():
            add(label, options)
    for name, values in (("structure", config.structures), ("estimator", config.estimators), ("point", config.points)):
        for value in values:
            add(f"{name} {value}", {"fisher": {name: value}})
    for value in config.combines:
        add(f"combine {value}", {"combine": value})
    if config.hard_filter:
        found["hard filter"] = (replace(standard, label="hard filter", values=_HARD_K, knob=HARD_K), {})
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
