"""An inspection as tables for the terminal and as maps for a picture; figures are only chosen and named here."""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from ..inspection import ENERGIES, AdapterFigures, Collision, Inspection, PairFigures, layer_of, shortened
from ..reporting import HeatMap, rich_table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["inspection_maps", "inspection_tables"]

_PAIRS_SHOWN, _PAIRS_IN_DETAIL = 30, 5
_Measure = Callable[[Collision], float | None]


def inspection_tables(inspection: Inspection, *, top: int) -> "list[Table]":
    """Everything that the terminal shows, in reading order; tables without rows are left out."""
    tables = [_form_table(inspection), _size_table(inspection)]
    if inspection.pairs:
        pairs = _strongest(inspection.pairs, _PAIRS_SHOWN)
        tables.append(_pair_table(pairs, f"Pairs{_of_all(pairs, inspection)}"))
    pairs = _strongest(inspection.pairs, _PAIRS_IN_DETAIL)
    if rows := _collision_rows(pairs, inspection, top):
        columns = [
            "pair",
            "listed for",
            "module",
            "cosine",
            "outputs shared",
            "inputs shared",
            "opposite signs, weighted",
        ]
        title = f"Where they collide: the first {top} modules by either measure{_of_all(pairs, inspection)}"
        tables.append(rich_table(rows, columns, title=title))
    return [*tables, _rank_table(inspection)]


def inspection_maps(inspection: Inspection) -> list[HeatMap]:
    """Cosines of all pairs, and overlap and sign conflict of every pair by layer; of one adapter only the first."""
    names = [adapter.name for adapter in inspection.adapters]
    maps = [HeatMap("Cosine of ΔW over the shared modules", names, names, inspection.cosines(), (-1, 1), "two-sided")]
    pairs = [pair for pair in _strongest(inspection.pairs, _PAIRS_SHOWN) if pair.modules]
    if not pairs:
        return maps
    layers = list(dict.fromkeys(layer_of(module) for module in inspection.weighted_sum.modules))
    numbered = [layer for layer in layers if layer[-1:].isdecimal()]
    # Blocks are called by their numbers even beside an lm_head.
    short = shortened(numbered) | shortened(layer for layer in layers if layer not in numbered)
    more = _of_all(pairs, inspection)

    def by_layer(title: str, measure: _Measure, limits: tuple[float, float] | None) -> HeatMap:
        values = []
        for pair in pairs:
            found = pair.by_layer()
            values.append([measure(found[layer]) if layer in found else None for layer in layers])
        known = [value for row in values for value in row if value is not None]
        rows, columns = list(map(_pair_name, pairs)), [short[layer] for layer in layers]
        if limits is not None:
            return HeatMap(title + more, rows, columns, values, limits, "two-sided", "layer")
        most = math.ceil(10 * max([*known, 0.05])) / 10
        return HeatMap(title + more, rows, columns, values, (0.0, most), "growing", "layer")

    maps.append(by_layer("Shared directions: mean cos² of the principal angles", lambda c: c.overlap, None))
    if inspection.negligible is not None:
        title = "Opposite signs, weighted by size (0.5: unrelated)"
        maps.append(by_layer(title, lambda c: c.conflict, (0.0, 1.0)))
    return maps


def _form_table(inspection: Inspection) -> "Table":
    rows = [_form_row(adapter) for adapter in inspection.adapters]
    columns = ["adapter", "base model", "modules", "targets", "rank", "scale", "variant", "type", "file"]
    return rich_table(rows, columns, title="Adapters")


def _form_row(adapter: AdapterFigures) -> list[object]:
    stored, count = adapter.stored, len(adapter.modules)
    targets = ", ".join(f"{name} × {number}" for name, number in adapter.targets.items())
    if len(set(adapter.targets.values())) == 1 and len(adapter.targets) > 1:
        targets = f"{', '.join(adapter.targets)} × {next(iter(adapter.targets.values()))}"
    ranks = " / ".join(map(str, adapter.ranks))
    about: list[object] = [adapter.name, adapter.base_model, count, targets, ranks]
    if stored is None:
        return [*about, None, None, None, "in memory"]
    scales = " / ".join(f"{scale:.4g}" for scale in stored.scales[:4]) + (" / …" if len(stored.scales) > 4 else "")
    return [*about, scales, ", ".join(stored.variant) or "plain", ", ".join(stored.dtypes), _size(stored.file_bytes)]


