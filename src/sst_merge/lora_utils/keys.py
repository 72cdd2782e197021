"""Names of a safetensors file, sorted into the factors of modules and into what is no part of them.

PEFT's keys are ``base_model.model.<module>.lora_A[.<adapter name>].weight`` (likewise ``lora_B``, with ``.bias``
where lora_bias is on) and ``base_model.model.<module>.lora_embedding_A[.<adapter name>]``. Every key must fall into
this scheme or into one of the copies that are left out on purpose (:class:`~.header.Header`). Segments that wrappers of
training leave in the keys are read over (:mod:`.wrappers`).
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import AdapterError
from .layouts import layer_kinds
from .whole_weights import saved_part
from .wrappers import PREFIX, plain_key

__all__ = ["SortedKeys", "how_to_leave_out", "is_named", "sort_keys", "stored_name"]

# Tensors of training-time variants that leave ΔW alone: MonteCLoRA's sampler, VeLoRA's projection.
_TRAINING_ONLY = frozenset({"lora_monteclora_sampler", "lora_velora_embed"})
_INNER = re.compile(r"(?:\.base_layer)+$")
# PEFT saves it without .weight and without the adapter's name; a state dict has both.
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?")


@dataclass
class SortedKeys:
    """A file's keys, sorted.

    Attributes:
        parts: module → part, such as ``lora_A`` → key.
        whole: canonical tensor name → key of a whole weight.
        left_out: keys that are no part of ΔW.
        adapter_name: in the keys, or empty.
        wrapped: keys with segments of wrappers in them.
        nested: modules with a LoRA inside a LoRA, which is how PEFT keeps those on bare parameters, → one key.
        magnitudes: module → key of its DoRA magnitude.
        inner: the same as ``parts`` for a LoRA around which there is another one, ``.base_layer`` at the module's end.
    """

    parts: dict[str, dict[str, str]]
    whole: dict[str, str]
    left_out: list[str]
    adapter_name: str
    wrapped: list[str]
    nested: dict[str, str]
    magnitudes: dict[str, str]
    inner: dict[str, dict[str, str]]


def sort_keys(
    file: Path,
    keys: Iterable[str],
    *,
    drop_modules_to_save: bool,
    leave_out: Collection[str],
    saved: Collection[str],
) -> SortedKeys:
    """Sort a file's keys.

    Args:
        file: for messages.
        keys: of all tensors.
        drop_modules_to_save: leave whole trained weights out.
        leave_out: modules to leave out, by their names or the ends of their names.
        saved: ``modules_to_save``, with the heads that PEFT adds.

    Raises:
        AdapterError: a key that is none of these, two of one meaning, or several adapters in one file.
    """
    factor_key = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(_part_names())})(?P<rest>(?:\.[^.]+)*)")
    parts: dict[str, dict[str, str]] = {}
    copies: dict[str, str] = {}
    whole: dict[str, str] = {}
    left_out: list[str] = []
    wrapped: list[str] = []
    nested: dict[str, str] = {}
    magnitudes: dict[str, str] = {}
    inner: dict[str, dict[str, str]] = {}
    adapter_names: set[str] = set()
    for key in keys:
        if not _TRAINING_ONLY.isdisjoint(key.split(".")):
            left_out.append(key)
            continue
        plain = plain_key(key)
        if plain != key:
            wrapped.append(key)
        if not plain.startswith(PREFIX):
            raise AdapterError(
                f"{file}: tensor {key!r} lacks the prefix {PREFIX!r}, under which PEFT looks for weights, so PEFT "
                f"would not load it; save the adapter with PeftModel.save_pretrained"
            )
        name = plain.removeprefix(PREFIX)
        match = factor_key.fullmatch(name)
        length = _MAGNITUDE.fullmatch(name)
        if length is not None:
            if is_named(length["module"], leave_out):
                left_out.append(key)
            else:
                magnitudes[length["module"]] = key
        elif match is not None and is_named(match["module"], leave_out):
            left_out.append(key)
        elif match is not None and "base_layer" in _INNER.sub("", match["module"]).split("."):
            nested.setdefault(_outer(match["module"]), key)
        elif match is not None:
            part, adapter_name = _part(file, key, match["part"], match["rest"])
            of_depth = inner if _INNER.search(match["module"]) else parts
            there = of_depth.setdefault(match["module"], {}).setdefault(part, key)
            if there != key:
                raise AdapterError(
                    f"{file}: module {match['module']!r} has {part} twice, as {there!r} and as {key!r}; expected one "
                    f"adapter a file"
                )
            adapter_names.add(adapter_name)
        elif "lora_" not in name and name.endswith((".base_layer.weight", ".base_layer.bias")):
            module = name.rpartition(".base_layer.")[0]
            if not is_named(module, leave_out):
                copies[key] = module
            if drop_modules_to_save or is_named(module, leave_out):
                left_out.append(key)
            else:
                whole[name] = key
        elif "lora_" not in name and (name.endswith((".weight", ".bias")) or saved_part(name, saved)):
            if drop_modules_to_save:
                left_out.append(key)
            else:
                whole[name] = key
        elif name.endswith("flat_param"):
            raise AdapterError(
                f"{file}: tensor {key!r} is a flattened shard of FSDP; expected the matrices themselves. Save the "
                f"adapter again with a full state dict (fsdp_state_dict_type: FULL_STATE_DICT)"
            )
        else:
            raise AdapterError(
                f"{file}: tensor {key!r} is not a plain LoRA factor (another variant); expected "
                f"one of {', '.join(_part_names())}. Export a plain LoRA adapter"
            )
    for module, found in inner.items():
        if _INNER.sub("", module) not in parts:
            nested.setdefault(_outer(module), next(iter(found.values())))
    if len(adapter_names) > 1:
        raise AdapterError(f"{file}: holds adapters {sorted(adapter_names)}; expected one. Save them one by one")
    for key, module in copies.items():
        if module not in parts and module not in nested:
            raise AdapterError(f"{file}: tensor {key!r} belongs to no adapted module; save the adapter again")
    return SortedKeys(parts, whole, left_out, next(iter(adapter_names), ""), wrapped, nested, magnitudes, inner)


def how_to_leave_out(modules: Collection[str], others: Collection[str]) -> str:
    """Advice about modules that cannot be read, for a message.

    Args:
        modules: their names; where layers repeat one, its end stands for all of them.
        others: those that can be read.
    """
    kept = [module for module in others if module not in modules]
    if not kept:
        return "The file holds nothing else"
    names = []
    for module in modules:
        end = module[match.end() :] if (match := re.match(r".*\.\d+\.", module)) else module
        alone = any(is_named(other, [end]) for other in kept) or sum(is_named(m, [end]) for m in modules) == 1
        names.append(module if alone else end)
    names = list(dict.fromkeys(names))
    what = "it" if len(modules) == 1 else "them"
    flags = " ".join(f"--leave-out {name}" for name in names)
    return f"To read the rest without {what}: leave_out={names} ({flags})"


def is_named(module: str, names: Collection[str]) -> bool:
    """Whether a module is one of some names, which may be ends of names, as in ``target_modules``."""
    outer = _outer(module)
    return any(outer == name or outer.endswith(f".{name}") for name in names)


def _outer(module: str) -> str:
    """The module that a LoRA inside a LoRA belongs to."""
    return ".".join(segment for segment in module.split(".") if segment != "base_layer")


def stored_name(key: str) -> str:
    """The module of a factor's key as it stands in the file, wrappers included."""
    return key.removeprefix(PREFIX).partition(".lora_")[0]


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


def _part_names() -> list[str]:
    """What the keys of factors are called, such as ``lora_A``."""
    return sorted({part for kind in layer_kinds() for part in (kind.form.a, kind.form.b)})
