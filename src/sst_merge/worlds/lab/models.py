"""A small Llama and its word-level tokenizer, in plain Hugging Face format."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .recipe import AdapterRecipe, ModelShape
from .world import World

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CHAT_TEMPLATE",
    "load_model",
    "load_tokenizer",
    "new_adapter",
    "new_model",
    "new_tokenizer",
    "save_adapter",
    "save_model",
]

_PAD, _BOS, _EOS, _UNK, _USER, _ASSISTANT = (
    f"<|{name}|>" for name in ("pad", "bos", "eos", "unk", "user", "assistant")
)

CHAT_TEMPLATE = (
    "{{ '" + _BOS + " ' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '" + _ASSISTANT + " ' + message['content'] + '" + _EOS + "' }}"
    "{% else %}{{ '" + _USER + " ' + message['content'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + _ASSISTANT + " ' }}{% endif %}"
)


def new_tokenizer(world: World) -> "PreTrainedTokenizerBase":
    """The word-level tokenizer of a world: every word is one token.

    Args:
        world: the world.

    Returns:
        The tokenizer, with its chat template.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = (_PAD, _BOS, _EOS, _UNK, _USER, _ASSISTANT, *world.vocabulary)
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=_UNK))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_UNK,
        additional_special_tokens=[_USER, _ASSISTANT],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(shape: ModelShape, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """A freshly initialised Llama (from torch's global generator).

    Args:
        shape: its shape.
        tokenizer: gives the vocabulary and the special tokens.

    Returns:
        The model, float32.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=64,
        initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model: PreTrainedModel = LlamaForCausalLM(config)
    return model


def load_model(folder: Path) -> "PreTrainedModel":
    """Read a base.

    Args:
        folder: a folder in Hugging Face format.

    Returns:
        The model, float32, in evaluation mode.
    """
    from transformers import AutoModelForCausalLM

    with _without_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    # Versions of transformers differ in the dtype they load by default and in the argument's name; 16 bits fit into 32.
    evaluating: PreTrainedModel = model.float().eval()
    return evaluating


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Read a base's tokenizer.

    Args:
        folder: a folder in Hugging Face format.

    Returns:
        The tokenizer.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def save_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write a base in 16 bits, with its tokenizer.

    Args:
        model: the model; rounded to float16 in place.
        tokenizer: its tokenizer.
        folder: where to.
    """
    with _without_bars():
        model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_adapter(model: "PreTrainedModel", recipe: AdapterRecipe) -> "PeftModel":
    """Wrap a base with a fresh LoRA on every linear layer (from torch's global generator).

    Args:
        model: the base; its parameters are frozen.
        recipe: rank and alpha.

    Returns:
        The PEFT model.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers has renamed; nobody who builds a lab can do anything about it.
        warnings.simplefilter("ignore", FutureWarning)
        adapted: PeftModel = get_peft_model(model, config)
    return adapted


def save_adapter(model: "PeftModel", folder: Path, *, base_name: str) -> None:
    """Write an adapter in 16 bits, in PEFT format.

    Args:
        model: the PEFT model; its adapter is rounded to float16 in place.
        folder: where to.
        base_name: name of the base, kept in the adapter's config in place of a local path.
    """
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    # PEFT keeps the modules in a set; sorted, the same adapter gives the same bytes.
    config.target_modules = sorted(config.target_modules)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float16)
    # "auto" would look the base up by its name on the hub.
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT's model card is an empty form whose lines change their order from run to run.
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own among the lab's: these files load in milliseconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