def _size_table(inspection: Inspection) -> "Table":
    rows: list[list[object]] = [
        [adapter.name, adapter.weight, adapter.norm, adapter.spectral_norm, adapter.effective_rank]
        for adapter in inspection.adapters
    ]
    total = inspection.weighted_sum
    largest = max((module.values[0] for module in total.modules.values() if module.values), default=0.0)
    rows.append(["weighted sum", None, total.norm, largest, total.effective_rank])
    columns = ["update", "weight", "norm ‖ΔW‖", "spectral norm", "effective rank (median)"]
    return rich_table(rows, columns, title="Size and shape of the updates")


def _pair_table(pairs: Sequence[PairFigures], title: str) -> "Table":
    sides = ["outputs shared", "outputs by chance", "inputs shared", "inputs by chance"]
    columns = ["pair", "shared modules", "cosine", *sides, "opposite signs", "weighted"]
    rows: list[list[object]] = []
    for pair in pairs:
        total = pair.total
        row: list[object] = [_pair_name(pair), len(pair.modules)]
        if total is not None:
            row += [
                _cosine(total.cosine),
                *(_percent(share) for side in (total.left, total.right) for share in (side.overlap, side.chance)),
                *(_percent(None if total.signs is None else share) for share in _sign_shares(total)),
            ]
        rows.append(row + [None] * (len(columns) - len(row)))
    return rich_table(rows, columns, title=title)


def _sign_shares(total: Collision) -> tuple[float | None, float | None]:
    return (None, None) if total.signs is None else (total.signs.share, total.signs.weighted_share)


def _collision_rows(pairs: Sequence[PairFigures], inspection: Inspection, top: int) -> list[list[object]]:
    short = shortened(inspection.weighted_sum.modules)
    reasons: list[tuple[str, _Measure]] = [("shared directions", lambda collision: collision.overlap)]
    if inspection.negligible is not None:
        reasons.append(("opposite signs", lambda collision: collision.conflict))
    rows: list[list[object]] = []
    for pair in pairs:
        for reason, measure in reasons:
            known = [(value, name) for name, c in pair.modules.items() if (value := measure(c)) is not None]
            for _, name in sorted(known, key=lambda item: -item[0])[:top]:
                found = pair.modules[name]
                shares = (found.left.overlap, found.right.overlap, found.conflict)
                rows.append([_pair_name(pair), reason, short[name], _cosine(found.cosine), *map(_percent, shares)])
    return rows


def _rank_table(inspection: Inspection) -> "Table":
    total = inspection.weighted_sum
    rows: list[list[object]] = []
    for energy in ENERGIES:
        spread = total.spread(energy)
        rows.append([_percent(energy, 0), spread.smallest, spread.median, spread.largest, spread.together])
    exact = sorted(module.rank for module in total.modules.values())
    rows.append(["all (exact)", exact[0], float(median(exact)), exact[-1], exact[-1]])
    columns = ["energy kept", "smallest module", "median", "largest: --rank", "of all modules together"]
    return rich_table(rows, columns, title="Rank that the weighted sum needs")


def _strongest(pairs: Sequence[PairFigures], most: int) -> list[PairFigures]:
    """All pairs, or the ones that share most directions where there are too many; in their order."""
    if len(pairs) <= most:
        return list(pairs)

    def overlap(place: int) -> float:
        total = pairs[place].total
        return -1.0 if total is None or total.overlap is None else total.overlap

    return [pairs[place] for place in sorted(sorted(range(len(pairs)), key=overlap, reverse=True)[:most])]


def _of_all(pairs: Sequence[PairFigures], inspection: Inspection) -> str:
    return f" ({len(pairs)} of {len(inspection.pairs)} pairs)" if len(pairs) < len(inspection.pairs) else ""


def _pair_name(pair: PairFigures) -> str:
    return f"{pair.first} – {pair.second}"


def _cosine(value: float | None) -> str | None:
    # Rounding first: no cell shall say -0.000.
    return None if value is None else f"{round(value, 3) + 0.0:.3f}"


def _percent(value: float | None, digits: int = 1) -> str | None:
    return None if value is None else f"{100 * value:.{digits}f} %"


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"
