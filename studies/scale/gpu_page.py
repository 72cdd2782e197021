"""The page of ``studies/scale/gpu.py``."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from gpu_stages import NEW_TOKENS, REFINED, STREAMS

from sst_merge.reporting import markdown_table

__all__ = ["page"]

_BESIDE = {"Fisher": "plain pass", "scoring": "plain forward", "writing": "plain generation", "merge": "plain pass"}


def page(found: Mapping[str, Any]) -> str:
    """Markdown of what was measured and of what was left out.

    Args:
        found: figures of the script.

    Returns:
        The page.
    """
    settings = found["settings"]
    head = (
        "# On one card\n\n"
        f"{found['card']}, {found['cores']} cores beside it; {found['versions']}; {found['minutes']:.1f} minutes. "
        f"Random weights, {settings['samples']} samples of\n{settings['tokens']} random tokens in batches of "
        f"{settings['batch']}, a quarter of them answers; three adapters of rank {settings['rank']} on all linear "
        "layers. Medians\nof the wall's clock. *Extra* memory is the peak of torch's allocator above what stood there "
        "before the stage. Made by\n`studies/scale/gpu.py`.\n"
    )
    parts = [head, _with_data(found)]
    if found["without_data"]["rows"]:
        parts.append(_without_data(found["without_data"], settings))
    gaps = "\n".join(f"- {sentence}" for sentence in found["left_out"]) or "Nothing."
    parts.append(f"## Left out\n\n{gaps}\n")
    return "\n".join(parts)


def _gib(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _with_data(found: Mapping[str, Any]) -> str:
    cells, spent = [], []
    for row in found["models"]:
        stages = row["stages"]
        for name, figures in stages.items():
            other = stages.get(_BESIDE.get(name, ""))
            ratio = memory = None
            if other is not None:
                ratio = f"{median(figures['seconds']) / median(other['seconds']):.2f}"
                memory = f"{figures['extra_gib'] / other['extra_gib']:.2f}" if other["extra_gib"] else None
            seconds = f"{median(figures['seconds']):.3g}"
            gib = (_gib(figures["extra_gib"]), memory, _gib(figures["peak_gib"]))
            cells.append((f"{row['size']}, {row['weights']}", name, seconds, ratio, *gib))
        plain = stages.get("plain pass")
        for name, seconds in row.get("merge_stages", {}).items():
            times = f"{seconds / median(plain['seconds']):.2f}"
            spent.append((f"{row['size']}, {row['weights']}", name, f"{seconds:.3g}", times))
    columns = ("model", "stage", "seconds", "× plain", "extra GiB", "× plain's extra", "peak GiB")
    return (
        "## Passes\n\n"
        "`plain pass` and `plain forward` compute the logits of every position; `Fisher` (Kronecker) stands beside the "
        "first, `scoring` of given\nanswers by the merged model beside the second, `writing` of "
        f"{NEW_TOKENS} tokens by the merged model beside the base's. `merge` is a whole\n`sst` by default with "
        f"`refine: {REFINED}`, the first and only one, so that it pays for what is done once.\n\n"
        + markdown_table(cells, columns)
        + "\nStages of that merge beside the same plain pass; work between two stages counts to the later one:\n\n"
        + markdown_table(spent, ("model", "stage", "seconds", "× plain pass"))
    )


def _without_data(part: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    cells = []
    for row in part["rows"]:
        card, cpu, streams = (median(row[where]["seconds"]) for where in ("card", "cpu", "streams"))
        theirs = median(row["peft"]["seconds"]) if "peft" in row else None
        cells.append((
            row["method"],
            f"{card:.3g}",
            f"{cpu:.3g}",
            f"{cpu / card:.1f} ×",
            f"{card / streams:.2f} ×",
            row["kind"],
            None if theirs is None else f"{theirs:.3g}",
            None if theirs is None else f"{theirs / card:.1f} ×",
            _gib(row["card"]["extra_gib"]),
        ))
    columns = (
        "method",
        "card, s",
        "CPU, s",
        "CPU / card",
        "streams",
        "PEFT",
        "PEFT on the card, s",
        "PEFT / card",
        "extra GiB",
    )
    return (
        "## Merges without data\n\n"
        f"One layer of {part['size']}, {settings['adapters']} adapters of rank {settings['rank']}, output rank "
        f"{settings['rank']}, from memory to memory; the second run of each. *Streams*: how many times\nas fast "
        f"{STREAMS} threads with a stream each are as one.\n\n" + markdown_table(cells, columns)
    )
