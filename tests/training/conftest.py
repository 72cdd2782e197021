"""A tiny base with a tokenizer of words, and rows for it."""

import random
from pathlib import Path
from typing import Any

from tests.conftest import tiny_model

from sst_merge.data_loader import Row
from sst_merge.training import TrainingRecipe

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = [f"w{i}" for i in range(30)]


def tokenizer() -> Any:
    """Words apart by white space; 34 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_base(folder: Path, architecture: str = "llama") -> Path:
    """A base in a folder, as transformers saves it."""
    tiny_model(architecture).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def rows(count: int = 24, *, seed: int = 0) -> list[Row]:
    """Prompts of 2 to 9 words; the answer repeats the first two, so that something can be learned."""
    rng = random.Random(seed)
    found: list[Row] = []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randint(2, 9))
        found.append(Row(" ".join(words), " ".join(words[:2])))
    return found


def recipe(**changes: Any) -> TrainingRecipe:
    """A short training in float32."""
    return TrainingRecipe(**{
        "rank": 4,
        "alpha": 8,
        "batch_size": 8,
        "epochs": 1,
        "learning_rate": 0.01,
        "dtype": "float32",
        **changes,
    })
