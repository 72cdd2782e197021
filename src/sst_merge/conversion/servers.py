"""What vLLM takes, as data: read from vLLM 0.32.0 (``config/lora.py``, ``lora/peft_helper.py``, ``lora/utils.py``).

SGLang reads the same files with fewer limits (any rank up to its ``--max-lora-rank``), so that what vLLM takes is taken
by both.
"""

import json
from pathlib import Path
from typing import Any

from ..errors import AdapterError
from ..reading import parse_json, reading

__all__ = ["SERVED_RANKS", "VLLM_VERSION", "least_served_rank", "vllm_objections", "vllm_room"]

VLLM_VERSION = "0.32.0"

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be; an adapter of any rank up to it is taken."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HEADS = ("classifier", "score")
# Initial values only: what is saved is a plain LoRA.
_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_OFF = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
_COPIES = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")


def least_served_rank(rank: int) -> int | None:
    """The smallest ``--max-lora-rank`` for an adapter of that rank, or None where there is none."""
    return next((served for served in SERVED_RANKS if served >= rank), None)


def vllm_room(rank: int) -> int | None:
    """As :func:`least_served_rank`, but never below 8, the least that every version of vLLM takes."""
    return least_served_rank(max(rank, 8))


def vllm_objections(folder: Path) -> tuple[str, ...]:
    """Why vLLM would refuse a PEFT folder, whatever the base; nothing where it would not.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.

    Returns:
        Sentences.

    Raises:
        AdapterError: the files are missing or cannot be read.
    """
    with reading(folder, AdapterError, "a PEFT adapter", "save the adapter again"):
        config = parse_json((folder / _CONFIG).read_text(encoding="utf-8"))
        names = _names(folder / _WEIGHTS)
    return (*_of_config(config), *_of_names(names))


def _names(file: Path) -> list[str]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return [name for name in json.loads(stream.read(length)) if name != "__metadata__"]


def _of_config(config: dict[str, Any]) -> list[str]:
    found = [f"{name} is missing" for name in ("r", "lora_alpha", "target_modules") if name not in config]
    ranks = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    if min(ranks) < 1 or least_served_rank(max(ranks)) is None:
        found.append(f"its ranks are {min(ranks)} to {max(ranks)}; vLLM takes 1 to {SERVED_RANKS[-1]}")
    if config.get("bias", "none") != "none":
        found.append(f"bias is {config['bias']!r}; vLLM takes 'none'")
    others = [name for name in config.get("modules_to_save") or () if name not in _HEADS]
    if others:
        found.append(f"modules_to_save holds {others[0]!r}; vLLM takes {' and '.join(_HEADS)} alone")
    found += [f"{name} is {config[name]!r}, which vLLM does not know" for name in _OFF if config.get(name)]
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _INITS:
        found.append(f"init_lora_weights is {init!r}: its base is another one")
    return found


def _of_names(names: list[str]) -> list[str]:
    unknown = [name for name in names if not _is_known(name)]
    return [f"{len(unknown)} tensors have names that it does not know, such as {unknown[0]!r}"] if unknown else []


def _is_known(name: str) -> bool:
    parts = name.split(".")
    if name.endswith(_COPIES):
        return True
    if parts[-1] in {"lora_embedding_A", "lora_embedding_B"}:
        return True
    if parts[-1] == "weight" and len(parts) > 1 and parts[-2] in {"lora_A", "lora_B"}:
        return True
    return len(parts) > 1 and parts[-2] in _HEADS and parts[-1] in {"weight", "bias"}
