"""adapter_model.safetensors: which tensor belongs to which module, decided from the header alone."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import AdapterError
from ..texts import counted
from .experts import ExpertKind, RouterKind, expert_module
from .folders import WEIGHTS_NAME, find_weights
from .keys import SortedKeys, how_to_leave_out, sort_keys, stored_name
from .layouts import ModuleKind, layer_kinds
from .settings import TARGET_PARAMETERS, LoraSettings
from .stacks import Stack, find_stacks
from .weights_file import TensorHeaders, tensor_headers
from .whole_weights import WholeWeight, heads_of, saved_part
from .wrappers import PREFIX

__all__ = ["PREFIX", "WEIGHTS_NAME", "Header", "ModuleEntry", "ModuleLayout", "natural_key", "read_header"]

_FLOATS = ("F16", "BF16", "F32", "F64")
_MOST_NAMES = 8  # of modules in one sentence


@dataclass(frozen=True)
class ModuleLayout:
    """Shape and kind of one module's update, scale and bias column included.

    Attributes:
        d_out: outputs of the layer.
        d_in: inputs of the layer, the constant one of a bias not counted.
        rank: columns of B as :class:`~.factors.LoraFactors` holds them (one more than in the file with a bias).
        kind: of the layer.
        bias: whether the update has a bias column.
    """

    d_out: int
    d_in: int
    rank: int
    kind: ModuleKind
    bias: bool


@dataclass(frozen=True)
class ModuleEntry:
    """Where one module's factors lie in the file.

    Attributes:
        a_key: key of A.
        b_key: key of B.
        bias_key: key of B's bias, or None.
        scale: s of ΔW = s·B·A.
        layout: what comes out.
    """

    a_key: str
    b_key: str
    bias_key: str | None
    scale: float
    layout: ModuleLayout

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of A, B and, where there is one, B's bias."""
        return (self.a_key, self.b_key) if self.bias_key is None else (self.a_key, self.b_key, self.bias_key)


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


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts layer 2 before layer 10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("."))


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
    stacks = _stacks(file, names, keys, tensors, settings)
    bare = {stack.module for stack in stacks}
    modules = {
        module: _entry(file, module, names[module], names, keys.parts[module], tensors, settings)
        for module in kept
        if module not in bare
    }
    for stack in stacks:
        modules |= _stack_entries(file, stack, names, {**keys.parts, **keys.inner}[stack.stored], tensors, settings)
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
        if dtype not in _FLOATS or shape != (layout.d_out,):
            raise AdapterError(
                f"{file}: tensor {key!r} is {dtype} of shape {list(shape)}, expected plain floats of shape "
                f"[{layout.d_out}], one for every output; save the adapter again"
            )
        if layout.bias:
            raise AdapterError(f"{file}: module {module!r} has a LoRA bias beside a DoRA magnitude, which is not read")


def _stacks(
    file: Path,
    names: Mapping[str, tuple[str, str]],
    keys: SortedKeys,
    tensors: TensorHeaders,
    settings: LoraSettings,
) -> list[Stack]:
    """Find the LoRA that belongs to no layer but to a bare parameter.

    Raises:
        AdapterError: some of it cannot be told; all of that is said in one sentence, so that one more try is enough.
    """
    shapes = {module: _outer_shape(parts, tensors) for module, parts in (keys.parts | keys.inner).items()}
    stacks, unplaced = find_stacks(shapes, settings, names)
    why = {one.module: one.why for one in unplaced}
    refused = sorted({*why, *keys.nested}, key=natural_key)
    if not refused:
        return stacks
    if keys.nested:
        key = next(iter(keys.nested.values()))
        found = f"tensor {key!r} belongs to a LoRA inside a LoRA (fused experts, nn.MultiheadAttention)"
    else:
        found = f"module {refused[0]!r} {why[refused[0]]}"
    if settings.target_parameters:
        found += f"; target_parameters is {list(settings.target_parameters)}"
    count = f"{len(refused)} module{'s' * (len(refused) > 1)} of this kind"
    raise AdapterError(f"{file}: {found}: {TARGET_PARAMETERS} ({count}). {how_to_leave_out(refused, names)}")


def _outer_shape(parts: Mapping[str, str], tensors: TensorHeaders) -> tuple[int, int]:
    """(d_out, d_in) of two matrices; zeros of anything else, which is refused later."""
    a, b = (tensors[parts[part]][1] if part in parts else () for part in ("lora_A", "lora_B"))
    return (b[0], a[1]) if len(a) == len(b) == 2 else (0, 0)


def _stack_entries(
    file: Path,
    stack: Stack,
    names: Mapping[str, tuple[str, str]],
    parts: Mapping[str, str],
    tensors: TensorHeaders,
    settings: LoraSettings,
) -> dict[str, ModuleEntry]:
    """The experts of a stack, one module each; or a router."""
    rows = tensors[parts["lora_A"]][1] if "lora_A" in parts else ()
    rank = settings.rank(stack.path)
    # PEFT asks the patterns by the parameter's own name, and says nowhere how many experts there are.
    stacked = stack.parameter != "weight" and len(rows) == 2 and rows[0] % rank == 0
    count = rows[0] // rank if stacked else 1
    of_module = {**names, stack.path: (stack.path, stack.path)}
    entry = _entry(file, stack.path, (stack.path, stack.path), of_module, parts, tensors, settings, count=count)
    if stack.parameter == "weight":
        return {stack.module: replace(entry, layout=replace(entry.layout, kind=RouterKind()))}
    return {
        expert_module(stack.path, index): replace(entry, layout=replace(entry.layout, kind=ExpertKind(index, count)))
        for index in range(count)
    }


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


