"""What a model says of answers: log-probabilities, log-odds, and how far two models lie apart on them.

Only the logits at answer positions are kept: (tokens, vocabulary) of one batch at a time.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from .. import processes
from ..data_loader.answer_logits import AnswerLogits
from ..data_loader.batch import Batch
from ..data_loader.devices import in_float64
from .capture import CoreModel
from .token_budget import TokenBudget

__all__ = ["answer_log_probabilities", "divergences", "mean_divergence", "token_log_odds", "token_logprobs"]


def token_logprobs(answers: AnswerLogits, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token.

    Args:
        answers: logits where a response token is predicted.
        generator: on the CPU; draws the labels from the model (in the given context) instead of reading them.

    Returns:
        log p, (n,), in float32 or float64, and the sample (0 … b-1) that each belongs to, (n,), int64.
    """
    logs = torch.log_softmax(_wide(answers.logits), dim=-1)
    targets = answers.targets
    if generator is not None:
        # By the inverse distribution function: the same draws on every device, whatever the batch size.
        cumulated = in_float64(logs.detach()).exp().cumsum(-1)
        draws = torch.rand(len(targets), 1, generator=generator, dtype=torch.float64).to(cumulated.device)
        targets = torch.searchsorted(cumulated, draws * cumulated[:, -1:]).squeeze(-1).clamp_max(logs.shape[-1] - 1)
        targets = targets.to(logs.device)
    return logs.gather(-1, targets[:, None]).squeeze(-1), answers.samples


def token_log_odds(answers: AnswerLogits) -> tuple[Tensor, Tensor]:
    """Log-odds log p/(1-p) of every response token.

    Its gradient is that of log p divided by 1-p: it does not vanish where the model is already certain, so a
    well-known answer still says which directions would break it.

    Args:
        answers: logits where a response token is predicted.

    Returns:
        As :func:`token_logprobs`.
    """
    chosen, targets = _wide(answers.logits), answers.targets[:, None]
    own = chosen.gather(-1, targets)
    others = chosen.scatter(-1, targets, float("-inf")).logsumexp(-1)
    return own.squeeze(-1) - others, answers.samples


def answer_log_probabilities(attached: CoreModel, batch: Batch) -> Tensor:
    """Log-probabilities where an answer token is predicted, (answer tokens, vocabulary), in float32 or float64."""
    return log_softmax(_wide(attached.answers(batch, share=True).logits), dim=-1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def mean_divergence(skilled: Tensor, merged: Tensor) -> Tensor:
    """KL(skilled ‖ merged) of log-probabilities (n, vocabulary), summed over tokens: a scalar, nats."""
    return (skilled.exp() * (skilled - merged)).sum()


@torch.no_grad()
def divergences(
    attached: CoreModel,
    candidates: Sequence[Mapping[str, Tensor]],
    skilled: Mapping[str, Tensor],
    benign: Sequence[Batch],
) -> list[float]:
    """KL(skilled ‖ candidate) per answer token of several merges, in one pass over the batches; forward passes only.

    Several processes share the batches.

    Args:
        attached: the base model with hooks in place.
        candidates: merged cores, per candidate and module.
        skilled: cores of the skilled model (M_U).
        benign: batches of benign prompts with good answers.

    Returns:
        The mean over answer tokens, nats, per candidate; 0 without batches.
    """

    def measure(batch: Batch) -> tuple[int, list[float]]:
        attached.set_point(skilled)
        reference = answer_log_probabilities(attached, batch)
        apart = []
        for cores in candidates:
            attached.set_point(cores)
            apart.append(float(mean_divergence(reference, answer_log_probabilities(attached, batch))))
        return len(reference), apart

    found, tokens = [0.0] * len(candidates), 0
    budget = TokenBudget(halves=not attached.shared_layers)
    for batch in processes.shard(benign):
        for _, (answers, apart) in budget.each(batch, measure):
            tokens += answers
            found = [total + own for total, own in zip(found, apart, strict=True)]
    *found, counted = processes.sums(f"divergence of {len(found)} merges", [*found, tokens])
    return [total / max(counted, 1) for total in found]
