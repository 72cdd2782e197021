"""The figures in plain words. Every sentence states a measured number, and what it would be without any relation."""

from collections.abc import Callable, Iterator, Sequence

from .adapter_figures import AdapterFigures
from .pair_figures import Collision, PairFigures, SharedDirections
from .sum_figures import ENERGIES, SumFigures

__all__ = ["describe_meaning"]

_PAIRS_IN_FULL = 3
_SAME = 0.999  # cosine
_SLIGHT = 0.1  # cosine
_SIMILAR_SIZE = 1.5  # ratio of norms
_CLEARLY = 2.0  # times what chance gives


def describe_meaning(
    adapters: Sequence[AdapterFigures], pairs: Sequence[PairFigures], total: SumFigures
) -> Iterator[str]:
    """Sentences that say what the figures mean, without recommending a method."""
    yield from _about_adapters(adapters)
    if len(pairs) <= _PAIRS_IN_FULL:
        for pair in pairs:
            yield from _about_pair(pair)
    else:
        yield from _about_many(pairs)
    yield from _about_sum(adapters, total)


def _about_adapters(adapters: Sequence[AdapterFigures]) -> Iterator[str]:
    for adapter in adapters:
        if adapter.norm == 0:
            yield f"{adapter.name!r} is zero everywhere: merging it changes nothing."
    if len(adapters) < 2:
        return
    sizes = sorted(((abs(adapter.weight) * adapter.norm, adapter.name) for adapter in adapters), reverse=True)
    (largest, big), (smallest, small) = sizes[0], sizes[-1]
    if smallest == 0:
        return
    figures = f"weight × norm {largest:.3g} against {smallest:.3g}"
    if largest / smallest < _SIMILAR_SIZE:
        yield f"The adapters are of similar size ({figures}): none of them dominates the sum by size alone."
    else:
        yield f"{big!r} is {largest / smallest:.1f} times as large as {small!r} ({figures}) and weighs more in a sum."


def _about_pair(pair: PairFigures) -> Iterator[str]:
    total, names = pair.total, f"{pair.first!r} and {pair.second!r}"
    if total is None:
        yield f"{names} touch no module in common: they cannot collide."
        return
    if total.cosine is None:
        return
    yield f"{names} {_direction(total.cosine)} (cosine {total.cosine:.3f})."
    yield f"They {_shared('write to', 'output', total.left)}, and {_shared('read', 'input', total.right)}."
    yield from _about_signs(total)


def _direction(cosine: float) -> str:
    if cosine >= _SAME:
        return "are the same update up to a factor: adding them only makes it larger"
    if cosine <= -_SAME:
        return "are opposite copies: adding them cancels both"
    if cosine > _SLIGHT:
        return "point partly the same way: adding them counts what they share twice"
    if cosine < -_SLIGHT:
        return "point partly against each other: adding them cancels what they share"
    return "are close to perpendicular as whole updates: adding them neither repeats nor cancels much on balance"


def _shared(verb: str, side: str, spaces: SharedDirections) -> str:
    overlap, chance = spaces.overlap or 0.0, spaces.chance or 0.0
    if overlap >= _CLEARLY * chance:
        judged = "clearly more than"
    elif overlap <= chance / _CLEARLY:
        judged = "clearly less than"
    else:
        judged = "about what"
    return f"{verb} {_percent(overlap)} common {side} directions, {judged} unrelated updates would ({_percent(chance)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _about_signs(total: Collision) -> Iterator[str]:
    signs = total.signs
    if signs is None or signs.share is None or signs.weighted_share is None:
        return
    yield (
        f"Where both move an entry, they move it in opposite directions in {_percent(signs.share)} of the entries, "
        f"{_percent(signs.weighted_share)} when large entries count more; unrelated updates give 50 %."
    )


def _about_many(pairs: Sequence[PairFigures]) -> Iterator[str]:
    measures: tuple[tuple[str, Callable[[Collision], float | None], Callable[[float], str]], ...] = (
        ("cosine", lambda total: total.cosine, "{:.3f}".format),
        ("overlap of output directions", lambda total: total.left.overlap, _percent),
        ("overlap of input directions", lambda total: total.right.overlap, _percent),
        ("share of opposite signs, weighted by size", lambda total: total.conflict, _percent),
    )
    for name, measure, text in measures:
        found = [
            (value, f"{pair.first!r} and {pair.second!r}")
            for pair in pairs
            if pair.total is not None and (value := measure(pair.total)) is not None
        ]
        if found:
            (low, lowest), (high, highest) = min(found), max(found)
            yield f"The {name} runs from {text(low)} ({lowest}) to {text(high)} ({highest}) over {len(found)} pairs."


def _about_sum(adapters: Sequence[AdapterFigures], total: SumFigures) -> Iterator[str]:
    apart = [name for name, module in total.modules.items() if len(module.touched_by) < len(adapters)]
    if apart:
        yield (
            f"{len(total.modules) - len(apart)} of {len(total.modules)} modules are touched by all adapters; the "
            f"others, such as {apart[0]!r}, only by some, and nothing can collide where an adapter is alone."
        )
    if total.norm == 0:
        yield "The weighted sum is zero: the adapters cancel."
        return
    if len(adapters) > 1:
        yield (
            f"The weighted sum has {total.norm / total.perpendicular_norm:.2f} times the size that perpendicular "
            f"updates would give: above 1 adapters reinforce one another, below 1 they cancel, at 1 they do neither on "
            f"balance."
        )
    low, high = ENERGIES
    yield (
        f"The exact sum needs rank {total.rank}. Rank {total.spread(high).largest} keeps at least {_percent(high)} of "
        f"the energy of every module, rank {total.spread(low).largest} at least {_percent(low)}; of the energy of all "
        f"modules together, rank {total.spread(high).together} keeps {_percent(high)}."
    )
