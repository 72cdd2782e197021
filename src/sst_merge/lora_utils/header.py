"""adapter_model.safetensors: which tensor belongs to which module, decided from the header alone.

PEFT's keys are ``base_model.model.<module>.lora_A[.<adapter name>].weight`` (likewise ``lora_B``, with ``.bias``
where lora_bias is on) and ``base_model.model.<module>.lora_embedding_A[.<adapter name>]``. Every key must fall into
this scheme or into one of the copies that are left out on purpose (:class:`Header`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import AdapterError
from .layouts import ModuleKind, layer_kinds
from .settings import LoraSettings
from .whole_weights import WholeWeight, heads_of, saved_part

__all__ = ["PREFIX", "WEIGHTS_NAME", "Header", "ModuleEntry", "ModuleLayout", "natural_key", "read_header"]

WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
_FLOATS = ("F16", "BF16", "F32", "F64")
# Tensors of training-time variants that leave ΔW alone: MonteCLoRA's sampler, VeLoRA's projection.
_TRAINING_ONLY = frozenset({"lora_monteclora_sampler", "lora_velora_embed"})


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
        left_out: keys that are no part of ΔW: PEFT's automatic copies of adapted embeddings and output layers
            (``<module>.base_layer.weight``), tensors that only training needs, and, only where the caller asked to
            drop them, whole weights.
        whole: canonical tensor name → whole trained weight (``modules_to_save``, a saved embedding), no part of ΔW.
    """

    modules: Mapping[str, ModuleEntry]
    left_out: tuple[str, ...]
    whole: Mapping[str, WholeWeight]


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts layer 2 before layer 10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("."))


def read_header(folder: Path, settings: LoraSettings, *, drop_modules_to_save: bool = False) -> Header:
    """Sort a folder's tensors into modules and check every shape; no tensor is read.

    Args:
        folder: a PEFT adapter folder.
        settings: its configuration.
        drop_modules_to_save: leave whole trained weights out of the adapter.

    Raises:
        AdapterError: no safetensors file, or any tensor that does not fit the configuration exactly.
    """
    file = folder / WEIGHTS_NAME
    tensors = _open_header(folder, file)
    if not tensors:
        raise AdapterError(f"{file}: holds no tensors; expected LoRA factors. Save the adapter again")
    factor_key = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(_part_names())})(?P<rest>(?:\.[^.]+)*)")
    parts: dict[str, dict[str, str]] = {}
    copies: dict[str, str] = {}
    left_out: list[str] = []
    whole: dict[str, WholeWeight] = {}
    saved = (*settings.modules_to_save, *heads_of(settings.task_type))
    adapter_names: set[str] = set()
    for key in tensors:
        if not _TRAINING_ONLY.isdisjoint(key.split(".")):
            left_out.append(key)
            continue
        if not key.startswith(PREFIX):
            raise AdapterError(
                f"{file}: tensor {key!r} lacks the prefix {PREFIX!r}, so PEFT would ignore it silently; save the "
                f"adapter with PeftModel.save_pretrained"
            )
        name = key.removeprefix(PREFIX)
        match = factor_key.fullmatch(name)
        if match is not None:
            if "base_layer" in match["module"].split("."):
                raise AdapterError(
                    f"{file}: tensor {key!r} belongs to a LoRA inside a LoRA (fused experts, nn.MultiheadAttention), "
                    "which is not supported; expected LoRA of linear layers. Train on nn.Linear modules instead"
                )
            part, adapter_name = _part(file, key, match["part"], match["rest"])
            if part in parts.setdefault(match["module"], {}):
                raise AdapterError(f"{file}: module {match['module']!r} has {part} twice; expected one adapter a file")
            parts[match["module"]][part] = key
            adapter_names.add(adapter_name)
        elif "lora_" not in name and name.endswith((".base_layer.weight", ".base_layer.bias")):
            copies[key] = name.rpartition(".base_layer.")[0]
        elif "lora_" not in name and (name.endswith((".weight", ".bias")) or saved_part(name, saved)):
            if drop_modules_to_save:
                left_out.append(key)
            else:
                whole[name] = WholeWeight(file, key, *tensors[key])
        else:
            raise AdapterError(
                f"{file}: tensor {key!r} is not a plain LoRA factor (a DoRA magnitude or another variant); expected "
                f"one of {', '.join(_part_names())}. Export a plain LoRA adapter"
            )
    if len(adapter_names) > 1:
        raise AdapterError(f"{file}: holds adapters {sorted(adapter_names)}; expected one. Save them one by one")
    for key, module in copies.items():
        if module not in parts:
            raise AdapterError(f"{file}: tensor {key!r} belongs to no adapted module; save the adapter again")
        left_out.append(key)
    named = set(settings.modules_to_save) - set(heads_of(settings.task_type))
    if named and not drop_modules_to_save and not any(saved_part(name, named) for name in whole):
        raise AdapterError(
            f"{file}: modules_to_save is {list(settings.modules_to_save)}, but the file holds no whole weight of any "
            f"of them, so PEFT could not open it; save the adapter again, or go on without them: "
            f"drop_modules_to_save=True (--drop-modules-to-save)"
        )
    if not parts:
        raise AdapterError(f"{file}: holds no LoRA factors; expected lora_A and lora_B of at least one module")
    modules = {name: _entry(file, name, parts[name], tensors, settings) for name in sorted(parts, key=natural_key)}
    return Header(modules, tuple(sorted(left_out)), whole)


