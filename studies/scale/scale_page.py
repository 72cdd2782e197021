"""The page of ``studies/scale/measure.py``."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scale_laws import slope
from scale_paper import LLAMA_7B, LLAMA_405B, MOST, WALLS, adapters_within, step_operations, sum_operations, walls
from study import interval

from sst_merge.reporting import markdown_table

__all__ = ["page"]

_CARD = 80e9
_MAPPED = 4 * 16 * 2 * (4 * 2 * 8192 + 3 * (8192 + 28672)) >> 20  # of 70B shapes, rank 16, 16 bits
_SPEED = 1e10  # float64 operations a second of one core

_PAPER = """## On paper: a thousand adapters, 400 billion parameters

Nothing of this was run: it is arithmetic from the shapes of Llama-2-7B and Llama-3.1-405B and from what the code
holds at once (`scale_paper.py`; decimal units). Adapters have rank r = 16 on all linear layers; p = min(d_out, n r),
q = min(d_in, n r); `inputs: wide` makes V up to twice as wide.

"""

_BREAKS = """
**A thousand adapters.** First `sst` with its default `utility: fisher`: a Kronecker Fisher per adapter grows as n³r²
until the core spaces are whole, and would take {fishers}; one step of its solver then takes {step} operations.
`utility: sum` has one Fisher, and is left with the bases. Second the exact sum: it keeps all n coordinates (p, q) of
a module, {coordinates} for the largest one, although only their sum is asked for; its {operations} operations are
{hours} hours at 10¹⁰ a second (of a hundred adapters: {minutes} minutes). Third, sense: at square modules of side
4096 the exact sum of {adapters_of_whole} adapters (rank {rank_of_whole}) is as large as the weights it changes;
beyond that a whole model is the smaller output. Entry-wise methods grow in time alone, by n.

**405 billion parameters.** First the base: {base} in bfloat16, so `--device-map auto` over eleven cards of 80 GB or
more, or 4 bits (a quarter); data-free methods never load it. Second, of what the merge adds, the sketches of inputs
that `inputs: wide` takes of all modules at once: {sketches} with three adapters, on the device of the core spaces;
`inputs: core` has none. Bases ({bases}) and Fishers ({small_fishers}) are no matter. One sample of 512 tokens keeps
{sample} for the way back, spread over the cards. Data-free, TIES holds {ties} for one module, the exact sum {sum}.
"""


def page(found: Mapping[str, Any]) -> str:
    """Markdown of all parts that were measured, and of the arithmetic.

    Args:
        found: figures of the script.

    Returns:
        The page.
    """
    before, after = found["load_average"]
    head = (
        "# How cost grows\n\n"
        "Synthetic adapters, random tokens and random Llamas in float32, one thread; every figure is in "
        "`figures.json`. Other work ran on this\nmachine the whole time (load average "
        f"{before} before, {after} after, 2 cores), so seconds are CPU seconds of the process. All sizes were visited "
        f"in\nrandom order in each of {found['rounds']} rounds. {found['versions']}. The whole run took "
        f"{found['cpu_seconds']:.0f} CPU seconds.\nMade by `studies/scale/measure.py`; for a card there is "
        "[gpu](gpu/README.md).\n"
    )
    parts = [head, _laws(found["sweeps"]), _beside(found["sweeps"])]
    if found["processes"]:
        parts.append(_processes(found["processes"]))
    if found["memory"]:
        parts.append(_memory(found["memory"]))
    parts.append(_paper())
    return "\n".join(parts)


def _with_interval(found: Sequence[float], form: str, unit: str = "") -> str:
    middle, low, high = (format(value, form) for value in found)
    return f"{middle}{unit} [{low}, {high}]"


def _laws(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        at, operations, runs = row["at"], row["operations"], row["seconds"]
        # What is made of TIES' entries is not counted in operations, so that a sweep which leaves them has no count.
        counted = operations[0] != operations[-1]
        last = [slope(at[-2:], list(pair)) for pair in zip(runs[-2], runs[-1], strict=True)]
        cells.append((
            row["of"],
            row["varied"],
            ", ".join(map(str, at)),
            f"{median(runs[0]):.3g} to {median(runs[-1]):.3g}",
            f"{operations[-1] / operations[0]:.1f} ×" if counted else None,
            _with_interval(row["ratio"], ".1f", " ×"),
            f"{row['counted']:.2f}" if counted else None,
            _with_interval(row["exponent"], ".2f"),
            f"{slope(at[-2:], operations[-2:]):.2f}" if counted else None,
            _with_interval(interval(last), ".2f"),
        ))
    columns = ("", "varied", "at", "CPU seconds", "operations grow", "time grows", "exponent counted", "measured")
    columns += ("last two sizes, counted", "measured there")
    laws = [(row["of"], row["varied"], row["held"], row["law"]) for row in rows]
    return (
        "## Laws and measurements\n\n"
        "An exponent is the slope of the logarithms by least squares, of counted operations (`scale_laws.py`) and of "
        "seconds, on the same\npoints. Median over the rounds with its 95 % interval. Measured ones lie below the "
        "counted ones where small sizes pay for calls rather\nthan for arithmetic, and where large products reach more "
        "of the processor's speed; the two largest sizes say most of what comes beyond.\n\n"
        + markdown_table(cells, columns)
        + "\nWhere the laws come from, and what was "
        "held:\n\n" + markdown_table(laws, ("", "varied", "held", "law, and the exponent it means"))
    )


def _beside(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        if row["plain_seconds"]:
            each = zip(row["seconds"], row["plain_seconds"], strict=True)
            ratios = [median(a / b for a, b in zip(runs, plain, strict=True)) for runs, plain in each]
            cells.append((row["varied"], ", ".join(map(str, row["at"])), ", ".join(f"{one:.2f}" for one in ratios)))
    return (
        "## A Fisher beside a plain pass\n\n"
        "Times a plain forward and backward pass with the logits of all positions, over the same tokens in the same "
        "round (median). A quarter\nof the positions are answers, and only these see the output layer of a Fisher, "
        "which has 4096 tokens here.\n\n" + markdown_table(cells, ("varied", "at", "× plain pass"))
    )


def _processes(rows: Sequence[Mapping[str, Any]]) -> str:
    one = median(rows[0]["seconds"][0])
    cells = []
    for row in rows:
        each = [median(runs) for runs in row["seconds"]]
        share = 1 / row["processes"]
        cells.append((
            row["processes"],
            f"{max(each):.3f}",
            f"{max(each) / one:.2f}",
            f"{share:.2f}",
            f"{sum(each) / one:.2f}",
        ))
    columns = ("processes", "CPU seconds of the busiest", "× one process", "law", "all together, × one process")
    return (
        "## Processes\n\n"
        "One Fisher of 64 samples of 64 tokens shared by forks over gloo. The law: every process reads 1/N of the "
        "batches; one sum of p² + q²\nnumbers a module ends it, which does not depend on the samples, and whoever "
        "waits for the others spends no CPU seconds.\n\n" + markdown_table(cells, columns)
    )


def _memory(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            row["method"],
            f"{row['layers']} of 80 layers" if row["layers"] else "one down_proj",
            "exact" if row["rank"] is None else f"rank {row['rank']}",
            f"{row['start_gib']:.2f} GiB",
            f"{row['peak_gib']:.2f} GiB",
            f"{row['disk_seconds']:.3g}",
        )
        for row in rows
    ]
    return (
        "## 70B shapes: four adapters of rank 16\n\n"
        "Hidden size 8192, inner size 28672, all linear layers (attention without grouped queries), bfloat16 on disk, "
        "from disk to disk, a new\nprocess each. The law: the engine holds one module's factors and writes module by "
        "module, so that what it allocates does not grow with the\nlayers; what was read of the adapters' files stays "
        f"mapped, {_MAPPED} MiB a layer for the four of them, and the system may take it back.\n{_extrapolated(rows)}"
        "80 layers themselves were not run.\n`down_proj`, 8192 × 28672, is the largest module.\n\n"
        + markdown_table(cells, ("method", "of", "output", "after imports", "peak", "CPU seconds"))
    )


def _extrapolated(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line through the peaks of a few layers, at 80."""
    peaks = {row["layers"]: row["peak_gib"] for row in rows if row["layers"]}
    if len(peaks) < 2:
        return ""
    few, many = min(peaks), max(peaks)
    each = (peaks[many] - peaks[few]) / (many - few)
    return (
        f"The peak grew by {1024 * each:.0f} MiB a layer from {few} to {many} layers; a line through them comes to "
        f"{peaks[few] + each * (80 - few):.1f} GiB at 80. "
    )


