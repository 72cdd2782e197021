"""Names and shapes of a base model's layers, from its config.json; no weight is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError
from ..reading import reads
from .layouts import ModuleKind, ModuleShape, shape_of_layer

__all__ = ["BaseModelIndex"]

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "FEATURE_EXTRACTION": "AutoModel",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}


@dataclass(frozen=True)
class BaseModelIndex:
    """All adaptable layers of a base model.

    Attributes:
        name: hub id or folder that it was made from.
        modules: module name, as in ``model.named_modules()``, → shape.
        others: names of modules of no known kind (:mod:`.layouts`), with their class, for messages.
    """

    name: str
    modules: Mapping[str, ModuleShape]
    others: Mapping[str, str]

    @classmethod
    @reads(BaseModelError, "the configuration of a base model", "check base_model (--base-model)", at=1)
    def load(cls, base: str | Path, *, task_type: str | None = None) -> "BaseModelIndex":
        """Build the model that a configuration describes on the meta device, which holds no data.

        Args:
            base: folder with config.json, or a hub id.
            task_type: PEFT's task type of the adapters. Module names depend on the head that the model carries
                (``bert.encoder…`` or ``encoder…``); without it, the architecture that config.json names decides.

        Raises:
            BaseModelError: no configuration there, or transformers cannot build the architecture.
        """
        from transformers import AutoConfig

        folder = Path(base)
        if folder.is_dir() and not (folder / "config.json").is_file():
            found = "a PEFT adapter" if (folder / "adapter_config.json").is_file() else "no config.json"
            raise BaseModelError(f"{folder}: found {found}, expected the folder of a base model with config.json")
        try:
            config = AutoConfig.from_pretrained(str(base))
        except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise BaseModelError(
                f"base model {str(base)!r}: no usable configuration ({_first_line(error)}); expected a folder with "
                f"config.json or a hub id that can be reached. Name the base with base_model (--base-model)"
            ) from error
        with torch.device("meta"):
            model = _build(str(base), config, task_type)
        return cls.of(model, name=str(base))

    @classmethod
    def of(cls, model: nn.Module, *, name: str = "model") -> "BaseModelIndex":
        """Index a model that is already there (on any device, without adapters)."""
        modules: dict[str, ModuleShape] = {}
        others: dict[str, str] = {}
        # A layer used under two names is adapted under both, so duplicates stay.
        for path, module in model.named_modules(remove_duplicate=False):
            shape = shape_of_layer(module)
            if shape is None:
                others[path] = type(module).__name__
            else:
                modules[path] = shape
        return cls(name, MappingProxyType(modules), MappingProxyType(others))

    @property
    def kinds(self) -> dict[str, ModuleKind]:
        """Module name → kind, as :meth:`~.adapter.Adapter.with_kinds` takes it."""
        return {name: shape.kind for name, shape in self.modules.items()}


def _build(base: str, config: Any, task_type: str | None) -> nn.Module:
    import transformers

    auto = _AUTO_CLASSES.get(task_type or "")
    if auto is None:
        for architecture in config.architectures or ():
            found = getattr(transformers, architecture, None)
            if found is not None:
                return found(config)
    try:
        return getattr(transformers, auto or "AutoModelForCausalLM").from_config(config)
    except (ValueError, KeyError) as error:
        raise BaseModelError(
            f"base model {base!r}: transformers cannot build {config.architectures or config.model_type!r} for task "
            f"{task_type!r} ({_first_line(error)}); expected an architecture of the installed transformers, without "
            f"remote code, that has this task"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
