"""A merge report's figures as pictures: spectrum and filter, what was taken where, and how far to believe it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..inspection import layer_of, shortened
from .charts import Chart, Curve, Shown, where_shown
from .heat_map import HeatMap
from .pages import PageTable
from .path_pictures import budget_path, target_path

__all__ = ["MostChanged", "merge_pictures", "most_changed", "not_pictured"]

_PICTURED = {"": ("spectrum", "by_module", "path"), "held_out_quotients": ("by_module",), "safety_target": ("path",)}

_MOST = 10


class MostChanged(NamedTuple):
    """The modules that were changed most.

    Attributes:
        caption: what is compared.
        columns: headings; the second is drawn as a bar, too.
        rows: cells.
        shares: length of each row's bar, as a share of the longest.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    shares: Sequence[float]


def merge_pictures(report: Mapping[str, Any]) -> list[Shown]:
    """Pictures of whatever a report has, in reading order.

    Args:
        report: contents of a ``merge_report.json``.
    """
    said = _said(report)
    found: list[Shown | None] = [
        _spectrum(said),
        budget_path(report, said),
        target_path(said),
        _captured(said),
        _ranks(report["modules"]),
        _strongest(said),
        _held_out(said),
    ]
    return [shown for shown in found if shown is not None]


def most_changed(report: Mapping[str, Any]) -> MostChanged | None:
    """The ten modules that the merge changed most: beyond the skills where the method says so, else altogether."""
    modules = report["modules"]
    if not modules:
        return None
    moved = {m: of["moved"] for m, of in (_said(report).get("by_module") or {}).items()}
    sizes: Mapping[str, float] = moved or {module: of["norm"] for module, of in modules.items()}
    first = sorted(sizes, key=lambda module: -sizes[module])[:_MOST]
    total, longest = sum(size**2 for size in sizes.values()) or 1.0, max(sizes.values()) or 1.0
    refined = ", before refinement" if _said(report).get("refine") else ""
    what = f"‖M − M_U‖, moved beyond the skills{refined}" if moved else "‖ΔW‖"
    return MostChanged(
        f"The {len(first)} most changed of {len(sizes)} modules",
        ("Module", what, "Share of all, of squares"),
        [(module, f"{sizes[module]:.4g}", f"{100 * sizes[module] ** 2 / total:.1f} %") for module in first],
        [sizes[module] / longest for module in first],
    )


