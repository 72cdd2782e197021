"""What a cell does: plain parameters in, plain results out, the same bits for the same parameters."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ..lora_utils import Adapter
from ..methods import MethodSweep
from ..worlds.lab import Lab, load_lab
from ..worlds.lab.measures import LabOutcomes
from ..worlds.lab.problem import LabSetup, lab_setup
from ..worlds.updates import Update, adapters_update
from .cells import canonical
from .updates_by_knob import sst_problem, sst_updates_by_knob, swept_updates

__all__ = ["WORK", "bits", "lab_of", "outcomes_of", "setup_of", "unpacked"]

Parameters = Mapping[str, Any]
Result = dict[str, Any]


def bits(outcomes: Mapping[str, tuple[bool, ...]]) -> dict[str, str]:
    """Outcomes of every prompt as text that a reader can count.

    Args:
        outcomes: kind → one truth value per prompt.

    Returns:
        Kind → ``1`` and ``0``.
    """
    return {kind: "".join("01"[ok] for ok in found) for kind, found in outcomes.items()}


def unpacked(text: str) -> list[float]:
    """:func:`bits` of one kind, back as scores.

    Args:
        text: of ``1`` and ``0``.

    Returns:
        One score per prompt.
    """
    return [float(mark == "1") for mark in text]


def outcomes_of(found: LabOutcomes) -> dict[str, dict[str, str]]:
    """Both sides of a lab's outcomes.

    Args:
        found: as measured.

    Returns:
        ``right`` and ``other``, kind → text.
    """
    return {"right": bits(found.right), "other": bits(found.other)}


@lru_cache(maxsize=2)
def lab_of(seed: int) -> Lab:
    """The lab of a seed, loaded once per process.

    Args:
        seed: of the lab.

    Returns:
        The lab; it builds what is missing without a progress bar.
    """
    return load_lab(seed, progress=False)


def setup_of(problem: Parameters) -> LabSetup:
    """The merge problem of a cell; cells of one problem follow each other, so the last one is kept.

    Args:
        problem: the ``problem`` section of a cell's parameters.

    Returns:
        The setup.
    """
    return _setup(canonical(problem))


@lru_cache(maxsize=1)
def _setup(problem: str) -> LabSetup:
    p = json.loads(problem)
    return lab_setup(
        lab_of(p["lab_seed"]),
        p["skills"],
        base=p["base"],
        safety=p["safety"],
        adapter_seed=p["adapter_seed"],
        harm_samples=p["harm"],
        benign_samples=p["benign"],
        skill_share=p["skill_share"],
        seed=p["seed"],
    )


def _alone(parameters: Parameters) -> Result:
    """Models that stand beside the method_sweeps: the base, single adapters, the skills' plain sum."""
    p, models = parameters["problem"], parameters["models"]
    lab = lab_of(p["lab_seed"])
    setup = setup_of(p)
    adapters = {name for names in models.values() for name in names}
    known = {a.name: a for a in setup.problem.adapters}
    for name in sorted(adapters - known.keys()):
        known[name] = Adapter.load(lab.adapter_path(name, base=p["base"], seed=p["adapter_seed"]), name=name)
    found = {}
    with setup.answering() as answer:
        for model, names in models.items():
            update = adapters_update([known[name] for name in names]) if names else None
            test = {kind: n for kind, n in parameters["test"].items() if kind in parameters["own"].get(model, [kind])}
            dev = {} if model in parameters["own"] else parameters["dev"]
            found[model] = {
                "dev": bits(answer(update, dev, split="tuning", with_other_answer=False).right),
                "test": outcomes_of(answer(update, test, split="test")),
            }
    return found


def _sweep(parameters: Parameters) -> Result:
    """One swept at all its strengths, dev and test prompts one by one."""
    setup = setup_of(parameters["problem"])
    swept = MethodSweep("", **{**parameters["swept"], "values": tuple(parameters["swept"]["values"])})
    result: Result = {}
    path: Callable[[float], Update]
    if parameters["quotients"]:
        merge = sst_problem(setup.problem, swept.options, swept.knob, swept.middle)
        path = sst_updates_by_knob(merge, swept.knob, swept.middle)
        held_out = merge.held_out()
        quotients = None if held_out is None else held_out.to_dict()
        if quotients is not None:
            quotients.pop("by_module")
        result = {"quotients": quotients, "structure": merge.structure}
    else:
        path = swept_updates(setup.problem, swept)
    # All merges come before the first measurement, for methods read the base while they prepare.
    updates = [path(value) for value in swept.values]
    dev, test = [], []
    with setup.answering() as answer:
        for update in updates:
            dev.append(bits(answer(update, parameters["dev"], split="tuning", with_other_answer=False).right))
            test.append(outcomes_of(answer(update, parameters["test"], split="test")))
    return {**result, "dev": dev, "test": test}


def _interference(parameters: Parameters) -> Result:
    from .interference_work import interference

    return interference(parameters)


def _cost(parameters: Parameters) -> Result:
    from .cost import measured_cost

    return measured_cost(parameters)


def _adapter(parameters: Parameters) -> Result:
    """Make sure that an adapter (and its base) is there."""
    lab = lab_of(parameters["lab_seed"])
    name, base = parameters["name"], parameters["base"]
    path = lab.adapter_path(name, base=base, seed=parameters["adapter_seed"]) if name else lab.base_path(base)
    return {"found": path.is_dir()}


WORK: Mapping[str, Callable[[Parameters], Result]] = {
    "adapter": _adapter,
    "alone": _alone,
    "sweep": _sweep,
    "interference": _interference,
    "cost": _cost,
}
"""Kind of cell → what it does."""
