"""What a merged model says on calibration batches: refusal log-probability and benign divergence.

Forward passes only, and only the logits at answer positions are kept: (tokens, vocabulary) of one batch at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ..data_loader.batch import IGNORED, Batch
from ..fim_calculator import CoreModel, token_logprobs

__all__ = ["Candidate", "answer_log_probabilities", "mean_divergence", "refusal_log_probability", "score_candidates"]


@dataclass(frozen=True)
class Candidate:
    """One point of the path, measured.

    Attributes:
        mu: μ, or None for a hard filter.
        strength: multiplies M_S.
        refusal: mean over samples of the mean log-probability per refusal token (nats, ≤ 0).
        divergence: mean KL(skilled ‖ merged) per benign answer token (nats, ≥ 0).
    """

    mu: float | None
    strength: float
    refusal: float
    divergence: float


def answer_log_probabilities(attached: CoreModel, batch: Batch) -> Tensor:
    """Log-probabilities over the vocabulary where an answer token is predicted.

    Args:
        attached: the model at its current point.
        batch: with labels on answer tokens.

    Returns:
        (answer tokens, vocabulary), float32, or float64 for a float64 model.
    """
    logits = attached.logits(batch)[:, :-1]
    rows, columns = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    chosen = logits[rows.to(logits.device), columns.to(logits.device)]
    return log_softmax(chosen if chosen.dtype == torch.float64 else chosen.float(), dim=-1)


def refusal_log_probability(attached: CoreModel, batch: Batch) -> Tensor:
    """Mean log-probability per answer token of every sample, summed over the batch.

    Args:
        attached: the model at its current point.
        batch: harmful prompts with refusals.

    Returns:
        Scalar, nats.
    """
    log_p, sample = token_logprobs(attached.logits(batch), batch)
    sample = sample.to(log_p.device)
    sums = log_p.new_zeros(len(batch)).index_add(0, sample, log_p)
    return (sums / torch.bincount(sample, minlength=len(batch))).sum()


def mean_divergence(skilled: Tensor, merged: Tensor) -> Tensor:
    """KL(skilled ‖ merged), summed over tokens.

    Args:
        skilled: log-probabilities of the skilled model, (n, vocabulary).
        merged: log-probabilities of the merged model, (n, vocabulary).

    Returns:
        Scalar, nats.
    """
    return (skilled.exp() * (skilled - merged)).sum()


@torch.no_grad()
def score_candidates(
    attached: CoreModel,
    candidates: Sequence[Mapping[str, Tensor]],
    skilled: Mapping[str, Tensor],
    harm: Sequence[Batch],
    benign: Sequence[Batch],
) -> list[tuple[float, float]]:
    """Refusal and divergence of several merges, in one pass over the batches.

    Args:
        attached: the base model with hooks in place.
        candidates: merged cores, per candidate and module.
        skilled: cores of the skilled model (M_U).
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.

    Returns:
        (mean refusal log-probability, mean divergence) per candidate.
    """
    refusals = [0.0] * len(candidates)
    divergences = [0.0] * len(candidates)
    prompts = tokens = 0
    for batch in harm:
        prompts += len(batch)
        for index, cores in enumerate(candidates):
            attached.set_point(cores)
            refusals[index] += float(refusal_log_probability(attached, batch))
    for batch in benign:
        attached.set_point(skilled)
        reference = answer_log_probabilities(attached, batch)
        tokens += len(reference)
        for index, cores in enumerate(candidates):
            attached.set_point(cores)
            divergences[index] += float(mean_divergence(reference, answer_log_probabilities(attached, batch)))
    return [(r / max(prompts, 1), d / max(tokens, 1)) for r, d in zip(refusals, divergences, strict=True)]
