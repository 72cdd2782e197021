"""One module's tensors against the configuration: where its factors lie, of what kind, rank and scale they are."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import AdapterError
from .experts import ExpertKind, RouterKind, expert_module
from .keys import SortedKeys, how_to_leave_out
from .layouts import ModuleKind, layer_kinds
from .settings import TARGET_PARAMETERS, LoraSettings
from .stacks import Stack, find_stacks
from .weights_file import TensorHeaders

__all__ = [
    "FLOATS",
    "ModuleEntry",
    "ModuleLayout",
    "layer_entry",
    "natural_key",
    "placed_stacks",
    "stack_entries",
]

FLOATS = ("F16", "BF16", "F32", "F64")


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


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts layer 2 before layer 10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("."))


def placed_stacks(
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


def stack_entries(
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
    entry = layer_entry(file, stack.path, (stack.path, stack.path), of_module, parts, tensors, settings, count=count)
    if stack.parameter == "weight":
        return {stack.module: replace(entry, layout=replace(entry.layout, kind=RouterKind()))}
    return {
        expert_module(stack.path, index): replace(entry, layout=replace(entry.layout, kind=ExpertKind(index, count)))
        for index in range(count)
    }


def layer_entry(
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
        if tensors[key][0] not in FLOATS:
            raise AdapterError(
                f"{file}: tensor {key!r} has type {tensors[key][0]}, expected one of {', '.join(FLOATS)}; quantised "
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
