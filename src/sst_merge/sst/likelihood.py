"""What a merged model says on calibration batches: refusal log-probability beside benign divergence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import processes
from ..data_loader.batch import Batch
from ..fim_calculator import CoreModel, TokenBudget, divergences, token_logprobs

__all__ = ["Candidate", "refusal_log_probability", "score_candidates"]


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


def refusal_log_probability(attached: CoreModel, batch: Batch) -> Tensor:
    """Mean log-probability per answer token of every sample, summed over the batch: a scalar, nats."""
    log_p, sample = token_logprobs(attached.answers(batch, share=True))
    sample = sample.to(log_p.device)
    sums = log_p.new_zeros(len(batch)).index_add(0, sample, log_p)
    return (sums / torch.bincount(sample, minlength=len(batch))).sum()


@torch.no_grad()
def score_candidates(
    attached: CoreModel,
    candidates: Sequence[Mapping[str, Tensor]],
    skilled: Mapping[str, Tensor],
    harm: Sequence[Batch],
    benign: Sequence[Batch],
) -> list[tuple[float, float]]:
    """Refusal and divergence of several merges, in one pass over the batches; forward passes only.

    Args:
        attached: the base model with hooks in place.
        candidates: merged cores, per candidate and module.
        skilled: cores of the skilled model (M_U).
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.

    Returns:
        (mean refusal log-probability, mean divergence) per candidate.
    """

    def measure(batch: Batch) -> list[float]:
        found = []
        for cores in candidates:
            attached.set_point(cores)
            found.append(float(refusal_log_probability(attached, batch)))
        return found

    refusals, budget = [0.0] * len(candidates), TokenBudget(halves=not attached.shared_layers)
    for batch in processes.shard(harm):
        for _, found in budget.each(batch, measure):
            refusals = [total + own for total, own in zip(refusals, found, strict=True)]
    prompts = max(sum(len(batch) for batch in harm), 1)
    refusals = processes.sums(f"refusals of {len(candidates)} merges", refusals)
    measured = divergences(attached, candidates, skilled, benign)
    return [(refusal / prompts, divergence) for refusal, divergence in zip(refusals, measured, strict=True)]
