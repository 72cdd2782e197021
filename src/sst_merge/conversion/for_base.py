"""An adapter under the names of its base: what every form needs that stands beside or in the base's own tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..data_loader import PLAIN, BaseAccess, empty_model
from ..lora_utils import Adapter, BaseModelIndex, BaseWeights, check_against_base, spelled_alike, true_copies

__all__ = ["NamedForBase", "named_for_base", "parameters_of", "stored_key"]


@dataclass(frozen=True)
class NamedForBase:
    """An adapter and the base that it was checked against.

    Attributes:
        adapter: with the names and kinds of the base's layers, without whole weights that are copies of the base's.
        base: folder or hub id.
        parameters: name → shape of all parameters of the base; one that is shared has all its names.
        shared: name → all names of the same parameter, for parameters that have several (tied embeddings).
        notes: sentences about renamed modules.
    """

    adapter: Adapter
    base: str
    parameters: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def named_for_base(adapter: Adapter, base: str | Path, *, access: BaseAccess = PLAIN) -> NamedForBase:
    """Build the base without weights, and check the adapter against it.

    Args:
        adapter: any.
        base: folder with config.json, or a hub id.
        access: what may be read of the base.

    Raises:
        BaseModelError: no such base, or one that the adapter does not fit.
        AdapterError: a name that may be two of the base's layers.
    """
    built = empty_model(base, modules=adapter.modules, task_type=adapter.task_type, access=access)
    index = replace(BaseModelIndex.of(built.model, name=str(base)), class_name=built.class_name)
    (renamed,), notes = spelled_alike([adapter], index.adaptable)
    check_against_base(renamed, index)
    fitting = renamed.with_kinds(index.kinds)
    fitting = fitting.without_whole(true_copies(fitting, [base]))
    parameters, shared = parameters_of(built.model)
    return NamedForBase(fitting, str(base), parameters, shared, notes)


def parameters_of(model: nn.Module) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, ...]]]:
    """Name → shape of a model's parameters, and name → all names of those that have several."""
    shapes: dict[str, tuple[int, ...]] = {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shapes[name] = tuple(parameter.shape)
        names.setdefault(id(parameter), []).append(name)
    return shapes, {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def stored_key(name: str, shared: Mapping[str, tuple[str, ...]], weights: BaseWeights) -> str | None:
    """The tensor of a model's files that holds a parameter.

    Args:
        name: of the parameter.
        shared: of :func:`parameters_of`; a shared one is stored under one of its names.
        weights: the files. They may have been saved with or without the head that adds a prefix to all names.

    Returns:
        The tensor's name, or None where the files have none.
    """
    for other in (name, *shared.get(name, ())):
        for key in (other, other.partition(".")[2]):
            if key in weights.files:
                return key
        longer = [key for key in weights.files if key.partition(".")[2] == other]
        if len(longer) == 1:
            return longer[0]
    return None
