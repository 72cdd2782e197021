"""One layer under two names: adapters of one base that were trained on different classes of model.

``AutoModel`` calls ``layers.0.mlp.up_proj`` what ``AutoModelForCausalLM`` calls ``model.layers.0.mlp.up_proj``, and the
same layer of a model with pictures is ``model.language_model.layers.0…`` or, before transformers 4.52,
``language_model.model.layers.0…``. Merged as they are, such adapters would share nothing, and whoever loads the result
would lose half of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..errors import AdapterError
from .adapter import Adapter
from .wrappers import plain_key

__all__ = ["spelled_alike"]

# Leading segments that only say in what the language model, or the whole model, was put.
_CONTAINERS = frozenset({"base_model", "language_model", "llm", "model", "text_model", "transformer"})
# Leading segments that name a part of a model, beside which the same names may stand again.
_PARTS = frozenset({"audio_tower", "decoder", "encoder", "mtp", "vision_model", "vision_tower", "visual"})


def spelled_alike(
    adapters: Sequence[Adapter], known: Collection[str] = ()
) -> tuple[tuple[Adapter, ...], tuple[str, ...]]:
    """Give every layer one name in all adapters.

    Args:
        adapters: of one merge.
        known: names of the base model's layers, where it is known. Two names of which it has both are two layers.

    Returns:
        The adapters, renamed where they have to be (to the base's names, or without a base to those of the first
        adapter that names a task), and a sentence for the user about each renamed one.

    Raises:
        AdapterError: names that may be one layer and may be two.
    """
    reference = next((adapter for adapter in adapters if adapter.task_type is not None), adapters[0])
    layers = frozenset(known)
    pairs = _pairs(adapters, layers)
    renamed, sentences = [], []
    for adapter in adapters:
        # Where all agree, a whole model and its body stay apart: the adapters may be meant for the other one.
        known_as = _to_known(adapter, layers, contained=not pairs)
        names = known_as if layers else _to_reference(adapter, reference, pairs)
        if names:
            old, new = next(iter(names.items()))
            where = "in the base model" if layers else f"in adapter {reference.name!r}"
            sentences.append(
                f"adapter {adapter.name!r}: {old!r} is the layer that is called {new!r} {where}; {len(names)} of its "
                f"modules are merged and written under such names"
            )
        renamed.append(adapter.renamed(names) if names else adapter)
    # With a base, whatever it does not know is refused when the adapters are checked against it.
    left = {} if layers else _pairs(renamed, layers)
    if left:
        raise AdapterError(_ambiguous(next(iter(left.values()))))
    return tuple(renamed), tuple(sentences)


@dataclass(frozen=True)
class _Pair:
    """Two names that may be one layer, and adapters that have them."""

    first: str
    first_adapter: str
    second: str
    second_adapter: str


def _pairs(adapters: Sequence[Adapter], known: frozenset[str]) -> dict[tuple[str, str], _Pair]:
    """All pairs of names that may be one layer; (name of one, name of the other) in both orders."""
    owners: dict[str, list[Adapter]] = {}
    for adapter in adapters:
        for module in adapter.modules:
            owners.setdefault(module, []).append(adapter)
    alike: dict[str, list[str]] = {}
    for name in owners:
        for key in {_stem(name), _tail(name), name}:
            alike.setdefault(key, []).append(name)
    found: dict[tuple[str, str], _Pair] = {}
    for names in alike.values():
        for name in names:
            for other in names:
                if not _related(name, other) or (name in known and other in known):
                    continue
                # An adapter that has both knows them to be two layers.
                if not any(name in adapter and other in adapter for adapter in adapters):
                    found[name, other] = _Pair(name, owners[name][0].name, other, owners[other][0].name)
    return found


def _related(name: str, other: str) -> bool:
    """Whether two names may mean one layer: they differ by containers, or by one segment in front (a head's class)."""
    return name != other and (_stem(name) == _stem(other) or _tail(name) == other or name == _tail(other))


def _stem(name: str) -> str:
    """A name without leading containers and without wrappers."""
    segments = plain_key(name).split(".")
    while len(segments) > 1 and segments[0] in _CONTAINERS:
        segments = segments[1:]
    return ".".join(segments)


def _tail(name: str) -> str:
    """A name without its first segment, or the name itself where that segment is a part of the model."""
    first, _, rest = name.partition(".")
    return rest if rest and first not in _PARTS else name


def _to_known(adapter: Adapter, known: frozenset[str], *, contained: bool) -> dict[str, str]:
    """Old name → the base's, for modules that the base has under one other name; in other containers alone if asked."""
    missing = [module for module in adapter.modules if module not in known]
    keys: dict[str, list[str]] = {}
    for name in known if missing else ():
        for key in {_stem(name), _tail(name), name}:
            keys.setdefault(key, []).append(name)
    names = {}
    for module in missing:
        there = {n for key in (_stem(module), _tail(module), module) for n in keys.get(key, ()) if _related(module, n)}
        if contained:
            there = {name for name in there if _stem(module) == _stem(name) not in {module, name}}
        if len(there) == 1:
            names[module] = there.pop()
    return names


def _to_reference(adapter: Adapter, reference: Adapter, pairs: Mapping[tuple[str, str], _Pair]) -> dict[str, str]:
    """Old name → the reference's, by the one beginning that is different.

    Raises:
        AdapterError: the names differ by more than one beginning, or it does not say what all are called.
    """
    mine = [pair for (name, other), pair in pairs.items() if name in adapter and other in reference]
    beginnings = {_beginnings(pair.first, pair.second) for pair in mine}
    if len(beginnings) > 1:
        raise AdapterError(_ambiguous(mine[0]))
    names = {}
    for old, new in beginnings:
        paired = {pair.first.removeprefix(old).partition(".")[0] for pair in mine}
        for module in adapter.modules:
            rest = module.removeprefix(old)
            # Without a beginning to replace, a head beside the layers looks like one of them.
            if module.startswith(old) and (old or rest.partition(".")[0] in paired):
                names[module] = new + rest
            elif module not in reference:
                raise AdapterError(_ambiguous(mine[0], f"; what {module!r} is called there cannot be told"))
    return names


def _beginnings(name: str, other: str) -> tuple[str, str]:
    """What two names begin with before their common end."""
    first, second = name.split("."), other.split(".")
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return "".join(f"{segment}." for segment in first), "".join(f"{segment}." for segment in second)


def _ambiguous(pair: _Pair, why: str = "") -> str:
    return (
        f"module {pair.first!r} of adapter {pair.first_adapter!r} and {pair.second!r} of adapter "
        f"{pair.second_adapter!r} may be one layer of the base under two names{why}; expected one name for each layer. "
        f"Name the base model (--base-model), whose layers decide, or rename the tensors of one adapter"
    )
