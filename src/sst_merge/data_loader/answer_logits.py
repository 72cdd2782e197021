"""What a causal language model predicts where an answer is, and nowhere else.

The output layer of a small model costs as much as many of its other layers together, and a prompt's logits are not
needed. So the last hidden states are picked *before* that layer, by a hook on it; what the architecture does before and
after (scales, soft caps) is its own code and stays as it is. What all rows begin with (a system prompt, the wording of
a task) can be read once for all of them: later tokens do not change it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BaseModelError, DataError
from .batch import IGNORED, Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PASS_TOKENS", "AnswerLogits", "answer_logits", "can_share_prefix", "logits_at", "shared_prefix"]

PASS_TOKENS = 32
"""What one more forward pass costs, in tokens: weights are read again, and small matrices multiply slowly."""

_SHARED_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer"}


@dataclass(frozen=True)
class AnswerLogits:
    """Predictions of the n answer tokens of a batch, sample by sample, in the order of the text.

    Attributes:
        logits: (n, vocabulary), in the type that the model gives.
        targets: (n,), int64: the tokens that are to be predicted.
        samples: (n,), int64: the sample (0 … b-1) that each belongs to.
    """

    logits: "Tensor"
    targets: "Tensor"
    samples: "Tensor"

    @classmethod
    def of(cls, logits: "Tensor", batch: Batch) -> "AnswerLogits":
        """Picked from the logits of every position.

        Args:
            logits: (b, t, vocabulary): those at t predict the token at t + 1.
            batch: the b samples.

        Returns:
            Those that predict an answer token.
        """
        samples, positions = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets, where = batch.labels[samples, positions + 1], logits.device
        samples = samples.to(where)
        return cls(logits[samples, positions.to(where)], targets.to(where), samples)


def answer_logits(model: "nn.Module", batch: Batch, *, prefix: int = 0, **inputs: Any) -> AnswerLogits:
    """One forward pass; the vocabulary is computed at the positions that predict an answer token.

    A model whose output layer cannot be found, or that uses its weight without calling it, computes everywhere; the
    result is the same. Do not use this where the output layer itself is observed or adapted sample by sample: it sees
    one long sequence of n positions.

    Args:
        model: a Hugging Face causal language model, with or without PEFT.
        batch: tokens and labels, on the device of the model's embedding.
        prefix: tokens that all rows begin with and that are read once; exact, also in its gradients. Only for a model
            that :func:`can_share_prefix`, and not with gradient checkpointing.
        inputs: passed on to the model, such as ``position_ids``.

    Returns:
        Logits, the tokens to predict, and their samples; on the device of the logits.

    Raises:
        BaseModelError: the logits have another shape than the tokens.
        DataError: the rows do not begin with the same `prefix` tokens, or an answer follows them at once.
    """
    samples, positions = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = batch.labels[samples, positions + 1]
    if prefix:
        _check_prefix(batch, prefix)
    logits = logits_at(model, batch.input_ids, batch.attention_mask, samples, positions, prefix=prefix, **inputs)
    return AnswerLogits(logits, targets.to(logits.device), samples.to(logits.device))


def logits_at(
    model: "nn.Module",
    ids: "Tensor",
    mask: "Tensor",
    samples: "Tensor",
    positions: "Tensor",
    *,
    prefix: int = 0,
    **inputs: Any,
) -> "Tensor":
    """One forward pass; the vocabulary is computed at chosen positions alone, as in :func:`answer_logits`.

    Args:
        model: a Hugging Face causal language model, with or without PEFT.
        ids: (b, t) tokens, on the device of the model's embedding.
        mask: (b, t), 1 on tokens and 0 on padding.
        samples: (n,) rows.
        positions: (n,) of these rows, none below `prefix`.
        prefix: tokens that all rows begin with, and none of them as padding; read once.
        inputs: passed on to the model.

    Returns:
        (n, vocabulary): predictions of the tokens that follow.

    Raises:
        BaseModelError: the logits have another shape than the tokens.
    """
    later = ids[:, prefix:]
    if prefix:
        inputs |= {"past_key_values": _read_prefix(model, ids, prefix), "use_cache": True}
        positions = positions - prefix
    with _output_at(model, (later.shape[0], later.shape[1]), samples, positions) as picked:
        logits: Tensor = model(input_ids=later, attention_mask=mask, **inputs).logits
    expected = (1, len(samples)) if picked else tuple(later.shape)
    if tuple(logits.shape[:2]) != expected:
        raise BaseModelError(
            f"{type(model).__name__}: logits of shape {tuple(logits.shape)} for tokens {tuple(later.shape)}, expected "
            f"({', '.join(map(str, expected))}, vocabulary); a causal language model is needed"
        )
    where = logits.device
    return logits[0] if picked else logits[samples.to(where), positions.to(where)]


def can_share_prefix(model: "nn.Module") -> bool:
    """Whether a model gives keys and values of what it has read, and nothing else that later tokens need.

    Args:
        model: a Hugging Face causal language model.

    Returns:
        False for recurrent and hybrid models.
    """
    import torch

    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    if embedding is None:
        return False
    with torch.no_grad():
        output = model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=embedding.weight.device), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    layers = getattr(cache, "layers", ())
    return type(cache).__name__ == "DynamicCache" and {type(layer).__name__ for layer in layers} <= _SHARED_LAYERS


def shared_prefix(batch: Batch) -> int:
    """How many tokens all rows begin with, where reading them once for all is worth a pass of its own.

    Args:
        batch: every row with an answer.

    Returns:
        A `prefix` for :func:`answer_logits`: one token of every prompt is left, to predict the answer; 0 where too
        little is spared.

    Example:
        >>> import torch
        >>> from sst_merge import Batch
        >>> ids = torch.arange(60).repeat(3, 1)  # a long prompt that all have, and an answer of one token
        >>> labels = torch.where(torch.arange(60) < 59, -100, ids)
        >>> shared_prefix(Batch(ids, torch.ones_like(ids), labels))
        58
    """
    rows = len(batch)
    same = (batch.input_ids == batch.input_ids[:1]).all(0) & (batch.attention_mask == 1).all(0)
    asked = (batch.labels == IGNORED).all(0)
    found = min(int(same.int().cumprod(0).sum()), int(asked.int().cumprod(0).sum()) - 1)
    return found if (rows - 1) * found > PASS_TOKENS else 0


def _check_prefix(batch: Batch, prefix: int) -> None:
    """Refuse rows that cannot share.

    Raises:
        DataError: see :func:`answer_logits`.
    """
    first = batch.input_ids[:, :prefix]
    same = bool((first == first[0]).all()) and bool((batch.attention_mask[:, :prefix] == 1).all())
    if not same or bool((batch.labels[:, : prefix + 1] != IGNORED).any()):
        raise DataError(
            f"batch: its {len(batch)} rows do not share {prefix} tokens of prompt with one more before the answer; "
            "take the longest common beginning that is shorter than every prompt"
        )


def _read_prefix(model: "nn.Module", ids: "Tensor", prefix: int) -> Any:
    """Keys and values of the first tokens, for every row."""
    none = ids.new_zeros(0)
    with _output_at(model, (1, prefix), none, none):
        cache = model(input_ids=ids[:1, :prefix], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    return cache


@contextmanager
def _output_at(
    model: "nn.Module", shape: tuple[int, int], samples: "Tensor", positions: "Tensor"
) -> Iterator[list[bool]]:
    """Let the output layer see chosen positions alone.

    Yields:
        A list that is no longer empty when it did.
    """
    picked: list[bool] = []

    def pick(_layer: "nn.Module", arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        states: Any = arguments[0] if arguments else None
        # A tied output layer may be the input embedding, which is called with tokens.
        if getattr(states, "ndim", 0) != 3 or tuple(states.shape[:2]) != shape:
            return None
        picked.append(True)
        return states[samples.to(states.device), positions.to(states.device)][None], *arguments[1:]

    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    hook = None if head is None else head.register_forward_pre_hook(pick)
    try:
        yield picked
    finally:
        if hook is not None:
            hook.remove()
