"""Models beside the merges: the base, single adapters, the skills' plain sum."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..worlds.merge_setup import MergeSetup
from ..worlds.updates import adapters_update
from .outcome_texts import outcome_texts, right_texts
from .setups import setup_of

__all__ = ["measured_models", "single_models_cell"]


def measured_models(
    setup: MergeSetup,
    models: Mapping[str, Sequence[str]],
    *,
    dev: Mapping[str, int],
    test: Mapping[str, int],
    own: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Ask about every model.

    Args:
        setup: the merge and its world.
        models: model → names of the adapters that are added to the base.
        dev: kind → dev prompts, of which right answers alone are looked for.
        test: kind → test prompts.
        own: models that are asked these kinds of test prompts alone, and no dev prompts.

    Returns:
        Model → ``dev`` (:func:`.right_texts`) and ``test`` (:func:`.outcome_texts`).
    """
    known = {adapter.name: adapter for adapter in setup.problem.adapters}
    known |= {name: setup.loaded(name) for names in models.values() for name in names if name not in known}
    found = {}
    with setup.answering() as answer:
        for model, names in models.items():
            update = adapters_update([known[name] for name in names]) if names else None
            asked = {kind: n for kind, n in test.items() if kind in own.get(model, [kind])}
            first = answer(update, {} if model in own else dev, split="dev", right_only=True)
            found[model] = {
                "dev": right_texts(first),
                "test": outcome_texts(answer(update, asked, split="test")),
            }
    return found


def single_models_cell(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell of kind ``alone`` does.

    Args:
        parameters: ``problem`` and the arguments of :func:`measured_models`.

    Returns:
        As there.
    """
    asked = {name: parameters[name] for name in ("dev", "test", "own")}
    return measured_models(setup_of(parameters["problem"]), parameters["models"], **asked)
