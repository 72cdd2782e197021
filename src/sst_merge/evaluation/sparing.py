"""lm-evaluation-harness's Hugging Face model with large vocabularies: options cost what options need.

Its own scoring computes the vocabulary at every token of every prompt and takes the logarithm of all that, several GiB
a batch. Here the output layer sees the options alone, and what the rows of a batch begin with is read once. Everything
else is its code.
"""

from collections.abc import Sequence

import torch
from lm_eval.models.huggingface import HFLM
from torch.nn.functional import log_softmax

from ..data_loader.answer_logits import can_share_prefix, logits_at
from ..machine import memory_is_full
from .beginnings import LARGE_VOCABULARY, pack_tokens, shared_beginning

__all__ = ["SparingHFLM"]

_Request = tuple[tuple[str, str] | tuple[None, str], list[int], list[int]]


class SparingHFLM(HFLM):  # type: ignore[misc]
    """A causal language model that scores options."""

    _shares: bool | None = None

    @property
    def spares(self) -> bool:
        """Whether its vocabulary is large enough; then batches whose rows begin alike cost less."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        return self.backend == "causal" and rows >= LARGE_VOCABULARY

    def _loglikelihood_tokens(
        self, requests: Sequence[_Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Log-probability of every continuation, and whether it is the likeliest one, token by token."""
        if not self.spares:
            found: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            return found
        rows: dict[tuple[int, ...], list[int]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            rows.setdefault((*context, *continuation[:-1]), []).append(place)
        ordered = sorted(rows, key=lambda row: (-len(row), row))
        size = int(override_bs or self.batch_size)
        answers: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(ordered), size):
            part = ordered[start : start + size]
            answers |= self._score(part, [rows[row] for row in part], requests)
        return [answers[place] for place in range(len(requests))]

    def _score(
        self, rows: Sequence[tuple[int, ...]], owners: Sequence[Sequence[int]], requests: Sequence[_Request]
    ) -> dict[int, tuple[float, bool]]:
        """Place of a request → its answer, for the requests of one batch of rows."""
        # Of what is too long the beginning is cut, as lm-evaluation-harness does.
        kept = [row[-self.max_length :] for row in rows]
        wanted = [max(len(requests[place][2]) for place in places) for places in owners]
        longest = max(map(len, kept))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in kept], device=self.device)
        lengths = torch.tensor([len(row) for row in kept], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        samples = torch.tensor([k for k, n in enumerate(wanted) for _ in range(n)], device=self.device)
        places = [p for row, n in zip(kept, wanted, strict=True) for p in range(len(row) - n, len(row))]
        positions = torch.tensor(places, device=self.device)
        shared = min(shared_beginning([pack_tokens(row) for row in kept]), *places)
        logits = self._logits(ids, mask, samples, positions, shared)
        log_p = log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        likeliest = log_p.argmax(-1)
        found, end = {}, 0
        for row, count in zip(owners, wanted, strict=True):
            end += count
            for place in row:
                tokens = torch.tensor(requests[place][2], device=log_p.device)
                mine = slice(end - len(tokens), end)
                value = log_p[mine].gather(1, tokens[:, None]).sum()
                found[place] = float(value), bool((likeliest[mine] == tokens).all())
        return found

    def _logits(
        self, ids: torch.Tensor, mask: torch.Tensor, samples: torch.Tensor, positions: torch.Tensor, shared: int
    ) -> torch.Tensor:
        with torch.no_grad():
            if self._shares is None:
                self._shares = can_share_prefix(self.model)
            if shared and self._shares:
                try:
                    return logits_at(self.model, ids, mask, samples, positions, prefix=shared)
                except (RuntimeError, MemoryError) as error:
                    # Keys and values of the beginning are kept for every row; without them less is needed.
                    if not memory_is_full(error):
                        raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            return logits_at(self.model, ids, mask, samples, positions)
