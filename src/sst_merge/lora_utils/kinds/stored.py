"""A folder of another kind of adapter: its configuration, and which tensor belongs to which module."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import AdapterError
from ..entries import natural_key
from ..folders import CONFIG_NAME, find_weights
from ..keys import how_to_leave_out, is_named
from ..settings import LEAVES_UPDATE_ALONE
from ..values import all_finite
from ..weights_file import opened, tensor_headers
from ..whole_weights import WholeWeight, heads_of, saved_part
from ..wrappers import PREFIX, plain_key
from .table import Kind

__all__ = ["StoredKind", "precision_of", "read_stored_kind"]

# Fields of every kind that pick modules, steer training or describe.
_COMMON = LEAVES_UPDATE_ALONE | {"peft_type", "task_type", "base_model_name_or_path", "modules_to_save", "bias"}


@dataclass(frozen=True)
class StoredKind:
    """An adapter of another kind on disk.

    Attributes:
        file: its weights.
        config: its adapter_config.json.
        kind: what it is.
        parts: module → part, such as ``hada_w1_a`` → key; modules in natural order.
        shared: keys that belong to no module.
        whole: canonical tensor name → whole weight.
        modules_to_save: PEFT's field of that name.
        left_out: keys of modules that are to be left out.
    """

    file: Path
    config: Mapping[str, Any]
    kind: Kind
    parts: Mapping[str, Mapping[str, str]]
    shared: tuple[str, ...]
    whole: Mapping[str, WholeWeight]
    modules_to_save: tuple[str, ...]
    left_out: tuple[str, ...]

    def tensors(self, keys: Collection[str]) -> dict[str, Tensor]:
        """Some tensors, by key, as they are stored.

        Raises:
            AdapterError: the file is gone, or a value is not finite.
        """
        with opened(self.file) as handle:
            found = {key: handle.get_tensor(key) for key in keys}
        for key, tensor in found.items():
            if tensor.is_floating_point() and not all_finite(tensor):
                raise AdapterError(
                    f"{self.file}: tensor {key!r} holds NaN or Inf, expected finite numbers; the training diverged or "
                    f"the file is damaged: use another checkpoint"
                )
        return found

    def of_module(self, module: str) -> dict[str, Tensor]:
        """A module's tensors in float64, by part."""
        keys = self.parts[module]
        found = self.tensors(keys.values())
        return {part: found[key].double() for part, key in keys.items()}

    def require(self, module: str, *choices: Collection[str]) -> None:
        """Refuse a module whose parts are none of some sets.

        Raises:
            AdapterError: it has others.
        """
        if not any(set(self.parts[module]) == set(choice) for choice in choices):
            raise AdapterError(
                f"{self.file}: module {module!r} has {', '.join(sorted(self.parts[module]))}, expected "
                f"{' or '.join(', '.join(sorted(choice)) for choice in choices)}; only linear layers of this kind are "
                f"read. {how_to_leave_out([module], list(self.parts))}"
            )

    def number(self, field: str, value: object) -> float:
        """A number of the configuration.

        Raises:
            AdapterError: it is none.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise AdapterError(f"{self.file.parent / CONFIG_NAME}: {field} is {value!r}, expected a number")
        return value

    @property
    def precision(self) -> torch.dtype:
        """float64 where the file has any float64, else float32."""
        return precision_of(self.file)


def read_stored_kind(
    folder: Path, config: Mapping[str, Any], kind: Kind, *, drop_modules_to_save: bool, leave_out: Collection[str]
) -> StoredKind:
    """Sort a folder's tensors; none is read.

    Raises:
        AdapterError: no weights, a tensor that is none of the kind's, or a field whose meaning is unknown.
    """
    file = find_weights(folder)
    if kind.fields is not None:
        _refuse_fields(folder / CONFIG_NAME, config, kind.fields)
    named = tuple(name for name in config.get("modules_to_save") or [] if isinstance(name, str))
    saved = (*named, *heads_of(config.get("task_type")))
    parts: dict[str, dict[str, str]] = {}
    shared: list[str] = []
    whole: dict[str, WholeWeight] = {}
    left_out: list[str] = []
    for key, (dtype, shape) in tensor_headers(file).items():
        name = plain_key(key).removeprefix(PREFIX)
        module, part = _split(name, kind.prefix)
        if name == plain_key(key):
            shared.append(key)
        elif part and is_named(module, leave_out):
            left_out.append(key)
        elif part:
            parts.setdefault(module, {})[part] = key
        elif saved_part(name, saved) and drop_modules_to_save:
            left_out.append(key)
        elif saved_part(name, saved):
            whole[name] = WholeWeight(file, key, dtype, shape)
        else:
            raise AdapterError(
                f"{file}: tensor {key!r} belongs to no {kind.name} update, whose parts begin with {kind.prefix!r} "
                f"(a trained bias of the base?); expected nothing else. Train with bias='none', or merge the "
                f"adapter into its base with PEFT and use sst-merge extract"
            )
    if not parts:
        raise AdapterError(f"{file}: holds no tensors of {kind.name} ({kind.prefix}...); save the adapter again")
    ordered = {module: parts[module] for module in sorted(parts, key=natural_key)}
    held = tuple(name for name in saved if any(saved_part(tensor, (name,)) for tensor in whole))
    return StoredKind(file, config, kind, ordered, tuple(shared), whole, held, tuple(left_out))


def precision_of(file: Path) -> torch.dtype:
    """float64 where a file has any float64, else float32."""
    return torch.float64 if "F64" in {dtype for dtype, _ in tensor_headers(file).values()} else torch.float32


def _split(name: str, prefix: str) -> tuple[str, str]:
    """Module and part of a tensor's name; an empty part where it has none of the kind."""
    segments = name.split(".")
    place = next((k for k, segment in enumerate(segments) if segment.startswith(prefix)), len(segments))
    return ".".join(segments[:place]), ".".join(segments[place:])


def _refuse_fields(file: Path, config: Mapping[str, Any], known: Collection[str]) -> None:
    for field in sorted(config.keys() - _COMMON - set(known)):
        value = config[field]
        if value is True or (value and isinstance(value, (str, list, dict))):
            raise AdapterError(
                f"{file}: {field} is {value!r}, a field that this version does not know of {config['peft_type']}; it "
                f"may change what ΔW is. Upgrade sst-merge, or merge the adapter into its base with PEFT and use "
                f"sst-merge extract"
            )
