"""Points as configurations of ``sst-merge merge``, so that any of them is one command away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..files import write_text
from ..hub_names import is_here
from ..merging.config import MergeConfig
from .point import Point

__all__ = ["own_merge", "point_merge", "write_merge_file"]

_PLACES = frozenset({"path", "base_model", "aligned_base_model", "tokenizer", "dataset"})
"""Fields that may name a file or a folder."""


def own_merge(config: MergeConfig) -> dict[str, Any]:
    """What the user wrote under ``merge``, with absolute paths, so that it can be read from any folder.

    Args:
        config: as checked.

    Returns:
        Plain values.
    """
    plain: dict[str, Any] = _absolute(config.model_dump(mode="json", exclude_unset=True))
    for written, adapter in zip(plain["adapters"], config.adapters, strict=True):
        written |= {"name": adapter.label, "path": _absolute(str(adapter.reference), "path"), "role": adapter.role}
    plain.pop("merge", None)
    return plain


def point_merge(merge: Mapping[str, Any], point: Point, output: Path) -> dict[str, Any]:
    """The configuration that makes a point.

    Args:
        merge: what all points have in common, from :func:`own_merge` or a world.
        point: the method and its settings.
        output: folder to make.

    Returns:
        Plain values.
    """
    adapters = [dict(adapter) for adapter in merge["adapters"]]
    for adapter in adapters:
        if adapter.get("role") == "safety" and point.safety_weight != 1.0:
            adapter["weight"] = point.safety_weight * adapter.get("weight", 1.0)
    return {
        **merge,
        "adapters": adapters,
        "merge": {"method": point.method, **point.options},
        "output": {**merge.get("output", {}), "rank": point.rank, "path": str(output.absolute())},
    }


def write_merge_file(path: Path, merge: Mapping[str, Any], *, note: str) -> None:
    """Write a configuration.

    Args:
        path: the file.
        merge: plain values.
        note: what it is, as its first line; one line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(merge), sort_keys=False, allow_unicode=True, width=120)
    write_text(path, f"# {note}\n{text}")


def _absolute(value: Any, key: str = "") -> Any:
    """Whatever names something that is there, as an absolute path; names of the hub stay names."""
    if isinstance(value, dict):
        return {name: _absolute(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_absolute(inner, key) for inner in value]
    if isinstance(value, str) and key in _PLACES and is_here(value):
        return str(Path(value).expanduser().absolute())
    return value
