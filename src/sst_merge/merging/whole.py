"""Whole weights of a merge: no method can merge a head, so it comes from one adapter as it is, or stays out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import MergeError
from ..lora_utils import Adapter, WholeWeight, excluding_name, fitting_task_type, heads_of, saved_part
from ..texts import did_you_mean

__all__ = ["CarriedWeights", "carried_weights", "written_task_type"]


@dataclass(frozen=True)
class CarriedWeights:
    """What the output holds beside the merged factors.

    Attributes:
        tensors: canonical tensor name → whole weight.
        origin: canonical tensor name → adapter that it comes from.
        modules_to_save: PEFT's field of that name.
    """

    tensors: Mapping[str, WholeWeight] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """What the user should know about them, one sentence an adapter."""
        found = []
        for adapter in dict.fromkeys(self.origin.values()):
            names = [name for name, origin in self.origin.items() if origin == adapter]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            found.append(
                f"whole weights are written as they are, not merged: {names[0]!r}{more}, of adapter {adapter!r}; no "
                f"weight, strength or data of the merge acts on them"
            )
        return found


def carried_weights(adapters: Sequence[Adapter], modules: Collection[str], *, chosen: str | None) -> CarriedWeights:
    """Choose one adapter for every module that some adapters have whole weights of.

    Args:
        adapters: what is merged.
        modules: canonical names of the modules that the merge writes factors of.
        chosen: adapter that decides where several disagree.

    Returns:
        The weights: of the one adapter that has them, of the first where all agree, of the chosen one otherwise.

    Raises:
        MergeError: adapters disagree and none is chosen, the chosen one has no such weights, or there are factors of
            the same module.
    """
    names = [adapter.name for adapter in adapters]
    if chosen is not None and chosen not in names:
        raise MergeError(
            f"modules_to_save_from is {chosen!r}{did_you_mean(chosen, names)}, but the adapters are "
            f"{', '.join(names)}; give one of these names"
        )
    owners: dict[str, list[Adapter]] = {}
    for adapter in adapters:
        for part in dict.fromkeys(_part(adapter, name) for name in adapter.whole):
            owners.setdefault(part, []).append(adapter)
    tensors: dict[str, WholeWeight] = {}
    origin: dict[str, str] = {}
    for part, having in owners.items():
        _check_no_factors(part, having[0], modules)
        taken = _decided(part, having, chosen)
        for name, weight in _of_part(taken, part).items():
            tensors[name], origin[name] = weight, taken.name
    named = {name for adapter in adapters for name in adapter.modules_to_save}
    held = tuple(sorted(name for name in named if any(saved_part(tensor, (name,)) for tensor in tensors)))
    task_type, _ = written_task_type(adapters, tensors)
    for module in modules:
        # PEFT makes no LoRA layer of what it takes for a whole weight, by the names of a task's heads as well.
        if (shut_out := excluding_name(module, {*held, *heads_of(task_type)})) is not None:
            raise MergeError(_both(module, shut_out))
    return CarriedWeights(tensors, origin, held)


def written_task_type(adapters: Sequence[Adapter], whole: Collection[str]) -> tuple[str | None, list[str]]:
    """The output's task type: one whose head is in it, else the first that PEFT opens without a head.

    Args:
        adapters: what is merged.
        whole: canonical names of the whole weights that are written.

    Returns:
        The type or None, and sentences for the user.
    """
    named = [adapter.task_type for adapter in adapters if adapter.task_type is not None]
    fitting = [task for task in named if fitting_task_type(task, whole) is not None]
    with_head = [task for task in fitting if any(saved_part(name, heads_of(task)) for name in whole)]
    written = next(iter([*with_head, *fitting]), None)
    warnings = []
    for task in dict.fromkeys(named):
        if task not in fitting and heads_of(task):
            warnings.append(
                f"task type {task} needs a head ({' or '.join(heads_of(task))}) that is not in the output; it is "
                f"written with task type {written or 'null'}, so that PEFT opens it onto a model that has its own head"
            )
        elif task not in fitting:
            warnings.append(f"task type {task!r} is none of PEFT's; {written or 'null'} is written instead")
    if len(set(fitting)) > 1:
        warnings.append(
            f"the adapters name different task types ({', '.join(sorted(set(fitting)))}); {written} is written"
        )
    return written, warnings


def _part(adapter: Adapter, tensor: str) -> str:
    """The module that stands or falls as a whole with a tensor."""
    names = (*adapter.modules_to_save, *heads_of(adapter.task_type))
    return saved_part(tensor, names) or tensor.rpartition(".")[0]


def _of_part(adapter: Adapter, part: str) -> dict[str, WholeWeight]:
    return {name: weight for name, weight in adapter.whole.items() if _part(adapter, name) == part}


def _decided(part: str, having: Sequence[Adapter], chosen: str | None) -> Adapter:
    found = next((adapter for adapter in having if adapter.name == chosen), None)
    if found is not None:
        return found
    first, *others = having
    mine = _of_part(first, part)
    for other in others:
        theirs = _of_part(other, part)
        if (difference := _difference(mine, theirs)) is not None:
            why = "" if chosen is None else f" (modules_to_save_from is {chosen!r}, which has none)"
            raise MergeError(
                f"adapters {first.name!r} and {other.name!r} have different whole weights of {part!r}: {difference}; "
                f"no method merges them{why}. Choose whose are written: modules_to_save_from={first.name!r} "
                f"(--modules-to-save-from {first.name}), or leave them out: --drop-modules-to-save"
            )
    return first


def _difference(mine: Mapping[str, WholeWeight], theirs: Mapping[str, WholeWeight]) -> str | None:
    if missing := sorted(mine.keys() ^ theirs.keys()):
        return f"only one of them has {missing[0]!r}"
    for name, weight in mine.items():
        if weight.shape != theirs[name].shape:
            return f"{name!r} is {weight.shape} and {theirs[name].shape}"
        if not weight.same_as(theirs[name]):
            return f"the values of {name!r}"
    return None


def _check_no_factors(part: str, owner: Adapter, modules: Collection[str]) -> None:
    for module in modules:
        if module == part or module.startswith(f"{part}."):
            raise MergeError(_both(module, f"{part} of adapter {owner.name!r}"))


def _both(module: str, whole: str) -> str:
    return (
        f"module {module!r} has LoRA factors in one adapter and a whole weight in another ({whole}); PEFT cannot hold "
        f"both. Leave one of the two adapters out, or the whole weights of all: drop_modules_to_save=True "
        f"(--drop-modules-to-save)"
    )