def _size(number: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g} B"


def _most(adapters: int) -> str:
    # Whole core spaces do not grow any more.
    return f"{adapters:,}" if adapters < MOST else "any number"


def _paper() -> str:
    columns = {
        "7B, 20": walls(LLAMA_7B, 20, 16),
        "7B, 100": walls(LLAMA_7B, 100, 16),
        "7B, 1,000": walls(LLAMA_7B, 1000, 16),
        "405B, 3": walls(LLAMA_405B, 3, 16),
        "405B, 20": walls(LLAMA_405B, 20, 16),
    }
    cells = [
        (name, formula, *(_size(column[name]) for column in columns.values())) for name, (formula, _) in WALLS.items()
    ]
    most = [
        (name, *(_most(adapters_within(WALLS[name][1], LLAMA_7B, 16, limit)) for limit in (24e9, _CARD, 8 * _CARD)))
        for name in (
            "sst, a Fisher per adapter",
            "sst, sketches of inputs",
            "sst, bases U and V",
            "exact sum, memory (one module)",
        )
    ]
    thousand, large = columns["7B, 1,000"], columns["405B, 3"]
    values = {
        "rank_of_whole": 4096 // 2,
        "adapters_of_whole": 4096 // 2 // 16,
        "fishers": _size(thousand["sst, a Fisher per adapter"]),
        "step": f"{step_operations(LLAMA_7B, 1000, 16):.1e}",
        "coordinates": _size(thousand["exact sum, memory (one module)"]),
        "operations": f"{sum_operations(LLAMA_7B, 1000, 16):.1e}",
        "hours": f"{sum_operations(LLAMA_7B, 1000, 16) / _SPEED / 3600:.0f}",
        "minutes": f"{sum_operations(LLAMA_7B, 100, 16) / _SPEED / 60:.0f}",
        "base": _size(large["base in bfloat16"]),
        "sketches": _size(large["sst, sketches of inputs"]),
        "bases": _size(large["sst, bases U and V"]),
        "small_fishers": _size(large["sst, a Fisher per adapter"]),
        "sample": _size(large["sst, one sample of 512 tokens"]),
        "ties": _size(large["TIES, memory (one module)"]),
        "sum": _size(large["exact sum, memory (one module)"]),
    }
    return (
        _PAPER
        + markdown_table(cells, ("what is held, read or written", "bytes", *columns))
        + "\nThe most adapters of rank 16 at 7B shapes that fit, by what has to fit:\n\n"
        + markdown_table(most, ("", "24 GB", "80 GB", "8 × 80 GB"))
        + _BREAKS.format(**values)
    )
