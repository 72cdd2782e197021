"""What a model says of answers: log-probabilities, log-odds, and how far two models lie apart on them.

Only the logits at answer positions are kept: (tokens, vocabulary) of one batch at a time.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ..data_loader.batch import IGNORED, Batch
from ..errors import DataError
from .capture import CoreModel

__all__ = ["answer_log_probabilities", "divergences", "mean_divergence", "token_log_odds", "token_logprobs"]


def token_logprobs(logits: Tensor, batch: Batch, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token, next-token shift included.

    Args:
        logits: (b, t, vocabulary).
        batch: the samples that they belong to.
        generator: on the CPU; draws the labels from the model (in the given context) instead of reading them.

    Returns:
        log p, (n,), in float32 or float64, and the sample (0 … b-1) that each belongs to, (n,), int64.

    Raises:
        DataError: a sample without response token.
    """
    chosen, targets, sample = _response_logits(logits, batch)
    logs = torch.log_softmax(chosen, dim=-1)
    if generator is not None:
        # By the inverse distribution function: the same draws on every device, whatever the batch size.
        draws = torch.rand(len(sample), 1, generator=generator, dtype=torch.float64).to(logits.device)
        cumulated = logs.detach().double().exp().cumsum(-1)
        targets = torch.searchsorted(cumulated, draws * cumulated[:, -1:]).squeeze(-1).clamp_max(logs.shape[-1] - 1)
    return logs.gather(-1, targets[:, None]).squeeze(-1), sample


def token_log_odds(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-odds log p/(1-p) of every response token, next-token shift included.

    Its gradient is that of log p divided by 1-p: it does not vanish where the model is already certain, so a
    well-known answer still says which directions would break it.

    Args:
        logits: (b, t, vocabulary).
        batch: the samples that they belong to.

    Returns:
        Log-odds, (n,), in float32 or float64, and the sample (0 … b-1) that each belongs to, (n,), int64.

    Raises:
        DataError: a sample without response token.
    """
    chosen, targets, sample = _response_logits(logits, batch)
    own = chosen.gather(-1, targets[:, None])
    others = chosen.scatter(-1, targets[:, None], float("-inf")).logsumexp(-1)
    return own.squeeze(-1) - others, sample


def _response_logits(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict a response token (n, vocabulary), the token (n,), its sample (n,).

    Raises:
        DataError: a sample without response token.
    """
    labels = batch.labels[:, 1:]
    sample, position = (labels != IGNORED).nonzero(as_tuple=True)
    counts = torch.bincount(sample, minlength=len(batch))
    if bool((counts == 0).any()):
        raise DataError(f"sample {int((counts == 0).nonzero()[0])} of a batch has no response token after the first")
    # Only response positions are normalised: the float32 copy stays small for large vocabularies.
    chosen = logits[sample.to(logits.device), position.to(logits.device)]
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    return chosen, labels[sample, position].to(logits.device), sample


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
def divergences(
    attached: CoreModel,
    candidates: Sequence[Mapping[str, Tensor]],
    skilled: Mapping[str, Tensor],
    benign: Sequence[Batch],
) -> list[float]:
    """KL(skilled ‖ candidate) per answer token of several merges, in one pass over the batches; forward passes only.

    Args:
        attached: the base model with hooks in place.
        candidates: merged cores, per candidate and module.
        skilled: cores of the skilled model (M_U).
        benign: batches of benign prompts with good answers.

    Returns:
        The mean over answer tokens, nats, per candidate; 0 without batches.
    """
    found = [0.0] * len(candidates)
    tokens = 0
    for batch in benign:
        attached.set_point(skilled)
        reference = answer_log_probabilities(attached, batch)
        tokens += len(reference)
        for index, cores in enumerate(candidates):
            attached.set_point(cores)
            found[index] += float(mean_divergence(reference, answer_log_probabilities(attached, batch)))
    return [total / max(tokens, 1) for total in found]
