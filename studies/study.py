"""What the scripts of all studies share: options, the page and its figures, what they ran on, timing."""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from math import comb
from pathlib import Path

import torch

from sst_merge import __version__
from sst_merge.files import atomic_file

__all__ = ["add_data", "interval", "peak_memory", "study_options", "timed", "versions", "write_page"]


def study_options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every study has.

    Args:
        doc: the script's docstring, shown by ``--help``.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for README.md (the page) and figures.json")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option of studies that read real text.

    Args:
        parser: of the script.
    """
    data = os.environ.get("SST_MERGE_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=data,
        required=data is None,
        help="folder with the public data sets (docs/data.md); by default the one that SST_MERGE_DATA names",
    )


def versions() -> str:
    """What a page names as its origin.

    Returns:
        Versions and processor.
    """
    return f"sst-merge {__version__}, torch {torch.__version__}, {platform.machine()} CPU"


def write_page(out: Path, text: str, figures: object) -> None:
    """Print a page, and write it with its figures.

    Args:
        out: folder, made where it is missing.
        text: Markdown that begins with a heading.
        figures: every single figure, as plain values.

    Raises:
        ValueError: there is no heading.
    """
    if not text.startswith("# "):
        raise ValueError(f"a page begins with a heading, found {text[:40]!r}")
    for name, content in (
        ("README.md", text.rstrip() + "\n"),
        ("figures.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n"),
    ):
        with atomic_file(out / name) as aside:
            aside.write_text(content, encoding="utf-8")
    print(text)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median and its 95 % interval by order statistics (the full range below 6 values).

    Args:
        ratios: at least one.

    Returns:
        Median, lower and upper end.
    """
    values, n = sorted(ratios), len(ratios)
    low, tail = 0, 2 * 0.5**n
    while tail + 2 * comb(n, low + 1) * 0.5**n <= 0.05:
        low += 1
        tail += 2 * comb(n, low) * 0.5**n
    return values[n // 2], values[low], values[n - 1 - low]


def timed(task: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of a call; on a CPU those of this process, so that other work on the machine matters less.

    Args:
        task: is called without arguments.
        device: where it computes.

    Returns:
        Seconds.
    """
    if device == "cpu":
        start = time.process_time()
        task()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(task: Callable[[], object], device: str = "cpu") -> float:
    """Peak memory of a call above what stood before it: of the allocator on a card, of the resident set on a CPU.

    Args:
        task: is called without arguments; on a CPU in a fork, so that what one call leaves does not help the next.
        device: where it computes.

    Returns:
        MiB.

    Raises:
        RuntimeError: the fork ended without an answer.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        task()
        extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - pages * resource.getpagesize() / 2**20
        os.write(writing, f"{extra:.1f}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        raise RuntimeError("the process that measured memory ended without an answer; was there enough of it?")
    return float(answer)