def _open_header(folder: Path, file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    if not file.is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles:
            raise AdapterError(
                f"{folder}: found {', '.join(pickles)} but no {WEIGHTS_NAME}; a pickle can run code and is never "
                f"opened. Load the adapter with PEFT where you trust it and save it with safe_serialization=True"
            )
        raise AdapterError(f"{folder}: no {WEIGHTS_NAME}; expected a folder written by PEFT's save_pretrained")
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
            return {key: (view.get_dtype(), tuple(view.get_shape())) for key, view in slices.items()}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file}: no readable safetensors file ({error}); copy or save it again") from error


def _part(file: Path, key: str, part: str, rest: str) -> tuple[str, str]:
    """Split a key's end into part (``lora_B.bias`` apart from ``lora_B``) and adapter name ('' where it has none).

    Raises:
        AdapterError: not a form that PEFT writes.
    """
    segments = rest.split(".")[1:]
    leaf = segments.pop() if segments and segments[-1] in {"weight", "bias"} else ""
    kinds = [kind for kind in layer_kinds() if part in {kind.form.a, kind.form.b}]
    needed = next((f".{kind.form.leaf}" for kind in kinds if kind.form.leaf), "")
    biased = any(kind.can_have_bias and part == kind.form.b for kind in kinds)
    if len(segments) > 1 or (needed and not leaf) or (leaf == "bias" and not biased):
        raise AdapterError(
            f"{file}: tensor {key!r} is not a key of PEFT; expected ...{part}{needed}. Save the adapter with PEFT"
        )
    return (f"{part}.bias" if leaf == "bias" else part), (segments[0] if segments else "")


def _entry(
    file: Path,
    module: str,
    parts: Mapping[str, str],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    settings: LoraSettings,
) -> ModuleEntry:
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
    rank = settings.rank(module)
    found = (kind.of_file(a_shape, b_shape, fan_in_fan_out=settings.fan_in_fan_out) for kind in kinds)
    kind = next((kind for kind in found if kind is not None), None)
    if kind is None:
        raise AdapterError(
            f"{file}: module {module!r} has A {a_shape} and B {b_shape}, expected matrices (convolutions are not "
            f"supported; an unsharded DeepSpeed or FSDP save also looks like this). Save a LoRA of linear layers"
        )
    if a_shape[0] != rank or b_shape[1] != rank:
        raise AdapterError(
            f"{file}: module {module!r} has A {a_shape} and B {b_shape}, but r and rank_pattern of the configuration "
            f"say rank {rank}; restore the adapter_config.json that was saved with this file"
        )
    if 0 in a_shape or 0 in b_shape:
        raise AdapterError(f"{file}: module {module!r} has A {a_shape} and B {b_shape}: empty; save the adapter again")
    bias_key = parts.get(f"{b_part}.bias")
    if bias_key is not None and tensors[bias_key][1] != (b_shape[0],):
        raise AdapterError(f"{file}: tensor {bias_key!r} has shape {tensors[bias_key][1]}, expected {(b_shape[0],)}")
    a, b = kind.from_file(torch.empty(a_shape, device="meta"), torch.empty(b_shape, device="meta"))
    layout = ModuleLayout(b.shape[0], a.shape[1], rank + int(bias_key is not None), kind, bias_key is not None)
    return ModuleEntry(parts[a_part], parts[b_part], bias_key, settings.scale(module), layout)


def _part_names() -> list[str]:
    """What the keys of factors are called, such as ``lora_A``."""
    return sorted({part for kind in layer_kinds() for part in (kind.form.a, kind.form.b)})


def _join(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))
