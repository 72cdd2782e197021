"""Which class of transformers a base model is, decided in one place by the names that adapters use.

One checkpoint can be loaded as several classes, and the names of its layers differ: ``layers.0`` as a plain model,
``model.layers.0`` as a language model, ``model.language_model.layers.0`` as a model of pictures and text. Whoever
checks names and whoever runs the model ask here, so that both have the same one.
"""

import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BaseModelError
from .access import PLAIN, BaseAccess
from .base_files import find_base_repo
from .gguf_base import gguf_path, gguf_types, named_gguf

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AUTO_CLASSES", "EmptyModel", "empty_model", "read_base_config"]

AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "FEATURE_EXTRACTION": "AutoModel",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}
"""PEFT's task type → class that such adapters are trained on."""

_GENERATIVE = ("AutoModelForCausalLM", "AutoModelForImageTextToText")
_OTHERS = ("AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification", "AutoModelForTokenClassification")
_LAST = ("AutoModelForQuestionAnswering", "AutoModelForMaskedLM", "AutoModel")


class EmptyModel(NamedTuple):
    """A model without weights.

    Attributes:
        model: on the meta device, which holds no data.
        class_name: class of transformers whose ``from_pretrained`` loads it with weights.
    """

    model: "nn.Module"
    class_name: str


def read_base_config(reference: str | Path, access: BaseAccess = PLAIN) -> Any:
    """The configuration of a base model; no question is asked and no code of the repository runs unless allowed.

    Args:
        reference: folder or hub id, or a GGUF file, whose header is the configuration.
        access: what may be read.

    Raises:
        BaseModelError: no configuration there, or none that the installed transformers knows.
    """
    if (file := gguf_path(reference, access)) is not None:
        gguf_types(file)
        return _read_config(reference, access)
    folder = Path(reference)
    if folder.is_dir() and not (folder / "config.json").is_file():
        found = "a PEFT adapter" if (folder / "adapter_config.json").is_file() else "no config.json"
        there = named_gguf(entry.name for entry in folder.iterdir())
        advice = f"{there}: name one with gguf_file (--gguf-file)" if there else ""
        raise BaseModelError(f"{folder}: found {found}, expected the folder of a base model with config.json{advice}")
    repo = find_base_repo(reference, access)
    if repo is not None:
        inside = repo.name.subfolder
        repo.fetch([f"{inside}/config.json" if inside else "config.json"])
    return _read_config(reference, access)


def _read_config(reference: str | Path, access: BaseAccess) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(access.repo(reference), **access.of(reference))
    # Classes of configurations are other people's code, and raise what they like on a config.json of another version.
    except Exception as error:
        if access.gguf(reference) is not None:
            raise BaseModelError(
                f"base model {str(reference)!r}: transformers makes no configuration of its GGUF header "
                f"({first_line(error)}); expected an architecture that it converts, such as llama, qwen2 or mistral"
            ) from error
        raise BaseModelError(
            f"base model {str(reference)!r}: no usable configuration ({first_line(error)}); expected a folder with "
            f"config.json or a hub id that can be reached{code_advice(error, access)}. Name the base with base_model "
            f"(--base-model)"
        ) from error


def empty_model(
    reference: str | Path,
    *,
    modules: Collection[str] = (),
    task_type: str | None = None,
    generative: bool = False,
    access: BaseAccess = PLAIN,
) -> EmptyModel:
    """Build a base model on the meta device, as the class whose layers have the names that adapters use.

    Asked in this order: the class of the task type, the architecture that config.json names, language models, models of
    pictures and text, models with other heads, the plain model. The first one with all the modules is it, else the one
    with most of them.

    Args:
        reference: folder or hub id.
        modules: names of modules that adapters touch; without them the first class that can be built is it.
        task_type: PEFT's task type of the adapters.
        generative: only classes that predict text, which methods with data need.
        access: what may be read.

    Raises:
        BaseModelError: no configuration there, or transformers cannot build any such class.
    """
    import torch

    config = read_base_config(reference, access)
    best: tuple[int, EmptyModel] | None = None
    failure: Exception | None = None
    seen: set[type] = set()
    names = list(_candidates(config, task_type, generative=generative))
    for name in names if modules else names[:1]:
        try:
            with torch.device("meta"):
                model = _build(name, copy.deepcopy(config), access)
        # As above: constructors of architectures raise anything (a missing extra, a value of a newer version).
        except Exception as error:
            failure = failure or error
            continue
        if type(model) in seen:
            continue
        seen.add(type(model))
        found = _found(model, modules)
        if best is None or found > best[0]:
            best = found, EmptyModel(model, name)
        if found == len(set(modules)):
            break
    if best is None:
        built = config.architectures or config.model_type
        raise BaseModelError(
            f"base model {str(reference)!r}: transformers cannot build {built!r} for task {task_type!r} "
            f"({first_line(failure)}); expected an architecture of the installed transformers, with the packages that "
            f"it needs, that has this task{code_advice(failure, access)}"
        ) from failure
    return best[1]


def _found(model: "nn.Module", modules: Collection[str]) -> int:
    """How many of some modules a model has; one of several fused experts is a number behind its parameter's name."""
    names = {module for module, _ in model.named_modules(remove_duplicate=False)}
    parameters = {name for name, parameter in model.named_parameters() if parameter.ndim == 3}
    return sum(module in names or module.rpartition(".")[0] in parameters for module in set(modules))


def code_advice(error: Exception | None, access: BaseAccess) -> str:
    """What to do where a repository wants to run code of its own."""
    if access.trust_remote_code or "trust_remote_code" not in str(error):
        return ""
    return ", without code of its own (to run such code, if you have read it: --trust-remote-code)"


def first_line(error: BaseException | None) -> str:
    """The first line of what an error says; its class where it says nothing."""
    text = str(error).strip().partition("\n")[0]
    return text[:300] or type(error).__name__


def _candidates(config: Any, task_type: str | None, *, generative: bool) -> Iterator[str]:
    """Names of classes, in the order in which they are asked."""
    import transformers

    known = [name for name in config.architectures or () if hasattr(transformers, name)]
    if generative:
        yield from _GENERATIVE
        return
    if task_type in AUTO_CLASSES:
        yield AUTO_CLASSES[task_type]
    yield from known
    yield from (*_GENERATIVE, *_OTHERS, *_LAST)


def _build(name: str, config: Any, access: BaseAccess) -> "nn.Module":
    import transformers

    found = getattr(transformers, name)
    if not name.startswith("Auto"):
        model: nn.Module = found(config)
        return model
    built: nn.Module = found.from_config(config, trust_remote_code=access.trust_remote_code)
    return built
