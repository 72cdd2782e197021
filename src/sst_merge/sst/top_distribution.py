"""What a teacher says, kept small: the k likeliest tokens at every answer position, and the mass of all others.

KL over the partition {token₁}, …, {token_k}, {all others} is at most the full KL (joining events loses information)
and equals it where the vocabulary has no more than k + 1 tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TOP", "TopDistribution"]

TOP = 64
"""k."""


@dataclass(frozen=True)
class TopDistribution:
    """Distributions of one teacher at n positions.

    Attributes:
        probabilities: (n, k + 1), the last one that of all other tokens; (n, vocabulary) where all are kept.
        tokens: (n, k), int32: which tokens they are; None where all are kept.
        negative_entropy: Σ p log p of the parts, (n,).
    """

    probabilities: Tensor
    tokens: Tensor | None
    negative_entropy: Tensor

    @classmethod
    def of(cls, log_p: Tensor, k: int = TOP) -> "TopDistribution":
        """Keep the k likeliest.

        Args:
            log_p: log-probabilities, (n, vocabulary).
            k: how many, where the vocabulary is larger.

        Returns:
            The distributions, in the type and on the device of ``log_p``.
        """
        tokens = None if log_p.shape[-1] <= k else log_p.topk(k).indices
        p = _joined(log_p, tokens).exp()
        kept = None if tokens is None else tokens.int()
        return cls(p, kept, torch.special.xlogy(p, p).sum(-1))

    @classmethod
    def joined(cls, parts: "Sequence[TopDistribution]") -> "TopDistribution":
        """Positions of several, in their order; the distribution itself where there is one."""
        if len(parts) == 1:
            return parts[0]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return cls(
            torch.cat([part.probabilities for part in parts]),
            torch.cat(tokens) if tokens else None,
            torch.cat([part.negative_entropy for part in parts]),
        )

    def at(self, positions: slice) -> "TopDistribution":
        """Some of the positions."""
        tokens = None if self.tokens is None else self.tokens[positions]
        return TopDistribution(self.probabilities[positions], tokens, self.negative_entropy[positions])

    def divergence(self, log_q: Tensor) -> Tensor:
        """KL(teacher ‖ q) over the partition, nats.

        Args:
            log_q: log-probabilities of the pupil, (n, vocabulary); may carry gradients.

        Returns:
            (n,), ≥ 0.
        """
        tokens = None if self.tokens is None else self.tokens.long()
        return self.negative_entropy - (self.probabilities * _joined(log_q, tokens)).sum(-1)

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        tokens = 0 if self.tokens is None else self.tokens.nbytes
        return self.probabilities.nbytes + tokens + self.negative_entropy.nbytes


def _joined(log_p: Tensor, tokens: Tensor | None) -> Tensor:
    """Log-probabilities of the parts, (n, k + 1)."""
    if tokens is None:
        return log_p
    others = log_p.scatter(-1, tokens, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, tokens), others], dim=-1)
