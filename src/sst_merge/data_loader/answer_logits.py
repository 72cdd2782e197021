"""What a causal language model predicts where an answer is, and nowhere else.

The output layer of a small model costs as much as all of its other layers together, and a prompt's logits are not
needed. So the last hidden states are picked *before* that layer, by a hook on it; what the architecture does before and
after (scales, soft caps) is its own code and stays as it is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BaseModelError
from .batch import IGNORED, Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["AnswerLogits", "answer_logits"]


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


def answer_logits(model: "nn.Module", batch: Batch, **inputs: Any) -> AnswerLogits:
    """One forward pass; the vocabulary is computed at the positions that predict an answer token.

    A model whose output layer cannot be found, or that uses its weight without calling it, computes everywhere; the
    result is the same. Do not use this where the output layer itself is observed or adapted sample by sample: it sees
    one long sequence of n positions.

    Args:
        model: a Hugging Face causal language model, with or without PEFT.
        batch: tokens and labels, on the device of the model's embedding.
        inputs: passed on to the model, such as ``position_ids``.

    Returns:
        Logits, the tokens to predict, and their samples; on the device of the logits.

    Raises:
        BaseModelError: the logits have another shape than the tokens.
    """
    samples, positions = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = batch.labels[samples, positions + 1]
    shape = tuple(batch.input_ids.shape)
    picked = False

    def pick(_layer: "nn.Module", arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal picked
        states: Any = arguments[0] if arguments else None
        # A tied output layer may be the input embedding, which is called with tokens.
        if getattr(states, "ndim", 0) != 3 or tuple(states.shape[:2]) != shape:
            return None
        picked = True
        return states[samples.to(states.device), positions.to(states.device)][None], *arguments[1:]

    head = getattr(model, "get_output_embeddings", lambda: None)()
    hook = None if head is None else head.register_forward_pre_hook(pick)
    try:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    expected = (1, len(targets)) if picked else shape
    if tuple(logits.shape[:2]) != expected:
        raise BaseModelError(
            f"{type(model).__name__}: logits of shape {tuple(logits.shape)} for tokens {shape}, expected "
            f"({', '.join(map(str, expected))}, vocabulary); a causal language model is needed"
        )
    where = logits.device
    samples, positions = samples.to(where), positions.to(where)
    return AnswerLogits(logits[0] if picked else logits[samples, positions], targets.to(where), samples)