def not_pictured(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a method says of its work, without the parts that are pictures, and too long for a table."""
    if not _said(report):
        return dict(report.get("method_report") or {})
    found = {name: value for name, value in _said(report).items() if name not in _PICTURED[""]}
    for name in found.keys() & _PICTURED.keys():
        if isinstance(found[name], Mapping):
            found[name] = {key: value for key, value in found[name].items() if key not in _PICTURED[name]}
    return found


def _said(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What SST-Merge says of its work; nothing of other methods, whose words may mean something else."""
    return (report.get("method_report") or {}) if report["method"] == "sst" else {}


def _spectrum(said: Mapping[str, Any]) -> Shown | None:
    seen = said.get("spectrum")
    if not seen or max(seen["eigenvalues"], default=0.0) <= 0:
        return None
    values, passed, count = seen["eigenvalues"], seen["passed"], seen["directions"]
    last = max(len(values) - 1, 1)
    places = [100 * i / last for i in range(len(values))]
    curves = [
        Curve(
            name="λ, safety efficiency",
            points=list(zip(places, values, strict=True)),
            notes=[
                f"after {x:.0f} % of the directions λ = {value:.4g}" for x, value in zip(places, values, strict=True)
            ],
        )
    ]
    rows = [[f"{x:.1f} %", f"{value:.4g}"] for x, value in zip(places, values, strict=True)]
    columns = ["Directions", "λ"]
    if passed is not None:
        notes = [f"λ = {value:.4g}: {100 * h:.1f} % passes" for value, h in zip(values, passed, strict=True)]
        points = list(zip(places, passed, strict=True))
        curves.append(Curve(name="h(λ), what passes", points=points, notes=notes, right=True))
        rows = [[*row, f"{h:.4f}"] for row, h in zip(rows, passed, strict=True)]
        columns.append("h(λ)")
    mu = said.get("mu")
    caption = f"λ is the gain in refusals by the cost in benign answers: {count} directions, the best first."
    if passed is not None:
        caption += " h(λ) is how much of each the filter lets pass"
        caption += f": half of it at λ = μ = {mu:.4g}." if mu is not None else "."
    return Shown(
        title="What pays: λ, and the filter over it",
        caption=caption,
        picture=Chart(
            x="directions, the best first (% of all)",
            y="λ",
            right="h(λ)",
            curves=curves,
            y_log=True,
        ),
        table=PageTable(caption="λ and h(λ)", columns=columns, rows=rows),
    )


def _held_out(said: Mapping[str, Any]) -> Shown | None:
    pairs = (said.get("held_out_quotients") or {}).get("by_module")
    if not pairs:
        return None
    shown = [(module, inside, outside) for module, (inside, outside) in pairs.items()]
    return where_shown(
        Shown(
            title="In-sample against held-out",
            caption="The best direction of every module: λ on the prompts that chose it, and the same quotient on "
            "prompts that did not. On the dotted line both are equal; far below it the prompts were too few.",
            picture=Chart(
                x="λ in-sample",
                y="the same direction held-out",
                curves=[
                    Curve(
                        name="modules",
                        points=[(inside, outside) for _, inside, outside in shown],
                        notes=[
                            f"{module}: {inside:.4g} in-sample, {outside:.4g} held-out"
                            for module, inside, outside in shown
                        ],
                        look="points",
                    )
                ],
                x_log=True,
                y_log=True,
                diagonal=True,
            ),
            table=PageTable(
                caption="In-sample and held-out",
                columns=("Module", "In-sample", "Held-out"),
                rows=[(module, f"{inside:.4g}", f"{outside:.4g}") for module, inside, outside in shown],
            ),
        )
    )


def _captured(said: Mapping[str, Any]) -> Shown | None:
    by_module = said.get("by_module") or {}
    found = {module: of["captured"] for module, of in by_module.items() if of["captured"] is not None}
    if not found:
        return None
    title = "How much of the safety patch was taken, by layer and module"
    caption = (
        "How far the merge has moved from the skills, as a share of the step to the safety patch: 0 leaves them alone. "
        "More than 1 is no fault: the best compromise may lie outside the adapters' own rows."
    )
    return _grid(title, caption, found, "share", (0.0, max(1.0, *found.values())))


def _ranks(modules: Mapping[str, Mapping[str, Any]]) -> Shown | None:
    found = {module: float(of["rank"]) for module, of in modules.items()}
    if not found:
        return None
    return _grid("Rank of what was written", "By layer and module.", found, "rank", (0.0, max(1.0, *found.values())))


def _strongest(said: Mapping[str, Any]) -> Shown | None:
    by_module = (said.get("spectrum") or {}).get("by_module") or {}
    found = {module: math.log10(values[0]) for module, values in by_module.items() if values[0] > 0}
    if not found:
        return None
    low, high = min(found.values()), max(found.values())
    title = "Where safety is cheapest: the largest λ, by layer and module"
    return _grid(title, "As a power of ten.", found, "log₁₀ λ", (low, high) if low < high else (low - 0.5, high + 0.5))


def _grid(title: str, caption: str, found: Mapping[str, float], label: str, limits: tuple[float, float]) -> Shown:
    """Modules as a map: layers across, what a layer has downwards."""
    parts = {module: _parts(module) for module in found}
    layers = list(dict.fromkeys(layer for layer, _ in parts.values()))
    kinds = list(dict.fromkeys(kind for _, kind in parts.values()))
    numbers, names = shortened(layers), shortened(kinds) if len(kinds) > 1 else {kind: kind for kind in kinds}
    values = {parts[module]: value for module, value in found.items()}
    return Shown(
        title=title,
        caption=caption,
        picture=HeatMap(
            title,
            _telling(names, kinds),
            [numbers[layer] for layer in layers],
            [[values.get((layer, kind)) for layer in layers] for kind in kinds],
            limits,
            column_label="layer",
            color_label=label,
        ),
        table=PageTable(
            caption=title,
            columns=("Module", label),
            rows=[(module, f"{value:.4g}") for module, value in found.items()],
        ),
    )


def _parts(module: str) -> tuple[str, str]:
    """Layer, and what is left of the name; all of it for a module outside the layers."""
    layer = layer_of(module)
    return layer, module[len(layer) + 1 :] or module.rpartition(".")[2]


def _telling(names: Mapping[str, str], kinds: Iterable[str]) -> list[str]:
    """Last parts of names where these tell them apart."""
    last = {kind: kind.rpartition(".")[2] for kind in kinds}
    return [last[kind] if len(set(last.values())) == len(last) else names[kind] for kind in last]
