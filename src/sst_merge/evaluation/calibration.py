"""Prompts that a merge was calibrated on, which no suite may ask again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data_loader import DataSource, load_rows, normalise_prompt
from ..errors import ConfigError
from ..suites import available_sets, load_set

if TYPE_CHECKING:
    from ..merging.config import MergeConfig

__all__ = ["CalibrationPrompts", "read_calibration"]

_REPORT = "merge_report.json"


@dataclass(frozen=True, kw_only=True)
class CalibrationPrompts:
    """Prompts of one source.

    Attributes:
        name: how the source is called on the record.
        prompts: without wrappers.
    """

    name: str
    prompts: tuple[str, ...]

    def facts(self) -> Mapping[str, Any]:
        """What the record keeps: the name, how many distinct prompts, and a SHA-256 that ignores their order."""
        distinct = sorted({normalise_prompt(prompt) for prompt in self.prompts})
        found = hashlib.sha256()
        for prompt in distinct:
            found.update(hashlib.sha256(prompt.encode()).digest())
        return {"name": self.name, "prompts": len(distinct), "sha256": found.hexdigest()}


def read_calibration(where: str) -> CalibrationPrompts:
    """Read the prompts that a merge was calibrated on.

    Args:
        where: a file of prompts (.jsonl, .json, .csv, in any schema that calibration data may have; answers are not
            read), a merge's YAML configuration (the rows that it draws from all its data), or the name of a data set.

    Returns:
        The prompts.

    Raises:
        ConfigError: it is none of these, or a merge's folder, whose report does not name the data.
        DataError: the file, the set or the configuration's data cannot be read.
    """
    path = Path(where).expanduser()
    name = path.name if path.is_absolute() else path.as_posix()
    if path.is_file() and path.suffix.lower() in {".yaml", ".yml"}:
        return CalibrationPrompts(name=name, prompts=_of_merge(path))
    if path.name == _REPORT or (path / _REPORT).is_file():
        raise ConfigError(
            f"--exclude {where}: a merge's report does not name its calibration data; give the merge's YAML "
            f"configuration, or the files of prompts themselves"
        )
    if path.exists():
        return CalibrationPrompts(name=name, prompts=_prompts(path))
    if where in available_sets():
        return CalibrationPrompts(name=where, prompts=tuple(row["prompt"] for row in load_set(where).rows))
    raise ConfigError(
        f"--exclude {where}: no such file or data set; expected a file of prompts (.jsonl, .json, .csv), a merge's "
        f"YAML configuration, or one of {', '.join(available_sets())}"
    )


def _prompts(path: Path) -> tuple[str, ...]:
    # With a fixed answer the rows need none of their own: only what was asked matters here.
    return tuple(row.prompt for row in load_rows(DataSource(path=path, response=("not read",))))


def _of_merge(path: Path) -> tuple[str, ...]:
    from ..merging.config import load_config

    config = load_config(path)
    sources = _sources(config)
    if not sources:
        raise ConfigError(f"--exclude {path}: the configuration names no data, so nothing was calibrated on")
    return tuple(row.prompt for source in sources for row in load_rows(source, seed=config.seed))


def _sources(config: "MergeConfig") -> list[DataSource]:
    named = (config.data.harm, config.data.benign, *(adapter.data for adapter in config.adapters))
    return [data for data in named if data is not None]
