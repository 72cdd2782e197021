"""``sst-merge inspect``: what a merge of some adapters would meet, before it is made."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError
from ..files import write_text
from ..folder_names import short_names
from ..hub_names import HubName, is_here
from ..texts import did_you_mean
from .console import finish, note, print_tables, progress_bars, say, shell, warn
from .converting import conversion_from, with_conversion
from .outputs import check_target
from .voice import voice

if TYPE_CHECKING:
    from ..lora_utils import Adapter, Conversion

__all__ = ["inspect"]

_KEYS = ("name", "path", "role", "weight", "initial")


@click.command(
    help="Measure ADAPTERS (PEFT folders, hub ids, or name=..,path=..,weight=..) before a merge: sizes, ranks, where "
    "every two of them collide, and the rank that their sum needs. A base model is read only for kinds that "
    "hold no ΔW of their own (DoRA, IA3, OFT, ...).",
    epilog="Example: sst-merge inspect adapters/code adapters/safety --heatmap collisions",
)
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTERS...")
@click.option("--json-file", type=click.Path(path_type=Path), help="write JSON to this file")
@click.option("--heatmap", type=click.Path(path_type=Path), help="draw a heat map to this path, as .png and .svg")
@click.option("--signs/--no-signs", default=True, help="compare signs entry by entry (most of the time; on by default)")
@click.option(
    "--negligible",
    default=0.1,
    show_default=True,
    help="entries below this multiple of their update's root mean square have no sign",
)
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="modules to name per pair")
@click.option("--drop-modules-to-save", is_flag=True, help="leave whole trained weights of the adapters out")
@click.option("--leave-out", multiple=True, metavar="MODULE", help="module to leave out, by name or end of name")
@click.option("--base", "--base-model", "base", metavar="BASE", help="folder or hub id, for DoRA, IA3, OFT, ...")
@with_conversion
@click.option("--force", is_flag=True, help="replace existing files")
def inspect(
    adapters: Sequence[str],
    json_file: Path | None,
    heatmap: Path | None,
    signs: bool,
    negligible: float,
    top: int,
    drop_modules_to_save: bool,
    leave_out: Sequence[str],
    base: str | None,
    convert_rank: int | None,
    convert_lost: float,
    allow_pickle: bool,
    force: bool,
) -> None:
    """Measure and show."""
    stem = None if heatmap is None else heatmap.with_suffix("") if heatmap.suffix in {".png", ".svg"} else heatmap
    if json_file is not None:
        check_target(json_file, option="--json-file", force=force)
    if stem is not None:
        for suffix in (".png", ".svg"):
            check_target(stem.with_name(f"{stem.name}{suffix}"), option="--heatmap", force=force)
    conversion = conversion_from(base, convert_rank, convert_lost, allow_pickle=allow_pickle)
    opened = _open(adapters, drop_modules_to_save, leave_out, conversion)
    from ..inspection import inspect_adapters

    with progress_bars() as progress:
        found = inspect_adapters(opened, signs=signs, negligible=negligible, progress=progress)
    for warning in found.warnings:
        warn(warning)
    text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    from .inspection_tables import inspection_maps, inspection_tables

    print_tables(inspection_tables(found, top=top))
    say("What this means")
    for sentence in found.meaning:
        say(f"- {sentence}")
    written: list[Path] = []
    if json_file is not None:
        write_text(json_file, f"{text}\n")
        written.append(json_file)
    if stem is not None:
        from ..reporting import heat_maps

        names = " and ".join(adapter.name for adapter in opened) if len(opened) < 3 else f"{len(opened)} adapters"
        written += heat_maps(inspection_maps(found), path_stem=stem, title=f"Before a merge: {names}")
    for path in written:
        (say if voice().json_to is None else note)(path)
    roles = [
        ("--safety" if one.role == "safety" else "--skill", text) for one, text in zip(opened, adapters, strict=True)
    ]
    words = [word for pair in roles for word in pair]
    finish(found.to_dict(), then=shell("sst-merge", "merge", *words, "-o", "out/merged", "--dry-run"))


def _open(
    texts: Sequence[str], drop_modules_to_save: bool, leave_out: Sequence[str], conversion: "Conversion"
) -> "list[Adapter]":
    """Load every adapter; those without a name get the shortest end of their path that tells them apart.

    Raises:
        ConfigError: no path, or a key that means nothing here.
    """
    from ..lora_utils import Adapter
    from .merge_flags import parse_adapter

    given = []
    for text in texts:
        fields = parse_adapter(text)
        unknown = sorted(fields.keys() - set(_KEYS))
        if unknown or "path" not in fields:
            fault = f"{unknown[0]!r} is unknown{did_you_mean(unknown[0], _KEYS)}" if unknown else "there is no path"
            raise ConfigError(f"adapter {text!r}: {fault}; expected a folder, or {', '.join(_KEYS)} as key=value")
        given.append(fields)
    unnamed = short_names([_tellable(str(fields["path"])) for fields in given])
    return [
        Adapter.load(
            str(fields["path"]),
            name=str(fields.get("name", unnamed[index])),
            role=fields.get("role", "utility"),  # type: ignore[arg-type]  # Adapter itself judges it
            weight=_weight(fields.get("weight", 1.0), texts[index]),
            drop_modules_to_save=drop_modules_to_save,
            leave_out=leave_out,
            conversion=replace(conversion, initial=str(fields["initial"]) if "initial" in fields else None),
        )
        for index, fields in enumerate(given)
    ]


def _tellable(path: str) -> Path:
    """A path, or of a name on the hub the parts that tell it from others."""
    name = None if is_here(path) else HubName.parse(path)
    return Path(path) if name is None else Path(name.repo, name.subfolder)


def _weight(value: object, text: str) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise ConfigError(f"adapter {text!r}: weight is {value!r}, expected a number") from error
