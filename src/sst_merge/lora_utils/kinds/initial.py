"""PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ: training began at weights that were taken out of the base.

PEFT then trains W - s·B0·A0 + s·B·A, so that relative to the plain base ΔW = s·(B·A - B0·A0), of rank 2r. That is what
PEFT's ``path_initial_model_for_weight_conversion`` writes, and what is read here from the two folders. LoftQ takes them
out of a quantised base: what quantisation itself lost of the weights is no part of ΔW, which a note says.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...errors import AdapterError
from ..conversion import Conversion, Converted, ConvertedModule, check_loss
from ..factors import LoraFactors
from ..folders import CONFIG_NAME, WEIGHTS_NAME
from ..header import Header, read_header
from ..nearest import Nearest
from ..opening import fitting_task_type
from ..places import adapter_place
from ..settings import base_changing_init, read_settings
from ..sources import FileSource
from ..whole_weights import names_held
from ..writing import write_adapter_files
from .lowering import Limits, from_pair
from .stored import precision_of

__all__ = ["initial_place", "plain_of_initial"]

_BESIDE = ("{}_init", "init", "initial", "initial_weights")  # what people call it; {} is the initialisation or adapter


def plain_of_initial(
    folder: Path,
    config: Mapping[str, Any],
    target: Path,
    place: Path,
    conversion: Conversion,
    *,
    drop_modules_to_save: bool,
    leave_out: Collection[str],
) -> tuple[Converted, tuple[str, ...], tuple[str, ...]]:
    """Write the difference of an adapter and its initial weights as a plain LoRA.

    Args:
        folder: of the adapter.
        config: its adapter_config.json.
        target: an empty folder.
        place: folder of the initial weights (:func:`initial_place`).
        conversion: rank and limit; without a rank all is kept.
        drop_modules_to_save: leave whole trained weights out.
        leave_out: modules to leave out.

    Returns:
        What was done, keys that were left out, and notes.

    Raises:
        AdapterError: they are others than this adapter began with, or a rank that was asked for loses too much.
    """
    init = base_changing_init(config) or ""
    if config.get("use_dora"):
        raise AdapterError(
            f"{folder / CONFIG_NAME}: use_dora beside init_lora_weights {init!r}: the learnt lengths belong to a base "
            f"that is not on disk; merge the adapter where it was trained, and use sst-merge extract"
        )
    settings = read_settings(folder, moved_base=True)
    dtype = precision_of(folder / WEIGHTS_NAME)
    header = read_header(folder, settings, drop_modules_to_save=drop_modules_to_save, leave_out=leave_out)
    began = read_header(place, read_settings(place, moved_base=True), drop_modules_to_save=True, leave_out=leave_out)
    _check_same(folder, header, place, began)
    trained, first = (FileSource(at / WEIGHTS_NAME, h.modules) for at, h in ((folder, header), (place, began)))
    limits = Limits(conversion.rank, conversion.most_lost, dtype)
    figures: dict[str, ConvertedModule] = {}

    def factors() -> Iterator[tuple[str, LoraFactors]]:
        for module in header.modules:
            trained.check(module)
            first.check(module)
            made = _difference(trained.read(module, dtype), first.read(module, dtype))
            energy = float(((made.b.T @ made.b).double() * (made.a @ made.a.T).double()).sum())
            kept = Nearest(made.b, made.a, max(energy, 0.0), 0.0)
            if conversion.rank is not None:
                kept = from_pair(made.b, made.a, limits)
                check_loss(kept, conversion, where=folder / WEIGHTS_NAME, module=module, kind=init)
            figures[module] = ConvertedModule(kept.b.shape[1], kept.energy, kept.lost)
            yield module, replace(made, b=kept.b, a=kept.a)

    write_adapter_files(
        target,
        factors(),
        base_model=settings.base_model,
        task_type=fitting_task_type(settings.task_type, header.whole),
        ranks="pattern",
        whole=header.whole,
        modules_to_save=names_held(settings.modules_to_save, header.whole),
    )
    notes = header.notes
    if init.lower() == "loftq":
        notes += (
            "its ΔW is relative to the base as LoftQ quantised it, its first weights put back in; what quantisation "
            "lost of the plain base is no part of it",
        )
    return Converted(init, None, figures), header.left_out, notes


def initial_place(folder: Path, config: Mapping[str, Any], conversion: Conversion) -> Path:
    """The folder of an adapter's initial weights: the one that is named, or one in the adapter's or beside it.

    Args:
        folder: of the adapter.
        config: its adapter_config.json.
        conversion: may name it.

    Raises:
        AdapterError: there is none, or several.
    """
    if conversion.initial is not None:
        return adapter_place(conversion.initial, allow_pickle=conversion.allow_pickle).folder
    init = base_changing_init(config) or ""
    name = init.partition("_")[0].lower()
    names = {pattern.format(each) for pattern in _BESIDE for each in (name, folder.name)}
    places = [place / each for place in (folder, folder.parent) for each in sorted(names)]
    found = [place for place in places if place != folder and (place / CONFIG_NAME).is_file()]
    if len(found) == 1:
        return found[0]
    seen = (
        f"{len(found)} folders that could hold them ({', '.join(map(str, found))})"
        if found
        else f"none beside it (such as {folder / f'{name}_init'})"
    )
    extract = "; for loftq, extract the difference to the plain base: sst-merge extract" if name == "loftq" else ""
    raise AdapterError(
        f"{folder / CONFIG_NAME}: init_lora_weights is {init!r}, which changed the base weights, so ΔW is not relative "
        f"to the base on disk; with the weights that training began with it can be told, and there are {seen}. Name "
        f"their folder: initial (--initial-weights), or save the adapter relative to the plain base with PEFT's "
        f"save_pretrained(path_initial_model_for_weight_conversion=...){extract}"
    )


def _check_same(folder: Path, header: Header, place: Path, began: Header) -> None:
    """Refuse initial weights of other modules, ranks or scales.

    Raises:
        AdapterError: a module that differs.
    """
    for module in header.modules.keys() | began.modules.keys():
        mine, its = header.modules.get(module), began.modules.get(module)
        if mine is None or its is None or (mine.layout, mine.scale) != (its.layout, its.scale):
            found = "no such module" if mine is None or its is None else "another shape, rank or scale"
            raise AdapterError(
                f"{place}: module {module!r}: {found} in these initial weights than in {folder}; expected those with "
                f"which the training of this adapter began"
            )


def _difference(now: LoraFactors, then: LoraFactors) -> LoraFactors:
    return LoraFactors(torch.cat([now.b, -then.b], dim=1), torch.cat([now.a, then.a]), now.kind, now.bias)
