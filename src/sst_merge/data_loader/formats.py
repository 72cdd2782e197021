"""Records out of files: JSON lines, JSON lists and CSV, plain or compressed, and the hub."""

import csv
import gzip
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..hub_names import HubName, is_here, near_name
from ..reading import cause, parse_json, reading, reads
from .hub import HubRepo, look_up

__all__ = ["Record", "find_set", "read_file", "read_hub", "set_name"]

Record = Mapping[str, Any]
Refuse = Callable[..., None]
"""Told of a piece of a file that is no record: where and why, from which error."""

_OPENERS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


@reads(DataError, "a file of records", "check `path`")
def read_file(path: Path, broken: list[str] | None = None) -> list[Record]:
    """All records of one file, in file order.

    Args:
        path: .jsonl, .json (a list of objects) or .csv (with a header line), each also followed by .gz or .xz; or
            .parquet.
        broken: what is said of lines and records that are none, which are left out then; by default the first one
            is an error.

    Returns:
        One mapping per record.

    Raises:
        DataError: no such file, a folder, an unknown format, or contents that are not what the ending says.
    """
    if path.is_dir():
        inside = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
        raise DataError(f"{path} is a folder (it holds {inside}); name one file in it")
    if not path.is_file():
        raise DataError(
            f"{path} does not exist{near_name(path)}; correct the path (one in a YAML file is "
            "looked for beside that file, then in the working folder)"
        )
    suffixes = [suffix.lower() for suffix in path.suffixes]
    opener = _OPENERS.get(suffixes[-1]) if suffixes else None
    kind = suffixes[-2] if opener is not None and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if suffixes and suffixes[-1] == ".parquet":
        return _parquet(path)
    parsers = {".jsonl": _json_lines, ".json": _json_list, ".csv": _comma_separated}
    if kind not in parsers:
        raise DataError(
            f"{path}: unknown format; expected .jsonl, .json or .csv, or one of them followed by .gz or .xz, or "
            f".parquet"
        )
    with reading(path, DataError, f"a {kind} file in UTF-8", "convert the file, or fetch it again"):
        try:
            # utf-8-sig: spreadsheet programs put a byte order mark before the header's first name.
            with (opener or open)(path, mode="rt", encoding="utf-8-sig", newline="") as stream:
                return parsers[kind](stream, path, partial(_refuse, path, broken))
        except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
            raise DataError(
                f"{path}: damaged or not {suffixes[-1]} compressed ({error}); fetch or pack it again"
            ) from error


def _refuse(path: Path, broken: list[str] | None, found: str, error: Exception | None = None) -> None:
    """Keep what is said of a piece that is no record, or refuse it where nobody wants to know.

    Raises:
        DataError: ``broken`` is None.
    """
    if broken is None:
        raise DataError(f"{path}, {found}") from error
    broken.append(found)


def _json_lines(stream: Iterable[str], path: Path, refuse: Refuse) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else cause(error)
            refuse(f"line {number}: not JSON ({said}); one object a line is expected", error)
            continue
        if isinstance(record, dict):
            records.append(record)
        else:
            refuse(f"line {number}: a JSON {type(record).__name__}, expected an object")
    return records


def _json_list(stream: Iterable[str], path: Path, refuse: Refuse) -> list[Record]:
    try:
        content = parse_json("".join(stream))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); is it a .jsonl file?") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: a JSON {type(content).__name__}, expected a list of objects")
    for number, record in enumerate(content, start=1):
        if not isinstance(record, dict):
            refuse(f"record {number}: a JSON {type(record).__name__}, expected an object")
    return [record for record in content if isinstance(record, dict)]


def _comma_separated(stream: Iterable[str], path: Path, refuse: Refuse) -> list[Record]:
    try:
        records = list(csv.DictReader(stream, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: not comma-separated values ({error})") from error
    whole: list[Record] = []
    for number, record in enumerate(records, start=1):
        if None in record or None in record.values():
            refuse(f"record {number}: its number of fields differs from the header's; quote the commas")
        else:
            whole.append({name.strip(): value for name, value in record.items()})
    return whole


def _parquet(path: Path) -> list[Record]:
    try:
        from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet is read by the package pyarrow, which cannot be imported ({error}); run: "
            f"pip install pyarrow"
        ) from error
    try:
        # As a file, not a path: pyarrow would take `year=2024` in a folder's name for a column.
        with path.open("rb") as stream:
            records: list[Record] = parquet.read_table(stream).to_pylist()
    except ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({cause(error)}); fetch or write it again") from error
    return records


def read_hub(dataset: str, subset: str | None, split: str, *, revision: str | None = None) -> list[Record]:
    """All records of one split of a hub data set.

    Args:
        dataset: ``user/name``, ``user/name@revision`` or ``user/name/folder``, or a folder that ``datasets`` reads.
        subset: its configuration.
        split: such as ``train``.
        revision: commit, tag or branch, where the name has none.

    Raises:
        DataError: the data set, subset or split does not exist or cannot be reached.
    """
    from datasets import load_dataset

    advice = (
        "check the id, `subset` and `split`, log in where access is granted on request, or download a file and give "
        "its `path`"
    )
    name = set_name(dataset, revision)
    where = dataset if name is None else name.repo
    inside = {} if name is None or not name.subfolder else {"data_dir": name.subfolder}
    repo = None if name is None else find_set(name)
    if repo is not None and repo.reached:
        revision = repo.commit
    elif name is not None:
        revision = name.revision
    where_told = f"{dataset} (subset {subset}, split {split!r})"
    with reading(where_told, DataError, "a data set of the hub", advice), _bars_on_terminals():
        try:
            records = load_dataset(where, subset, split=split, revision=revision, **inside)
        except Exception:
            # The library tells a set that may not be read as one that is not there.
            if repo is not None:
                repo.check_readable()
            raise
        return [dict(record) for record in records]


@contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """The bars of ``datasets``, which without this are also written into files and pipes."""
    import datasets

    left_alone = sys.stderr.isatty() or datasets.are_progress_bars_disabled()
    if not left_alone:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not left_alone:
            datasets.enable_progress_bars()


def set_name(dataset: str, revision: str | None = None) -> HubName | None:
    """What is asked of the hub; None for a folder that is here.

    Args:
        dataset: as a user writes it.
        revision: where the name has none.
    """
    name = None if is_here(dataset) else HubName.parse(dataset, single=True)
    return name if name is None or revision is None else replace(name, revision=revision)


def find_set(name: HubName) -> HubRepo | None:
    """Ask the hub for a data set, so that one is refused before anything heavy.

    Returns:
        The repository; None where neither the hub nor its cache tells, which is no refusal: ``datasets`` keeps prepared
        data in a cache of its own.

    Raises:
        DataError: the hub says that there is none, or that it may not be read.
    """

    def refusal(said: str) -> DataError:
        return DataError(
            f"data set {name}: no such folder here, and on the hub: {said}. Or download a file and give its `path`"
        )

    return look_up(name, refusal, kind="dataset", needed=False)
