"""A method over its whole range of strengths: dev and test prompts one by one, for cells and for the demo."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..methods import MethodSweep
from ..worlds.merge_setup import MergeSetup
from ..worlds.updates import Update
from .outcome_texts import outcome_texts, right_texts
from .setups import setup_of
from .updates_by_knob import sst_problem, sst_updates_by_knob, swept_updates

__all__ = ["measured_sweep", "sweep_cell"]


def measured_sweep(
    setup: MergeSetup,
    path: Callable[[float], Update],
    values: Sequence[float],
    *,
    dev: Mapping[str, int],
    test: Mapping[str, int],
    tick: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Ask about every strength of one method.

    Args:
        setup: the merge and its world.
        path: knob value → update.
        values: of the knob.
        dev: kind → dev prompts, of which right answers alone are looked for.
        test: kind → test prompts.
        tick: called after every strength.

    Returns:
        ``dev``: per strength :func:`.right_texts`; ``test``: per strength :func:`.outcome_texts`.
    """
    # All merges come before the first measurement, for methods read the base while they prepare.
    updates = [path(value) for value in values]
    found: dict[str, Any] = {"dev": [], "test": []}
    with setup.answering() as answer:
        for update in updates:
            found["dev"].append(right_texts(answer(update, dev, split="dev", right_only=True)))
            found["test"].append(outcome_texts(answer(update, test, split="test")))
            if tick is not None:
                tick()
    return found


def sweep_cell(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell of kind ``sweep`` does.

    Args:
        parameters: ``problem``, ``swept``, ``dev`` and ``test`` (kind → prompts), and ``quotients``: whether the
            safety efficiency of SST-Merge's directions on held-out samples is wanted.

    Returns:
        As :func:`measured_sweep`, with ``quotients`` and ``structure`` where asked for.
    """
    setup = setup_of(parameters["problem"])
    swept = MethodSweep("", **{**parameters["swept"], "values": tuple(parameters["swept"]["values"])})
    more: dict[str, Any] = {}
    if parameters["quotients"]:
        merge = sst_problem(setup.problem, swept.options, swept.knob, swept.middle)
        path = sst_updates_by_knob(merge, swept.knob, swept.middle)
        held_out = merge.held_out()
        quotients = None if held_out is None else held_out.to_dict()
        if quotients is not None:
            quotients.pop("by_module")
        more = {"quotients": quotients, "structure": merge.structure}
    else:
        path = swept_updates(setup.problem, swept)
    return more | measured_sweep(setup, path, swept.values, dev=parameters["dev"], test=parameters["test"])
