"""How SST-Merge's strength is swept in the experiments; its single parts are varied by the ablation alone."""

from ..methods import MethodSweep, TwoStageSweep

__all__ = ["SWEEPS"]

_MU = (30.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.05, 0.01)
_MU_CORE = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005)
_BUDGETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
"""Nats per benign answer token."""

_MU_ALIGNED = (30.0, 10.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
_CORE = {"inputs": "core"}
_CORE_FISHER = {**_CORE, "utility": "fisher"}
_TEACHERS = {"refine": "teachers"}
_CLOSED = {"refine": 0}
_ALIGNED = {"aligned_base": True}

_TARGET_RATE = 0.9
_TARGET = {"safety_target": _TARGET_RATE, "if_missed": "safest"}
"""One configuration: dev prompts choose nothing."""

_MANY = (0.8, 1.0, 1.2, 1.5, 2.0)
_MU_MANY = (10.0, 3.0, 1.0, 0.3, 0.1)

SWEEPS: tuple[MethodSweep | TwoStageSweep, ...] = (
    MethodSweep("SST-Merge", _MU),
    MethodSweep("SST-Merge, core inputs", _MU_CORE, _CORE),
    MethodSweep("SST-Merge, core inputs, strength 1.5", _MU_CORE, {**_CORE, "strength": 1.5}, on_request=True),
    MethodSweep("SST-Merge, core inputs, Fisher utility", _MU_CORE, _CORE_FISHER, on_request=True),
    MethodSweep("SST-Merge, block", _MU_CORE, {"fisher": {"structure": "block"}}, on_request=True),
    MethodSweep("SST-Merge, core inputs, refined", _BUDGETS, {**_CORE, "refine": 60}, knob="tax_budget"),
    MethodSweep("SST-Merge, closed form", _MU, _CLOSED, on_request=True),
    MethodSweep("SST-Merge, teachers", _MU, _TEACHERS, on_request=True),
    MethodSweep("SST-Merge, safety target", (_TARGET_RATE,), _TARGET, "safety_target", on_request=True),
    MethodSweep("SST-Merge", _MU_ALIGNED, _ALIGNED, base="aligned"),
    MethodSweep("SST-Merge, core inputs", _MU_ALIGNED, {**_ALIGNED, **_CORE}, base="aligned"),
    MethodSweep("SST-Merge, core inputs, Fisher utility", _MU_ALIGNED, {**_ALIGNED, **_CORE_FISHER}, base="aligned"),
    MethodSweep("SST-Merge, closed form", _MU_ALIGNED, {**_ALIGNED, **_CLOSED}, base="aligned", on_request=True),
    MethodSweep("SST-Merge, teachers", _MU_ALIGNED, {**_ALIGNED, **_TEACHERS}, base="aligned", on_request=True),
    TwoStageSweep("SST-Merge", _MANY, {}, _MU_MANY, "mu"),
    TwoStageSweep("SST-Merge, core inputs", _MANY, _CORE_FISHER, _MU_MANY, "mu"),
    TwoStageSweep("SST-Merge, closed form", _MANY, _CLOSED, _MU_MANY, "mu"),
)
