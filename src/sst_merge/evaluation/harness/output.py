"""The output folder: results appear whole, the summary last; answers for resuming lie beside them and stay."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import OutputExistsError
from ..records import Record, write_records

__all__ = ["ANSWERS", "SUMMARY", "check_output", "file_name", "write_results"]

SUMMARY = "summary.json"
ANSWERS = "answers"


def check_output(out: Path, *, force: bool) -> None:
    """Refuse to mix results: a folder with a finished evaluation is replaced only on demand.

    A folder without a summary (an evaluation that was killed) is gone on with.

    Args:
        out: the output folder.
        force: replace results; answers kept for resuming stay.

    Raises:
        OutputExistsError: it is a file, or holds finished results, or something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputExistsError(f"{out} is a file; choose another folder for --out")
    if (out / SUMMARY).exists() and not force:
        raise OutputExistsError(
            f"{out} holds a finished evaluation; choose another --out, or replace it with --force (answers that are "
            f"there already are not generated again)"
        )
    if any(out.iterdir()) and not (out / ANSWERS).is_dir() and not (out / SUMMARY).exists():
        raise OutputExistsError(f"{out} holds files, but no evaluation; choose a new or empty folder for --out")


def file_name(name: str) -> str:
    """A model's or suite's name as a file name.

    Args:
        name: any name.

    Returns:
        Letters, digits, dots, dashes and underscores.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "--", name)


def write_results(
    out: Path,
    records: Mapping[tuple[str, str], Sequence[Record]],
    files: Mapping[str, str | dict[str, Any] | list[Any]],
    extra: Sequence[Callable[[Path], object]] = (),
) -> None:
    """Write everything into a folder beside, then rename it piece by piece; ``summary.json`` comes last.

    Args:
        out: the output folder.
        records: (model, suite) → records.
        files: file name → text, or values written as JSON.
        extra: called with the unfinished folder, to add tables and plots.
    """
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".results.", dir=out))
    try:
        for (model, suite), found in records.items():
            write_records(aside / "records" / file_name(model) / f"{file_name(suite)}.jsonl", found)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (aside / name).write_text(text, encoding="utf-8")
        for write in extra:
            write(aside)
        (out / SUMMARY).unlink(missing_ok=True)
        for piece in sorted(aside.iterdir(), key=lambda piece: piece.name == SUMMARY):
            target = out / piece.name
            if target.is_dir():
                shutil.rmtree(target)
            piece.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
