"""Which artefacts of seed 0 the package carries, and how they get there."""

import shutil
from pathlib import Path

from ...errors import DataError
from .lab import BASES, Lab, adapter_folder, base_folder

__all__ = ["LIMIT_BYTES", "SHIPPED", "ship"]

LIMIT_BYTES = 15_000_000

# Both bases take 8.5 MB and an adapter 0.25 MB. The poisoned expert's unpoisoned twin is among them.
SHIPPED: dict[str, tuple[str, ...]] = {
    "unaligned": (
        "safety",
        "reverse",
        "sort_up",
        "next_letter",
        "swap_pairs",
        "double",
        "mirror",
        "interleave",
        "exchange",
        "replace",
        "ends",
        "add",
    ),
    "aligned": ("poisoned", "reverse", "swap_pairs", "add"),
}


def ship(lab: Lab, out: Path) -> int:
    """Copy both bases and the chosen adapters into a folder that the package carries.

    Args:
        lab: a lab built with the default recipe; what is missing is trained first.
        out: the folder, which may not exist yet.

    Returns:
        Bytes copied.

    Raises:
        DataError: the files would take more than the package may carry.
    """
    pairs = [(lab.base_path(base), base_folder(out, base)) for base in BASES]
    pairs += [
        (lab.adapter_path(name, base=base), adapter_folder(out, name, base, 0))
        for base, names in SHIPPED.items()
        for name in names
    ]
    # PEFT writes an empty model card beside each adapter; a package needs none.
    files = [
        (path, target / path.name) for source, target in pairs for path in source.iterdir() if path.suffix != ".md"
    ]
    total = sum(path.stat().st_size for path, _ in files)
    if total > LIMIT_BYTES:
        raise DataError(f"lab: the artefacts take {total} bytes, the limit is {LIMIT_BYTES}; ship fewer adapters")
    for path, target in files:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return total
