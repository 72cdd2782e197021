"""adapter_model.safetensors: which tensor belongs to which module, decided from the header alone."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import AdapterError
from ..texts import counted
from .entries import FLOATS, ModuleEntry, layer_entry, natural_key, placed_stacks, stack_entries
from .folders import WEIGHTS_NAME, find_weights
from .keys import SortedKeys, how_to_leave_out, sort_keys, stored_name
from .settings import LoraSettings
from .weights_file import TensorHeaders, tensor_headers
from .whole_weights import WholeWeight, heads_of, saved_part
from .wrappers import PREFIX

__all__ = ["PREFIX", "WEIGHTS_NAME", "Header", "read_header"]

_MOST_NAMES = 8  # of modules in one sentence


@dataclass(frozen=True)
class Header:
    """All modules of a file, in natural order.

    Attributes:
        modules: canonical module name → where its factors lie.
        left_out: keys that are no part of ΔW, nor written again: only where the caller asked to
            drop them, whole weights and modules by name; tensors that only training needs.
        whole: canonical tensor name → whole trained weight (``modules_to_save``, a saved embedding), no part of ΔW;
            among them PEFT's automatic copies of adapted embeddings and output layers (``<module>.base_layer.weight``),
            of which only the base can tell whether they are copies.
        notes: sentences about keys and fields that PEFT would read otherwise.
        magnitudes: module → key of its DoRA magnitude; all modules or none.
    """

    modules: Mapping[str, ModuleEntry]
    left_out: tuple[str, ...]
    whole: Mapping[str, WholeWeight]
    notes: tuple[str, ...]
    magnitudes: Mapping[str, str]


def read_header(
    folder: Path,
    settings: LoraSettings,
    *,
    drop_modules_to_save: bool = False,
    leave_out: Collection[str] = (),
    tensors: TensorHeaders | None = None,
) -> Header:
    """Sort a folder's tensors into modules and check every shape; no tensor is read.

    Args:
        folder: a PEFT adapter folder.
        settings: its configuration.
        drop_modules_to_save: leave whole trained weights out of the adapter.
        leave_out: modules to leave out, by their names or the ends of their names.
        tensors: tensor name → type and shape, where the header was read elsewhere and the file is not in the folder.

    Raises:
        AdapterError: no safetensors file, or any tensor that does not fit the configuration exactly.
    """
    file = find_weights(folder) if tensors is None else folder / WEIGHTS_NAME
    tensors = tensor_headers(file) if tensors is None else tensors
    _refuse_empty(file, tensors)
    if settings.bias != "none":
        _refuse_biases(file, tensors, settings)
    saved = (*settings.modules_to_save, *heads_of(settings.task_type))
    keys = sort_keys(file, tensors, drop_modules_to_save=drop_modules_to_save, leave_out=leave_out, saved=saved)
    named = set(settings.modules_to_save) - set(heads_of(settings.task_type))
    if named and not drop_modules_to_save and not any(saved_part(name, named) for name in keys.whole):
        raise AdapterError(
            f"{file}: modules_to_save is {list(settings.modules_to_save)}, but the file holds no whole weight of any "
            f"of them, so PEFT could not open it; save the adapter again, or go on without them: "
            f"drop_modules_to_save=True (--drop-modules-to-save)"
        )
    kept = sorted(keys.parts, key=natural_key)
    if not kept and not keys.nested:
        raise AdapterError(f"{file}: holds no LoRA factors; expected lora_A and lora_B of at least one module")
    names = {module: (module, stored_name(next(iter(keys.parts[module].values())))) for module in kept}
    stacks = placed_stacks(file, names, keys, tensors, settings)
    bare = {stack.module for stack in stacks}
    modules = {
        module: layer_entry(file, module, names[module], names, keys.parts[module], tensors, settings)
        for module in kept
        if module not in bare
    }
    for stack in stacks:
        modules |= stack_entries(file, stack, names, {**keys.parts, **keys.inner}[stack.stored], tensors, settings)
    modules = {module: modules[module] for module in sorted(modules, key=natural_key)}
    _check_magnitudes(file, modules, keys.magnitudes, tensors, settings)
    return Header(
        modules,
        tuple(sorted(keys.left_out)),
        {name: WholeWeight(file, key, *tensors[key]) for name, key in keys.whole.items()},
        (*settings.notes, *_notes(modules, names, keys, settings, bare)),
        keys.magnitudes,
    )


def _refuse_empty(file: Path, tensors: TensorHeaders) -> None:
    empty = [key for key, (_, shape) in tensors.items() if 0 in shape]
    if tensors and not empty:
        return
    found = f"{len(empty)} of {len(tensors)} tensors are empty, such as {empty[0]!r}" if empty else "holds no tensors"
    if empty:
        found += f" of shape {list(tensors[empty[0]][1])}"
    raise AdapterError(
        f"{file}: {found}: most likely saved without gathering ZeRO-3 shards (under DeepSpeed stage 3 each process "
        f"holds a piece of every weight); expected LoRA factors. Save the adapter again with "
        f"stage3_gather_16bit_weights_on_model_save, or from a checkpoint that zero_to_fp32.py put together"
    )


def _refuse_biases(file: Path, keys: Iterable[str], settings: LoraSettings) -> None:
    biases = [key for key in keys if key.endswith(".bias") and not (settings.lora_bias and ".lora_" in key)]
    if biases:
        raise AdapterError(
            f"{file}: bias is {settings.bias!r}, expected 'none': the file holds {len(biases)} whole biases of the "
            f"base model, such as {biases[0]!r}, not updates; train with bias='none', or with lora_bias=True where "
            f"biases must move"
        )


def _check_magnitudes(
    file: Path,
    modules: Mapping[str, ModuleEntry],
    magnitudes: Mapping[str, str],
    tensors: TensorHeaders,
    settings: LoraSettings,
) -> None:
    """A DoRA has one length for every output of every module, and nothing else has any.

    Raises:
        AdapterError: it is otherwise.
    """
    if not settings.dora:
        if magnitudes:
            raise AdapterError(
                f"{file}: tensor {next(iter(magnitudes.values()))!r} is not a plain LoRA factor but a DoRA magnitude, "
                f"and use_dora of the configuration is off; restore the adapter_config.json that was saved with it"
            )
        return
    if wrong := sorted(modules.keys() ^ magnitudes.keys(), key=natural_key):
        has = "no lora_magnitude_vector" if wrong[0] in modules else "a lora_magnitude_vector and no factors"
        raise AdapterError(
            f"{file}: use_dora is True, but module {wrong[0]!r} has {has}; the file is incomplete or belongs to "
            f"another adapter_config.json: save the adapter again"
        )
    if unread := [module for module, entry in modules.items() if entry.layout.kind.dimensions > 2]:
        raise AdapterError(
            f"{file}: module {unread[0]!r} is {modules[unread[0]].layout.kind.described} with a DoRA magnitude, which "
            f"is read of layers with a matrix alone. {how_to_leave_out(unread, modules)}"
        )
    for module, key in magnitudes.items():
        (dtype, shape), layout = tensors[key], modules[module].layout
        if dtype not in FLOATS or shape != (layout.d_out,):
            raise AdapterError(
                f"{file}: tensor {key!r} is {dtype} of shape {list(shape)}, expected plain floats of shape "
                f"[{layout.d_out}], one for every output; save the adapter again"
            )
        if layout.bias:
            raise AdapterError(f"{file}: module {module!r} has a LoRA bias beside a DoRA magnitude, which is not read")


def _notes(
    modules: Mapping[str, ModuleEntry],
    names: Mapping[str, tuple[str, str]],
    keys: SortedKeys,
    settings: LoraSettings,
    bare: Collection[str],
) -> list[str]:
    """What PEFT would make of the folder where that is not what is read."""
    notes = []
    if keys.wrapped:
        notes.append(
            f"segments of wrappers stand in the names of {counted(len(keys.wrapped), 'tensor')}, such as "
            f"{keys.wrapped[0]!r}, which are read without them; PEFT would load none of these into a plain model"
        )
    # PEFT puts the name in when it loads; only its own default is recognised where it stands in the keys already.
    if keys.adapter_name not in {"", "default"}:
        notes.append(
            f"the tensors' names hold the adapter's name {keys.adapter_name!r}, and are read without it; PEFT would "
            f"load none of them"
        )
    said = {
        module: {
            settings.coverage.covers(name, embedding=not entry.layout.kind.reads_vectors) for name in names[module]
        }
        for module, entry in modules.items()
        if not entry.layout.kind.bare
    }
    if any(None in answers for answers in said.values()):
        unset = settings.coverage.target_modules is None
        found = "is not set" if unset else "(or what is taken out of it) is an expression that is not tried here"
        notes.append(f"target_modules {found}, so which modules PEFT would load cannot be told; all are read here")
    uncovered = [module for module, answers in said.items() if answers == {False}]
    if uncovered:
        notes.append(
            f"target_modules, exclude_modules and layers_to_transform of its configuration leave out "
            f"{_listed(uncovered)}; the file holds factors for them, which are read here; PEFT would ignore them"
        )
    if settings.bias != "none":
        notes.append(f"bias is {settings.bias!r} in its configuration, but no layer had one: the file holds none")
    if settings.target_parameters and not bare and not any(".lora_" in key for key in keys.left_out):
        notes.append(
            f"target_parameters {list(settings.target_parameters)} matched nothing: the file holds LoRA of "
            f"target_modules alone"
        )
    return notes


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more modules"
