"""The sweeps that methods declare in their own files, found by label, and which of them an experiment takes."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..errors import ConfigError, MergeError
from ..methods import MethodSweep, TwoStageSweep, available_methods
from ..texts import did_you_mean

__all__ = ["DRIFT_SWEEPS", "METHOD_SWEEPS", "PLAIN", "TWO_STAGE_SWEEPS", "chosen_sweeps"]

PLAIN = "Task Arithmetic"
"""The bar to beat."""

AnySweep = TypeVar("AnySweep", MethodSweep, TwoStageSweep)


def _by_label(sweeps: Sequence[AnySweep]) -> dict[str, AnySweep]:
    found: dict[str, AnySweep] = {}
    for sweep in sweeps:
        if sweep.label in found:
            raise MergeError(
                f"methods {found[sweep.label].method!r} and {sweep.method!r} both declare a sweep with the label "
                f"{sweep.label!r}, which tables could not tell apart; rename one of them in its method's file"
            )
        found[sweep.label] = sweep
    return found


_DECLARED = [sweep for method in available_methods().values() for sweep in method.sweeps]
_ONE_STAGE = [sweep for sweep in _DECLARED if isinstance(sweep, MethodSweep)]

METHOD_SWEEPS: Mapping[str, MethodSweep] = _by_label([sweep for sweep in _ONE_STAGE if sweep.base == "unaligned"])
"""Label → sweep of skills and a safety adapter on the unaligned base."""

DRIFT_SWEEPS: Mapping[str, MethodSweep] = _by_label([sweep for sweep in _ONE_STAGE if sweep.base == "aligned"])
"""Label → sweep of skills alone on the aligned base, by methods that need no safety adapter there."""

TWO_STAGE_SWEEPS: Mapping[str, TwoStageSweep] = _by_label([
    sweep for sweep in _DECLARED if isinstance(sweep, TwoStageSweep)
])
"""Label → sweep of many experts."""


def chosen_sweeps(asked: Sequence[str], known: Mapping[str, AnySweep]) -> dict[str, AnySweep]:
    """Sweeps in the order asked for.

    Args:
        asked: labels, or registered names of methods, which stand for all their sweeps; none for every method, without
            the sweeps that are made on request only.
        known: label → sweep, one of the tables above.

    Returns:
        Label → sweep.

    Raises:
        ConfigError: a name that is neither the label nor the method of a known sweep.
    """
    if not asked:
        return {label: sweep for label, sweep in known.items() if not getattr(sweep, "on_request", False)}
    found: dict[str, AnySweep] = {}
    for name in asked:
        fitting = {label: sweep for label, sweep in known.items() if name in (label, sweep.method)}
        if not fitting:
            there = name in available_methods()
            why = "declares no sweep for this experiment" if there else f"is not known{did_you_mean(name, known)}"
            raise ConfigError(
                f"method {name!r} {why}; expected the name of a method or one of the labels {', '.join(known)}"
            )
        found |= {label: sweep for label, sweep in fitting.items() if label not in found}
    return found
