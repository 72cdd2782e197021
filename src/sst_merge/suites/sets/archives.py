"""Two formats that only single sets use: MMLU's archive of header-less tables, and plain text."""

import csv
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data_loader.formats import read_file
from ...errors import DataError
from .spec import Part

__all__ = ["read_parts"]

_SPLITS = ("dev", "test")


def read_parts(path: Path) -> list[Part]:
    """Read one file of a data folder.

    Args:
        path: an archive (.zip) with ``data/<split>/<subject>_<split>.csv``, plain text (.txt: a paragraph a line), or
            anything that :func:`~sst_merge.data_loader.formats.read_file` reads.

    Returns:
        Name and records: one part a split for an archive, else one part named like the file.

    Raises:
        DataError: no such file, or contents that are not what the ending says.
    """
    name = path.name.split(".")[0]
    if path.suffix == ".zip":
        return _question_archive(path)
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text at byte {error.start}; convert the file") from error
        return [(name, [{"text": line} for line in lines])]
    return [(name, read_file(path))]


def _question_archive(path: Path) -> list[Part]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            return [(split, _split_of(archive, members, split, path)) for split in _SPLITS]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: damaged or not a zip archive ({error}); fetch it again") from error


def _split_of(archive: zipfile.ZipFile, members: list[str], split: str, path: Path) -> list[Mapping[str, Any]]:
    ending = f"_{split}.csv"
    records: list[Mapping[str, Any]] = []
    for member in sorted(name for name in members if name.endswith(ending) and f"/{split}/" in f"/{name}"):
        subject = Path(member).name.removesuffix(ending)
        text = io.TextIOWrapper(archive.open(member), encoding="utf-8", newline="")
        for number, cells in enumerate(csv.reader(text), start=1):
            if len(cells) != 6 or cells[5] not in {"A", "B", "C", "D"}:
                raise DataError(
                    f"{path}, {member}, record {number}: {len(cells)} fields; expected question, four options and "
                    "A, B, C or D"
                )
            records.append({
                "subject": subject,
                "question": cells[0],
                "choices": cells[1:5],
                "answer": "ABCD".index(cells[5]),
            })
    if not records:
        raise DataError(f"{path}: holds no {split}/<subject>{ending}; expected the archive of hendrycks/test")
    return records
