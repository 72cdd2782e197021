"""The calibration set that ships with the package, for merges without data of their own; see calibration/README.md.

It is never used unasked: a configuration says ``data: {calibration: builtin}``, a command ``--calibration builtin``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from .source import DataSource

__all__ = ["BUILTIN_FILES", "CalibrationKind", "builtin_calibration", "is_builtin"]

CalibrationKind = Literal["harm", "benign"]

_FOLDER = Path(__file__).with_name("calibration")
BUILTIN_FILES: Mapping[CalibrationKind, Path] = {
    "harm": _FOLDER / "harmful.jsonl",
    "benign": _FOLDER / "benign.jsonl",
}
"""Kind → file."""


def builtin_calibration(kind: CalibrationKind, *, samples: int | None = None) -> DataSource:
    """One half of the set: harmful requests with refusals, or harmless ones with short good answers.

    Args:
        kind: ``harm`` or ``benign``.
        samples: rows to draw; all by default.

    Returns:
        A source like any other.

    Example:
        >>> from sst_merge.data_loader import builtin_calibration, load_rows
        >>> len(load_rows(builtin_calibration("harm"))), len(load_rows(builtin_calibration("benign")))
        (200, 252)
    """
    return DataSource(path=BUILTIN_FILES[kind], samples=samples)


def is_builtin(source: DataSource | None) -> bool:
    """Whether a source is a file of the set."""
    return source is not None and source.path in BUILTIN_FILES.values()
