"""Finished cells of experiments in one small file beside a study's page, so that a fresh machine goes on from them."""

import json
import lzma
from pathlib import Path

from sst_merge.experiments.cells import CellStore, canonical
from sst_merge.files import atomic_file

__all__ = ["pack", "unpack"]

_CELLS = "cells.jsonl.xz"


def unpack(folder: Path, store: CellStore) -> int:
    """Put packed cells where experiments look for them.

    Args:
        folder: with ``cells.jsonl.xz``, or without.
        store: of the experiments.

    Returns:
        How many there were.
    """
    packed = folder / _CELLS
    if not packed.is_file():
        return 0
    lines = lzma.decompress(packed.read_bytes()).decode().splitlines()
    for line in lines:
        kept = json.loads(line)
        path = store.folder / kept["kind"] / f"{kept.pop('key')}.json"
        if not path.is_file():
            with atomic_file(path) as aside:
                aside.write_text(canonical(kept) + "\n", encoding="utf-8")
    return len(lines)


def pack(folder: Path, store: CellStore) -> int:
    """Write all finished cells into one small file; the same cells give the same bytes.

    Args:
        folder: for ``cells.jsonl.xz``.
        store: of the experiments.

    Returns:
        Bytes.
    """
    paths = sorted(path for path in store.folder.glob("*/*.json") if path.parent.name != "training")
    # A cell of older code that stands for a newer one is the same file under a second name.
    once = {path.read_bytes(): path for path in reversed(paths)}
    lines = [
        canonical({**json.loads(content), "key": path.stem})
        for content, path in sorted(once.items(), key=lambda of: of[1])
    ]
    small = lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9)
    with atomic_file(folder / _CELLS) as aside:
        aside.write_bytes(small)
    return len(small)
