"""The page that ``studies/merging/measure.py`` writes, from its figures alone."""

from statistics import median
from typing import Any

from sst_merge.methods import available_methods
from sst_merge.reporting.tables import markdown_table

__all__ = ["page"]

_HEAD = """# Time and memory of merging

Written by `studies/merging/measure.py`; every figure is in `figures.json`. Seconds are CPU seconds of {threads} thread
on {processor}, without start-up and imports. Other jobs ran on the machine (load averages before and
after: {load_average}), so ratios, taken minutes apart, say more than seconds.
Python {python}, torch {torch}, PEFT {peft}, transformers {transformers}{mergekit}, sst-merge {sst_merge}. Runs: {runs}.

Adapters: normally distributed factors (the flattest spectra there are, where iterative truncation is slowest), r = 16,
all linear layers, {layers} of the 16 layers of a Llama with hidden size {hidden} and inner size {inner}, output rank
{rank}; both sides merged the same layers, and time is proportional to them. Densities 0.2 where a rule has one.
"""


def spread(values: list[float]) -> str:
    """Median and range."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def page(results: dict[str, Any]) -> str:
    """Markdown of all parts that ran.

    Args:
        results: what the benchmark measured.

    Returns:
        The page.
    """
    settings = results["settings"]
    mergekit = f", mergekit {results['b']['version']}" if "b" in results else ""
    machine = dict(results["machine"])
    runs = zip(machine.pop("runs"), machine.pop("minutes"), strict=True)
    machine["runs"] = "; ".join(f"`{run}` took {minutes} minutes" for run, minutes in runs)
    machine["load_average"] = ", ".join(map(str, machine["load_average"]))
    parts = [_HEAD.format(mergekit=mergekit, **machine, **settings)]
    if rows := results.get("a"):
        parts += [_peft(rows), _all_methods(rows)]
    if "b" in results:
        parts.append(_mergekit(results["b"]))
    if part := results.get("c"):
        parts.append(_sum(part))
    if part := results.get("d"):
        parts.append(_memory(part))
    parts.append(_targets(results))
    names = ", ".join(f"`{name}`" for name in settings["left_out"])
    parts.append(f"Left out, because they read data through a model or the base's weights: {names}.\n")
    return "\n".join(parts)


def _peft(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        if "peft" not in row:
            continue
        ours, theirs = row["ours"], row["peft"]
        ratio = median(theirs["seconds"]) / median(ours["seconds"])
        cells.append((
            row["method"],
            row["adapters"],
            spread(ours["seconds"]),
            theirs["kind"],
            spread(theirs["seconds"]),
            f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.1f} ×",
            f"{ours['kept_energy']:.3f}",
        ))
    columns = ("method", "n", "ours, s", "PEFT", "PEFT, s", "ratio", "least energy kept")
    return (
        "## Against PEFT, both in memory\n\nMedian (range) of the runs. Of a result that is not low-rank, output rank "
        "16 keeps only the share of the energy in the last column, with either library.\n\n"
        + markdown_table(cells, columns)
    )


def _all_methods(rows: list[dict[str, Any]]) -> str:
    counts = sorted({row["adapters"] for row in rows})
    by_method: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["adapters"]] = row["ours"]
    cells = []
    for name, found in by_method.items():
        cells.append((name, *(spread(found[count]["seconds"]) if count in found else None for count in counts)))
    columns = ("method", *(f"n = {count}, s" for count in counts))
    return "## Every data-free method\n\n" + markdown_table(cells, columns)


def _mergekit(part: dict[str, Any]) -> str:
    cells = [
        (
            row["method"],
            row["adapters"],
            row["layers"],
            f"{row['ours_seconds']:.3g}",
            f"{row['seconds']:.3g}",
            f"{row['seconds'] / row['ours_seconds']:.0f} ×",
            f"{row['ours_peak_gib']:.2f} GiB",
            f"{row['peak_gib']:.2f} GiB",
            f"1/{row['peak_gib'] / row['ours_peak_gib']:.1f}",
        )
        for row in part["rows"]
    ]
    columns = ("method", "n", "layers", "ours, s", "mergekit, s", "ratio", "ours, peak", "mergekit, peak", "memory")
    return (
        "## Against mergekit, from disk to disk\n\nmergekit merges full weights (adapters are first merged into the "
        "base, one full model each) and `mergekit-extract-lora` makes an adapter of the result; ours is "
        "`merge_to_folder` with its checks and hashes, one run of each. mergekit's start-up "
        f"({part['idle_seconds']:.1f} CPU seconds of `--help` of both programs) is taken off. Its memory holds the "
        "whole model and grows with the layers, of which the model meant has 16; ours holds one module.\n\n"
        + markdown_table(cells, columns)
    )


def _sum(part: dict[str, Any]) -> str:
    ratio = part["peft_seconds"] / median(part["seconds"])
    return (
        "## The exact weighted sum of two adapters\n\n"
        f"One process: PEFT's `svd` of full rank {part['peft_seconds']:.3g} s, ours {spread(part['seconds'])} s, ratio "
        f"{ratio:.0f} ×; largest relative difference of a ΔW {part['largest_relative_difference']:.1e}.\n"
    )


def _memory(part: dict[str, Any]) -> str:
    cells = [
        (row["method"], f"{row['start_gib']:.2f} GiB", f"{row['peak_gib']:.2f} GiB", f"{row['disk_seconds']:.3g}")
        for row in part["rows"]
    ]
    exact = part["exact_sum"]
    return (
        "## Twenty adapters at Llama-2-7B shapes\n\nbfloat16 on disk, one module of the largest shape, 4096 × 11008, "
        "output rank 16, from disk to disk; memory holds one module at a time, so this is the peak of the whole model "
        f"but for what is read and written. The exact sum (rank {exact['output_rank']}) of {exact['layers']} of the 32 "
        f"layers took {exact['disk_seconds']:.3g} CPU seconds and {exact['peak_gib']:.2f} GiB.\n\n"
        + markdown_table(cells, ("method", "memory after imports", "peak", "CPU seconds"))
    )


_SUMS = {"svd", "task_arithmetic"}


def _targets(results: dict[str, Any]) -> str:
    """What was aimed at, what was found, and what was not measured."""
    peft = {
        (row["method"], row["adapters"]): median(row["peft"]["seconds"]) / median(row["ours"]["seconds"])
        for row in results.get("a", [])
        if "peft" in row
    }
    mergekit = results.get("b", {}).get("rows", [])
    peaks = {row["method"]: row["peak_gib"] for row in results.get("d", {}).get("rows", [])}

    def least(found: list[float], unit: str = " ×") -> str | None:
        return f"{min(found):.1f}{unit}" if found else None

    cells = [
        ("faster than PEFT's counterpart, every method and n", "> 1 ×", least(list(peft.values()))),
        ("weighted sum against PEFT", "≥ 100 ×", least([r for (name, _), r in peft.items() if name == "svd"])),
        ("TIES against PEFT", "≥ 20 ×", least([r for (name, _), r in peft.items() if name == "ties"])),
        (
            "two adapters, rules on single entries, against PEFT",
            "≥ 20 ×",
            least([r for (name, count), r in peft.items() if count == 2 and name not in _SUMS]),
        ),
        (
            "the same against mergekit",
            "≥ 15 ×",
            least([
                row["seconds"] / row["ours_seconds"]
                for row in mergekit
                if row["adapters"] == 2 and row["method"] not in _SUMS
            ]),
        ),
        ("against mergekit, time", "≥ 50 ×", least([r["seconds"] / r["ours_seconds"] for r in mergekit])),
        ("against mergekit, memory", "≥ 5 ×", least([r["peak_gib"] / r["ours_peak_gib"] for r in mergekit])),
        ("7B shapes, largest peak", "< 4 GiB", f"{max(peaks.values()):.2f} GiB" if peaks else None),
    ]
    wanted = [name for name in available_methods() if name not in results["settings"]["left_out"]]
    timed = {row["method"] for row in results.get("a", [])}
    counts = sorted({row["adapters"] for row in results.get("a", [])})
    gaps = [
        f"- {what}: {', '.join(f'`{name}`' for name in wanted if name not in have) or 'none'}"
        for what, have in (("without a time", timed), ("without a peak at 7B shapes", peaks))
    ]
    return (
        "## Targets, the least favourable of the rows above\n\n"
        + markdown_table(cells, ("target", "wanted", "found"))
        + "\nPEFT's time is mostly one SVD of every ΔW, whatever n is; ours is mostly the passes over every adapter's "
        "ΔW (forming, trimming or drawing, electing) and the truncation to the output rank, so the ratio falls as n "
        "grows, and it suffers more from neighbours that fill the processor's cache. A sum of twenty adapters has rank "
        "320: the QR decompositions of both stacks of factors and one SVD of 320 × 320, all in float64, are what is "
        "left of its time, and a hundredth of PEFT's would be less than either takes.\n\n"
        f"Numbers of adapters measured in time: {', '.join(map(str, counts)) or 'none'}. Not measured in these runs, "
        "methods\n\n" + "\n".join(gaps) + "\n"
    )
