"""How SST-Merge's strength is swept in the experiments; its single parts are varied by the ablation alone."""

from ..methods import MethodSweep, TwoStageSweep

__all__ = ["SWEEPS"]

_MU = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005)
_BUDGETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
"""Nats per benign answer token."""

_MU_ALIGNED = (30.0, 10.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
_FISHER = {"utility": "fisher"}
_WIDE = {**_FISHER, "inputs": "wide"}
_TEACHERS = {**_WIDE, "refine": "teachers"}
_ALIGNED = {"aligned_base": True}

_TARGET_RATE = 0.9
_TARGET = {"safety_target": _TARGET_RATE, "if_missed": "safest"}
"""One configuration: dev prompts choose nothing."""

_MANY = (0.8, 1.0, 1.2, 1.5, 2.0)
_MU_MANY = (10.0, 3.0, 1.0, 0.3, 0.1)
_KRONECKER = {**_FISHER, "fisher": {"structure": "kronecker"}}

SWEEPS: tuple[MethodSweep | TwoStageSweep, ...] = (
    MethodSweep("SST-Merge", _MU),
    MethodSweep("SST-Merge, strength 1.5", _MU, {"strength": 1.5}, on_request=True),
    MethodSweep("SST-Merge, Fisher utility", _MU, _FISHER, on_request=True),
    MethodSweep("SST-Merge, Fisher utility, wide inputs", _MU, _WIDE, on_request=True),
    MethodSweep("SST-Merge, block", _MU, {"fisher": {"structure": "block"}}, on_request=True),
    MethodSweep("SST-Merge, refined", _BUDGETS, {"refine": 60}, knob="tax_budget"),
    MethodSweep(
        "SST-Merge, Fisher utility, refined", _BUDGETS, {"refine": 60, **_FISHER}, knob="tax_budget", on_request=True
    ),
    MethodSweep("SST-Merge, teachers", _MU, _TEACHERS, on_request=True),
    MethodSweep("SST-Merge, safety target", (_TARGET_RATE,), _TARGET, "safety_target", on_request=True),
    MethodSweep("SST-Merge", _MU_ALIGNED, _ALIGNED, base="aligned"),
    MethodSweep("SST-Merge, Fisher utility", _MU_ALIGNED, {**_ALIGNED, **_FISHER}, base="aligned"),
    MethodSweep("SST-Merge, Fisher utility, wide inputs", _MU_ALIGNED, {**_ALIGNED, **_WIDE}, base="aligned"),
    MethodSweep("SST-Merge, teachers", _MU_ALIGNED, {**_ALIGNED, **_TEACHERS}, base="aligned", on_request=True),
    TwoStageSweep("SST-Merge", _MANY, _KRONECKER, _MU_MANY, "mu"),
    TwoStageSweep("SST-Merge, wide inputs", _MANY, {**_KRONECKER, "inputs": "wide"}, _MU_MANY, "mu"),
    TwoStageSweep("SST-Merge, teachers", _MANY, {**_KRONECKER, **_TEACHERS}, _MU_MANY, "mu"),
)