def _entry(
    file: Path,
    module: str,
    own_names: tuple[str, str],
    names: Collection[str],
    parts: Mapping[str, str],
    tensors: TensorHeaders,
    settings: LoraSettings,
    *,
    count: int = 1,
) -> ModuleEntry:
    """Where a module's factors lie; of a stack of several the layout is that of each.

    Raises:
        AdapterError: tensors that do not fit the configuration.
    """
    kinds = [kind for kind in layer_kinds() if {kind.form.a, kind.form.b} & parts.keys()]
    a_part, b_part = kinds[0].form.a, kinds[0].form.b
    expected = {a_part, b_part} | ({f"{b_part}.bias"} if settings.lora_bias else set())
    if set(parts) != expected:
        raise AdapterError(
            f"{file}: module {module!r} has {_join(parts)}, expected {_join(expected)} (lora_bias is "
            f"{settings.lora_bias}); the file is incomplete or belongs to another adapter_config.json; "
            f"save the adapter again"
        )
    for key in parts.values():
        if tensors[key][0] not in _FLOATS:
            raise AdapterError(
                f"{file}: tensor {key!r} has type {tensors[key][0]}, expected one of {', '.join(_FLOATS)}; quantised "
                f"factors are not exact. Save the adapter in float32 or bfloat16"
            )
    a_shape, b_shape = tensors[parts[a_part]][1], tensors[parts[b_part]][1]
    found = (kind.of_file(a_shape, b_shape, fan_in_fan_out=settings.fan_in_fan_out) for kind in kinds)
    kind = next((kind for kind in found if kind is not None), None)
    if kind is None:
        raise AdapterError(
            f"{file}: module {module!r} has A {a_shape} and B {b_shape}, expected matrices "
            + (
                "(a piece of a DeepSpeed or FSDP save); gather the weights when saving"
                if min(len(a_shape), len(b_shape)) < 2
                else "or an ordinary convolution (those in groups are not supported). "
                + how_to_leave_out([module], names)
            )
        )
    rank, scale = _rank_and_scale(file, module, own_names, a_shape[0] // count, settings)
    if a_shape[0] != rank * count or b_shape[1] != rank * count:
        raise AdapterError(
            f"{file}: module {module!r} has A {a_shape} and B {b_shape}, but r and rank_pattern of the configuration "
            f"say rank {rank}; restore the adapter_config.json that was saved with this file"
            + _if_stacked(module, a_shape[0], b_shape[1], rank, names)
        )
    bias_key = parts.get(f"{b_part}.bias")
    if bias_key is not None and tensors[bias_key][1] != (b_shape[0],):
        raise AdapterError(f"{file}: tensor {bias_key!r} has shape {tensors[bias_key][1]}, expected {(b_shape[0],)}")
    a, b = kind.from_file(torch.empty(a_shape, device="meta"), torch.empty(b_shape, device="meta"))
    layout = ModuleLayout(b.shape[0], a.shape[1], rank + int(bias_key is not None), kind, bias_key is not None)
    return ModuleEntry(parts[a_part], parts[b_part], bias_key, scale, layout)


def _if_stacked(module: str, a_rows: int, b_columns: int, rank: int, names: Collection[str]) -> str:
    """A word about fused experts: as many factor pairs as there are experts, one below the other."""
    if "expert" not in module or a_rows != b_columns or a_rows % rank:
        return ""
    return (
        f". If these are {a_rows // rank} fused experts of rank {rank}, target_parameters must name them. "
        + how_to_leave_out([module], names)
    )


def _rank_and_scale(
    file: Path, module: str, names: tuple[str, str], rows: int, settings: LoraSettings
) -> tuple[int, float]:
    """What the configuration says of a module.

    PEFT asked it by the name that the module had then: wrapped before or after, so that both names are tried where the
    file has wrappers. The shape of A tells them apart, or there is nothing to tell.

    Raises:
        AdapterError: both fit, with different scales.
    """
    said = {(settings.rank(name), settings.scale(name)) for name in set(names)}
    fitting = {(rank, scale) for rank, scale in said if rank == rows}
    if len(fitting) > 1 and settings.names_alpha(names[1]) and not settings.names_alpha(module):
        return settings.rank(names[1]), settings.scale(names[1])
    if len(fitting) > 1:
        raise AdapterError(
            f"{file}: module {module!r} is stored as {names[1]!r}, and alpha_pattern gives these two names the scales "
            f"{sorted(scale for _, scale in fitting)}; rename the tensors, or the keys of alpha_pattern, so that they "
            f"agree"
        )
    return next(iter(fitting or said))


def _join(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))
