"""Exact greedy match by one teacher-forced forward pass: no generation.

Greedy decoding reproduces an answer if and only if, with the answer fed in, the arg-max at every answer position (the
end-of-text token included) is the answer's token; so one forward pass decides it exactly.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...data_loader import Batch
from .world import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["IGNORE", "batch_match", "encode", "exact_match", "pad_batch", "remembered"]

IGNORE = -100
_Row = tuple[list[int], int]
_encoded: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[Sample, _Row]]" = WeakKeyDictionary()
"""What has been asked before: a sweep asks every merged model the same questions."""


def encode(tokenizer: "PreTrainedTokenizerBase", samples: Sequence[Sample]) -> list[tuple[list[int], int]]:
    """Chat-templated token ids of samples.

    Args:
        tokenizer: a tokenizer with a chat template.
        samples: the samples.

    Returns:
        For each sample its token ids and how many of them are the prompt.
    """
    chats = [[{"role": "user", "content": sample.prompt}] for sample in samples]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    # The answer follows the generation prompt; the end-of-text token belongs to it.
    texts = [f"{prompt}{sample.response}{tokenizer.eos_token}" for prompt, sample in zip(prompts, samples, strict=True)]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [(row, len(prompt)) for row, prompt in zip(ids, prompt_ids, strict=True)]


def remembered(tokenizer: "PreTrainedTokenizerBase", samples: Sequence[Sample]) -> list[_Row]:
    """:func:`encode`, each sample once per tokenizer.

    Args:
        tokenizer: a tokenizer with a chat template.
        samples: the samples.

    Returns:
        As there.
    """
    known = _encoded.setdefault(tokenizer, {})
    new = [sample for sample in dict.fromkeys(samples) if sample not in known]
    if new:
        known.update(zip(new, encode(tokenizer, new), strict=True))
    return [known[sample] for sample in samples]


def pad_batch(rows: Sequence[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded tensors of encoded samples.

    Padding follows the text, where causal attention cannot see it, so no attention mask is needed.

    Args:
        rows: token ids and prompt length of each sample.
        pad: id of the padding token.

    Returns:
        Input ids and labels (IGNORE on prompt and padding), each (batch, longest).
    """
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORE)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = ids[i, start : len(row)]
    return ids, labels


@torch.no_grad()
def exact_match(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    samples: Sequence[Sample],
    *,
    batch_size: int = 64,
) -> Tensor:
    """Whether greedy decoding would give each sample's answer, word for word.

    Args:
        model: a causal language model in evaluation mode, on any device.
        tokenizer: its tokenizer.
        samples: the samples.
        batch_size: sequences a forward pass.

    Returns:
        Boolean tensor (len(samples),) on the CPU.
    """
    if not samples:
        return torch.zeros(0, dtype=torch.bool)
    rows = remembered(tokenizer, samples)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    right = torch.zeros(len(rows), dtype=torch.bool)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        ids, labels = (t.to(model.device) for t in pad_batch([rows[i] for i in chosen], tokenizer.pad_token_id))
        logits = model(input_ids=ids, use_cache=False).logits
        target = labels[:, 1:]
        agrees = (logits[:, :-1].argmax(-1) == target) | (target == IGNORE)
        right[chosen] = agrees.all(1).cpu()
    return right


@torch.no_grad()
def batch_match(model: "PreTrainedModel", batches: Sequence[Batch]) -> list[bool]:
    """Whether greedy decoding would give each sample's labelled answer, of prompts that are encoded already.

    Args:
        model: a causal language model in evaluation mode, on any device.
        batches: padded on the right.

    Returns:
        One verdict a sample, in order.
    """
    right: list[bool] = []
    for batch in batches:
        logits = model(input_ids=batch.input_ids.to(model.device), use_cache=False).logits
        target = batch.labels[:, 1:].to(logits.device)
        right += ((logits[:, :-1].argmax(-1) == target) | (target == IGNORE)).all(1).tolist()
    return right
