"""adapter_config.json: every field of PEFT's LoraConfig, and what it does to ΔW.

The rule of this file: a field is read, or known to leave ΔW = s·B·A as it is, or refused. Fields that this version
does not know (a newer PEFT) pass while they are switched off (null, false, empty) or are bare numbers, which by
PEFT's habit only parametrise a switch; a truthy switch, text, list or object of unknown meaning is refused. The
check of the tensors (:mod:`.header`) is the second net: an unknown variant that brings tensors of its own is
refused there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import AdapterError
from ..reading import cause, parse_json
from .coverage import Coverage
from .folders import CONFIG_NAME, MLX_WAY_OUT, find_config
from .patterns import ModulePatterns

__all__ = [
    "CONFIG_NAME",
    "LEAVES_UPDATE_ALONE",
    "TARGET_PARAMETERS",
    "LoraSettings",
    "RefusedField",
    "base_changing_init",
    "read_settings",
]

# Fields that pick modules (:mod:`.coverage`), steer training or describe; ΔW is in the tensors either way.
# `velora_config` changes the backward pass only, `monteclora_config` samples during training only, and
# `ensure_weight_tying` writes the tied module's factors out like any other's; the `*_config` of an initialisation act
# through `init_lora_weights`.
_HARMLESS = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("lora_dropout", "inference_mode", "merge_weights", "velora_config", "monteclora_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("auto_mapping", "peft_version", "revision", "runtime_config", "megatron_core", "qalora_group_size"),
}
# Fields that other trainers write into the file; they say how it was trained, or by what.
_OTHERS = {
    *("swift_type", "swift_version", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # ms-swift
    *("loraplus_lr_ratio", "loraplus_lr_embedding", "lora_target_linear", "use_gradient_checkpointing"),
    *("transformers_version", "unsloth_version", "library_name", "_name_or_path", "autocast_adapter_dtype"),
}
LEAVES_UPDATE_ALONE = frozenset(_HARMLESS | _OTHERS)
"""Fields that say nothing about ΔW, in the configuration of any kind of adapter."""
_READ = {
    *("peft_type", "base_model_name_or_path", "task_type", "bias", "init_lora_weights", "modules_to_save"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "lora_bias"),
    *("target_parameters", "use_dora"),
}


@dataclass(frozen=True)
class RefusedField:
    """Why a switched-on field cannot be read exactly.

    Attributes:
        reason: what the field does to the model.
        way_out: what the user can do.
    """

    reason: str
    way_out: str


_RETRAIN = "train or export a plain LoRA adapter"
_REFUSED: Mapping[str, RefusedField] = {
    "trainable_token_indices": RefusedField(
        "trainable tokens replace rows of the embedding beside the LoRA update",
        "train without trainable_token_indices, or with an embedding LoRA",
    ),
    "alora_invocation_tokens": RefusedField(
        "activated LoRA acts only after its invocation tokens, so it has no fixed ΔW", _RETRAIN
    ),
    "layer_replication": RefusedField(
        "layer replication changes the base model's layers, so module names mean other weights", _RETRAIN
    ),
    "use_qalora": RefusedField("QA-LoRA pools the inputs into groups before A", _RETRAIN),
    "use_bdlora": RefusedField("BD-LoRA stores block-diagonal factors in a compact form", _RETRAIN),
    "kasa_config": RefusedField("KaSA truncates the base weight itself and scales the rank directions", _RETRAIN),
    "arrow_config": RefusedField("Arrow routes each token to other experts, so there is no fixed ΔW", _RETRAIN),
    "megatron_config": RefusedField(
        "Megatron adapters may hold one tensor-parallel shard under Megatron's names",
        "export the adapter for the Hugging Face model",
    ),
}
TARGET_PARAMETERS = (
    "of LoRA on bare parameters only that of fused experts (gate_up_proj, down_proj) and of routers (weight) is read, "
    "which PEFT writes with target_parameters in the configuration"
)
_MLX_FIELDS = frozenset({"lora_parameters", "fine_tune_type", "adapter_path"})
# Initialisations that subtract something from the base weight: ΔW is relative to a base that is not on disk.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class LoraSettings:
    """What of adapter_config.json decides ΔW.

    Attributes:
        r: default rank.
        alpha: default lora_alpha.
        rank_pattern: PEFT's exceptions from ``r``, regular expression → rank.
        alpha_pattern: PEFT's exceptions from ``alpha``.
        rslora: scale by alpha/√r instead of alpha/r.
        fan_in_fan_out: the base stores its weights transposed (GPT-2's Conv1D).
        lora_bias: B has a bias.
        modules_to_save: modules of which the folder holds whole trained copies.
        base_model: ``base_model_name_or_path``.
        task_type: PEFT's task, such as ``CAUSAL_LM``.
        bias: which biases of the base were trained, ``none``, ``all`` or ``lora_only``; the tensors hold them.
        target_parameters: bare parameters that were to get a LoRA; the tensors say whether any did.
        dora: every row of the adapted weight has a learnt length (:mod:`.dora`).
        coverage: the modules that PEFT would give a LoRA to.
        notes: sentences about fields that are ignored.
    """

    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    fan_in_fan_out: bool
    lora_bias: bool
    modules_to_save: tuple[str, ...]
    base_model: str | None
    task_type: str | None
    bias: str
    target_parameters: tuple[str, ...]
    dora: bool
    coverage: Coverage
    notes: tuple[str, ...]

    def rank(self, module: str) -> int:
        """The rank that the configuration gives a module (canonical name)."""
        found = self._ranks.find(module)
        return self.r if found is None else int(found)

    def scale(self, module: str) -> float:
        """The scale s of ΔW = s·B·A: alpha/r, or alpha/√r for rsLoRA (Kalajdzievski 2023, 2312.03732)."""
        found, rank = self._alphas.find(module), self.rank(module)
        alpha = self.alpha if found is None else found
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def names_alpha(self, module: str) -> bool:
        """Whether alpha_pattern has a key for a module."""
        return self._alphas.find(module) is not None

    @cached_property
    def _ranks(self) -> ModulePatterns:
        return ModulePatterns(self.rank_pattern)

    @cached_property
    def _alphas(self) -> ModulePatterns:
        return ModulePatterns(self.alpha_pattern)


def base_changing_init(raw: Mapping[str, Any]) -> str | None:
    """The initialisation of a configuration under which training moved the base weights, or None."""
    init = raw.get("init_lora_weights", True)
    return init if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS) else None


def read_settings(folder: Path, *, moved_base: bool = False) -> LoraSettings:
    """Read and judge a folder's adapter_config.json.

    Args:
        folder: of the adapter.
        moved_base: let initialisations pass that moved the base; the caller then takes their first weights off.

    Raises:
        AdapterError: no such file, not JSON, not LoRA, or a field under which ΔW = s·B·A is not exact.
    """
    file = find_config(folder)
    try:
        raw = parse_json(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{file}: not valid JSON ({cause(error)}); save the adapter again") from error
    if not isinstance(raw, dict):
        raise AdapterError(f"{file}: found {type(raw).__name__}, expected a JSON object")
    if "peft_type" not in raw and not _MLX_FIELDS.isdisjoint(raw):
        raise AdapterError(f"{file}: written by mlx-lm, not by PEFT; {MLX_WAY_OUT}")
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"{file}: peft_type is {raw.get('peft_type')!r}, expected 'LORA'; {_RETRAIN}")
    _refuse_variants(file, raw, moved_base=moved_base)
    return LoraSettings(
        r=_rank(file, "r", raw.get("r", 8)),
        alpha=_number(file, "lora_alpha", raw.get("lora_alpha", 8)),
        rank_pattern={k: _rank(file, f"rank_pattern[{k!r}]", v) for k, v in _pattern(file, raw, "rank_pattern")},
        alpha_pattern={k: _number(file, f"alpha_pattern[{k!r}]", v) for k, v in _pattern(file, raw, "alpha_pattern")},
        rslora=_flag(file, raw, "use_rslora"),
        fan_in_fan_out=_flag(file, raw, "fan_in_fan_out"),
        lora_bias=_flag(file, raw, "lora_bias"),
        modules_to_save=_names(file, raw, "modules_to_save"),
        base_model=_text(file, raw, "base_model_name_or_path"),
        task_type=_text(file, raw, "task_type"),
        bias=_text(file, raw, "bias") or "none",
        target_parameters=_names(file, raw, "target_parameters"),
        dora=_flag(file, raw, "use_dora"),
        coverage=Coverage.of(raw),
        notes=_notes(raw),
    )


def _refuse_variants(file: Path, raw: Mapping[str, Any], *, moved_base: bool) -> None:
    for field, refusal in _REFUSED.items():
        if raw.get(field):
            raise AdapterError(
                f"{file}: {field} is {raw[field]!r}, expected it to be off: {refusal.reason}; {refusal.way_out}"
            )
    if not moved_base and (init := base_changing_init(raw)) is not None:
        raise AdapterError(
            f"{file}: init_lora_weights is {init!r}, which changed the base weights, so ΔW is not relative to the base "
            f"on disk; expected an adapter relative to the plain base: save it with PEFT's "
            f"save_pretrained(path_initial_model_for_weight_conversion=...)"
            + ("; for loftq, extract the difference to the plain base" if init.lower() == "loftq" else "")
        )
    for field in sorted(raw.keys() - _HARMLESS - _OTHERS - _READ - _REFUSED.keys()):
        value = raw[field]
        if value is True or (value and isinstance(value, (str, list, dict))):
            raise AdapterError(
                f"{file}: {field} is {value!r}, a field that this version does not know (peft_version "
                f"{raw.get('peft_version')!r}); it may change what ΔW is. Upgrade sst-merge, or remove the field if "
                f"you know that ΔW = scale·B·A all the same"
            )


def _notes(raw: Mapping[str, Any]) -> tuple[str, ...]:
    others = sorted(field for field in _OTHERS if raw.get(field))
    if not others:
        return ()
    return (
        f"{CONFIG_NAME} holds {', '.join(others)}, which another trainer wrote; ignored, as ΔW does not depend on it",
    )


def _rank(file: Path, field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AdapterError(f"{file}: {field} is {value!r}, expected a whole number of at least 1")
    return value


def _number(file: Path, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise AdapterError(f"{file}: {field} is {value!r}, expected a finite number")
    return float(value)


def _flag(file: Path, raw: Mapping[str, Any], field: str) -> bool:
    value = raw.get(field) or False
    if not isinstance(value, bool):
        raise AdapterError(f"{file}: {field} is {value!r}, expected true or false")
    return value


def _text(file: Path, raw: Mapping[str, Any], field: str) -> str | None:
    value = raw.get(field) or None
    if value is not None and not isinstance(value, str):
        raise AdapterError(f"{file}: {field} is {value!r}, expected text or null")
    return value


def _names(file: Path, raw: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = raw.get(field) or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise AdapterError(f"{file}: {field} is {value!r}, expected a list of module names or null")
    return tuple(value)


def _pattern(file: Path, raw: Mapping[str, Any], field: str) -> list[tuple[str, object]]:
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"{file}: {field} is {value!r}, expected an object of module pattern → number")
    try:
        ModulePatterns(value)
    except ValueError as error:
        pattern, reason = error.args
        raise AdapterError(
            f"{file}: {field} has the key {pattern!r}, which cannot be tried ({reason}); give names of modules, or "
            f"ends of names"
        ) from error
    return list(value.items())
