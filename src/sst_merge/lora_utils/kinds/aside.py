"""The folder in which an adapter lies as a plain LoRA: its own, or one beside everything that ends with the process.

A whole folder, where a DoRA gets a file of factors alone (:func:`~..conversion.convert_aside`): of these kinds neither
configuration nor header could be read as those of a LoRA, so both are written anew.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import AdapterError
from ...reading import parse_json
from ..conversion import Conversion, Converted, ConvertedModule, check_loss
from ..factors import LoraFactors
from ..folders import CONFIG_NAME, PICKLE_NAME, WEIGHTS_NAME
from ..layouts import LINEAR, Conv1DKind
from ..nearest import Nearest
from ..opening import fitting_task_type
from ..settings import base_changing_init
from ..writing import write_adapter_files
from .base_side import BaseSide
from .initial import initial_place, plain_of_initial
from .lowering import Limits
from .pickles import is_pickle, named_as, unpickle
from .products import adalora_update, loha_update, lokr_update, vera_projections, vera_update
from .stored import StoredKind, read_stored_kind
from .table import KINDS, NO_UPDATE
from .through_peft import peft_updates

__all__ = ["Plain", "is_plain", "plain_folder"]

_PRODUCTS = {"LOHA": loha_update, "LOKR": lokr_update, "ADALORA": adalora_update}


@dataclass(frozen=True)
class Plain:
    """An adapter as a plain LoRA.

    Attributes:
        folder: with the two files of a PEFT adapter; the user's own where nothing was to be done.
        converted: what it was; None for a plain LoRA.
        left_out: keys that were left out on the way.
        notes: sentences about it.
        initial: folder of the weights that training began with, where they were taken off.
    """

    folder: Path
    converted: Converted | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    initial: Path | None = None


# Made once a process: commands open the same adapter several times. The folders go when the process ends.
_made: dict[tuple[object, ...], tuple[Plain, tempfile.TemporaryDirectory[str]]] = {}


def is_plain(folder: Path, conversion: Conversion) -> bool:
    """Whether a folder is read as it is, or refused as it is; looks at its configuration and file names alone."""
    config = _config(folder)
    return (config is None or _way(config) is None) and not _is_pickle(folder, conversion)


def plain_folder(
    folder: Path,
    conversion: Conversion,
    *,
    drop_modules_to_save: bool = False,
    leave_out: Collection[str] = (),
) -> Plain:
    """Turn an adapter into a plain LoRA aside, where it is none; the folder itself is only read.

    Args:
        folder: of the adapter.
        conversion: what may be done.
        drop_modules_to_save: leave whole trained weights out.
        leave_out: modules to leave out, by their names or the ends of their names.

    Raises:
        AdapterError: a kind that has no ΔW, or none without what is missing here.
        BaseModelError: the base that is needed cannot be read.
    """
    if is_plain(folder, conversion):
        _refuse_other_kinds(folder)
        return Plain(folder, notes=_unused(conversion))
    config = _config(folder)
    initial = initial_place(folder, config, conversion) if config is not None and _way(config) == "initial" else None
    states = tuple(_state(place) for place in (folder, initial) if place is not None)
    key = (states, conversion, drop_modules_to_save, tuple(leave_out))
    if key not in _made:
        place = tempfile.TemporaryDirectory(prefix="sst-merge-", ignore_cleanup_errors=True)
        made = _convert(folder, Path(place.name), conversion, initial, drop_modules_to_save, tuple(leave_out))
        _made[key] = made, place
    return _made[key][0]


def _state(folder: Path) -> tuple[object, ...]:
    """What tells a folder from its earlier self."""
    files = [file for name in (CONFIG_NAME, WEIGHTS_NAME, PICKLE_NAME) if (file := folder / name).is_file()]
    return (folder.resolve(), *((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


def _convert(
    folder: Path,
    place: Path,
    conversion: Conversion,
    initial: Path | None,
    drop: bool,
    leave_out: tuple[str, ...],
) -> Plain:
    source = _readable(folder, place / "tensors", conversion)
    notes: tuple[str, ...] = ()
    if source != folder:
        notes = (f"{PICKLE_NAME} was a pickle; its tensors alone were read (--allow-pickle)",)
    config = _config(source)
    way = None if config is None else _way(config)
    if config is None or way is None:
        with named_as(folder, source):
            _refuse_other_kinds(source)
        return Plain(source, notes=(*notes, *_unused(conversion)))
    target = place / "plain"
    target.mkdir()
    if initial is not None:
        began = _readable(initial, place / "initial", conversion)
        with named_as(folder, source), named_as(initial, began):
            converted, left_out, more = plain_of_initial(
                source, config, target, began, conversion, drop_modules_to_save=drop, leave_out=leave_out
            )
        notes += (converted.sentence(), f"its initial weights are those of {initial.name!r}", *more)
        return Plain(target, converted, left_out, notes, initial)
    with named_as(folder, source):
        stored = read_stored_kind(source, config, KINDS[way], drop_modules_to_save=drop, leave_out=leave_out)
        converted = _write(stored, folder, target, conversion)
    return Plain(target, converted, stored.left_out, (*notes, converted.sentence(), *_unused(conversion)))


def _write(stored: StoredKind, folder: Path, target: Path, conversion: Conversion) -> Converted:
    """Write a kind's updates as they are worked out, one module in memory at a time.

    Raises:
        AdapterError: a module loses more than it may.
    """
    kind, config = stored.kind, stored.config
    named = config.get("base_model_name_or_path")
    needs = kind.needs_for(config)
    base = None
    if needs != "nothing":
        base = BaseSide.open(
            folder / CONFIG_NAME,
            kind,
            stored.parts,
            needs=needs,
            named=named,
            task_type=config.get("task_type"),
            conversion=conversion,
        )
    # As with plain LoRA: where no base is read, the flag says of all layers whether they are Conv1D.
    flagged = Conv1DKind() if config.get("fan_in_fan_out") else LINEAR
    limits = Limits(conversion.rank, conversion.most_lost, stored.precision)
    figures: dict[str, ConvertedModule] = {}

    def factors() -> Iterator[tuple[str, LoraFactors]]:
        for module, update, bias in _updates(stored, base, limits):
            figures[module] = ConvertedModule(update.b.shape[1], update.energy, update.lost)
            check_loss(update, conversion, where=stored.file, module=module, kind=kind.name)
            layer = flagged if base is None else base.shape(module).kind
            yield module, LoraFactors(update.b, update.a, layer, bias)

    write_adapter_files(
        target,
        factors(),
        base_model=named if isinstance(named, str) else None,
        task_type=fitting_task_type(config.get("task_type"), stored.whole),
        ranks="pattern",
        whole=stored.whole,
        modules_to_save=stored.modules_to_save,
    )
    return Converted(kind.name, None if base is None else base.name, figures)


def _updates(stored: StoredKind, base: BaseSide | None, limits: Limits) -> Iterator[tuple[str, Nearest, bool]]:
    """Module, its update, and whether it moves the bias, one at a time."""
    if base is None:
        product = _PRODUCTS[stored.kind.name]
        for module in stored.parts:
            yield module, product(stored, module, limits), False
    elif stored.kind.name == "VERA":
        projections = vera_projections(stored, base)
        for module in stored.parts:
            yield module, vera_update(stored, base, projections, module, limits), False
    else:
        yield from peft_updates(stored, base, limits)


def _way(config: Mapping[str, Any]) -> str | None:
    """How an adapter is turned into a plain LoRA: its kind, ``initial``, or None where it is none of these."""
    kind = config.get("peft_type")
    if kind == "LORA":
        return None if base_changing_init(config) is None else "initial"
    return kind if isinstance(kind, str) and kind in KINDS else None


def _refuse_other_kinds(folder: Path) -> None:
    """Say of a kind that is not read whether there is a way out.

    Raises:
        AdapterError: PEFT's name of a kind that is no LoRA.
    """
    kind = (_config(folder) or {}).get("peft_type", "LORA")
    if kind == "LORA":
        return
    why = (
        "it has no ΔW of the weights (prompts, routers), so there is nothing to merge; train a LoRA"
        if kind in NO_UPDATE
        else "merge it into its base with PEFT (merge_and_unload) and make a LoRA of the difference: sst-merge extract"
    )
    raise AdapterError(
        f"{folder / CONFIG_NAME}: peft_type is {kind!r}, expected 'LORA' or one of {', '.join(KINDS)}; {why}"
    )


def _unused(conversion: Conversion) -> tuple[str, ...]:
    """A note where initial weights were given for an adapter whose training did not move the base."""
    if conversion.initial is None:
        return ()
    return (
        "initial weights were given, and are not used: its configuration names no initialisation that takes weights "
        "out of the base",
    )


def _readable(folder: Path, place: Path, conversion: Conversion) -> Path:
    """A folder itself, or one of the same name with its pickle as safetensors."""
    if not _is_pickle(folder, conversion):
        return folder
    # Whoever reads a value later knows the copy alone.
    copy = place / folder.resolve().name
    copy.mkdir(parents=True)
    unpickle(folder, copy)
    return copy


def _is_pickle(folder: Path, conversion: Conversion) -> bool:
    return conversion.allow_pickle and is_pickle(folder)


def _config(folder: Path) -> dict[str, Any] | None:
    """A folder's configuration; None where it has none that can be read, which whoever reads it next says."""
    try:
        found = parse_json((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
