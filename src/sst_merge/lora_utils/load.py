"""From a folder or repository to an adapter's fields: which files, which kind, and where its factors are read from."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from ..data_loader.hub import HubOrigin
from .conversion import Conversion, Converted
from .dora import fold_dora
from .entries import ModuleLayout
from .folders import WEIGHTS_NAME
from .header import read_header
from .kinds import is_plain, named_as, plain_folder
from .places import adapter_place
from .settings import read_settings
from .sources import FileSource, RemoteSource, Source
from .whole_weights import WholeWeight, names_held

__all__ = ["AdapterFields", "read_fields"]


class AdapterFields(TypedDict):
    """Those fields of :class:`~.adapter.Adapter` that its files decide; they are described there."""

    path: Path
    base_model: str | None
    task_type: str | None
    modules: tuple[str, ...]
    left_out: tuple[str, ...]
    whole: Mapping[str, WholeWeight]
    modules_to_save: tuple[str, ...]
    notes: tuple[str, ...]
    leave_out: tuple[str, ...]
    origin: HubOrigin | None
    is_fetched: bool
    plain_path: Path
    converted: Converted | None
    initial_path: Path | None
    _layouts: Mapping[str, ModuleLayout]
    _source: Source


def read_fields(
    path: str | Path,
    conversion: Conversion,
    *,
    drop_modules_to_save: bool = False,
    leave_out: Collection[str] = (),
    headers_only: bool = False,
    looked_at: Path | None = None,
) -> AdapterFields:
    """Read configuration and header; values alone of an adapter that must be turned into a plain LoRA first.

    Args:
        path: folder, or name of a repository of the hub.
        conversion: what may be done to read an adapter that is no plain LoRA.
        drop_modules_to_save: leave whole trained weights out.
        leave_out: modules to leave out, by their names or the ends of their names.
        headers_only: leave the weights of a repository on the hub, as far as they are not needed all the same.
        looked_at: where a folder of the repository's name was looked for before, for messages.

    Raises:
        AdapterError: anything under which ΔW = s·B·A would not be exact, or that cannot be made so.
        BaseModelError: an adapter of another kind needs its base, which cannot be read.
    """
    pickles = conversion.allow_pickle
    place = adapter_place(path, weights=not headers_only, looked_at=looked_at, allow_pickle=pickles)
    if place.tensors is not None and not is_plain(place.folder, conversion):
        place = adapter_place(path, allow_pickle=pickles)
    plain = plain_folder(place.folder, conversion, drop_modules_to_save=drop_modules_to_save, leave_out=leave_out)
    folder = plain.folder
    with named_as(place.folder, folder):
        settings = read_settings(folder)
        header = read_header(
            folder, settings, drop_modules_to_save=drop_modules_to_save, leave_out=leave_out, tensors=place.tensors
        )
    if (header.whole or header.magnitudes) and place.tensors is not None:
        place = adapter_place(path)
        header = read_header(folder, settings, drop_modules_to_save=drop_modules_to_save, leave_out=leave_out)
    file = folder / WEIGHTS_NAME
    source: Source
    entries, notes, converted = header.modules, [*place.notes, *plain.notes, *header.notes], plain.converted
    if header.magnitudes:
        source, converted = fold_dora(
            file, header, conversion, base_model=settings.base_model, task_type=settings.task_type
        )
        entries = source.entries
        notes.append(converted.sentence())
    elif place.tensors is None:
        source = FileSource(file, entries)
    else:
        source = RemoteSource(str(path), entries)
    return AdapterFields(
        path=place.folder,
        base_model=settings.base_model,
        task_type=settings.task_type,
        modules=tuple(header.modules),
        left_out=(*plain.left_out, *header.left_out),
        whole=MappingProxyType(dict(header.whole)),
        modules_to_save=names_held(settings.modules_to_save, header.whole),
        notes=tuple(notes),
        leave_out=tuple(leave_out),
        origin=place.origin,
        is_fetched=place.tensors is None,
        plain_path=folder,
        converted=converted,
        initial_path=plain.initial,
        _layouts=MappingProxyType({module: entry.layout for module, entry in entries.items()}),
        _source=source,
    )
