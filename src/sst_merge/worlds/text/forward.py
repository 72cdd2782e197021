"""A model over many prompts on few cores: what prompts have in common is read once, logits are kept where they count.

Prompts are rows of token ids. Rows that begin alike share one key-value cache of their common beginning; the rest is
padded on the left, so that the last position of every row is its last token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Prompts", "Reader", "common_prefix"]

Ids = Sequence[int]
_Layers = list[tuple[Tensor, Tensor]]

_WORTH_SHARING = 24
"""Tokens that a group of rows must have in common beyond what all have; a group costs a pass of its own."""

_ANSWERS_AT_ONCE = 2
"""Answers that are read first for every row; mostly the best is among them."""

_DECODED = 4
"""Held tokens a decoding batch, as a multiple of those that are read at once: a step computes one token a row."""


@dataclass(frozen=True)
class Prompts:
    """Rows that a model has read.

    Attributes:
        rows: their places in the caller's order.
        layers: keys and values of every layer, (b, heads, t, d).
        mask: (b, t), 1 on tokens and 0 on padding.
        logits: of the token after each row, (b, v), float32.
    """

    rows: tuple[int, ...]
    layers: _Layers
    mask: Tensor
    logits: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, (b,)."""
        return self.mask.sum(1)


def common_prefix(rows: Sequence[Ids]) -> int:
    """How many ids all rows begin with; at least one id of every row is left over.

    Args:
        rows: at least one, none empty.

    Returns:
        The number.
    """
    low, high = min(rows, key=tuple), max(rows, key=tuple)
    limit = min(map(len, rows)) - 1
    return next((i for i in range(limit) if low[i] != high[i]), limit)


class Reader:
    """One model, asked without gradients.

    Args:
        model: a causal language model with a key-value cache, in evaluation mode.
        tokens: padded tokens a forward pass; decides memory and speed, not results.
    """

    def __init__(self, model: "PreTrainedModel", *, tokens: int = 4096) -> None:
        self.model, self.tokens = model, tokens

    def next_logits(self, rows: Sequence[Ids]) -> Tensor:
        """Logits of the token after each row.

        Args:
            rows: token ids, none empty.

        Returns:
            (rows, v), float32.
        """
        found = [(part.rows, part.logits) for part in self.read(rows, keep=False)]
        order = torch.tensor([i for places, _ in found for i in places])
        return torch.cat([logits for _, logits in found])[order.argsort()]

    @torch.inference_mode()
    def read(self, rows: Sequence[Ids], *, keep: bool = True) -> Iterator[Prompts]:
        """Read rows, batch by batch, those of similar length together.

        Args:
            rows: token ids, none empty.
            keep: whether keys and values are wanted.

        Yields:
            What was read; every row once.
        """
        for group in _alike(rows):
            shared = common_prefix([rows[i] for i in group]) if len(group) > 1 else 0
            prefix = self._prefix(rows[group[0]][:shared]) if shared else []
            for part in self._parts([len(rows[i]) - shared for i in group]):
                yield self._read([group[k] for k in part], rows, shared, prefix, keep=keep)

    def likeliest(self, read: Prompts, answers: Sequence[Sequence[Ids]]) -> list[int]:
        """The likeliest of several whole answers to every row.

        No answer is likelier than its first token, so those whose first token is less likely than the best whole answer
        need not be read; the result is the same.

        Args:
            read: the rows, with keys and values.
            answers: for each row its answers as token ids, the end-of-turn token included.

        Returns:
            For each row the place of its likeliest answer.
        """
        first = read.logits.log_softmax(-1)
        bounds = [[float(first[k, answer[0]]) for answer in of] for k, of in enumerate(answers)]
        orders = [sorted(range(len(of)), key=lambda a, of=of: -of[a]) for of in bounds]  # type: ignore[misc]
        best = [(-math.inf, 0)] * len(answers)
        begun, step = 0, _ANSWERS_AT_ONCE
        while pairs := [
            (k, a) for k, order in enumerate(orders) for a in order[begun : begun + step] if bounds[k][a] > best[k][0]
        ]:
            for (k, a), value in zip(pairs, self.continue_with(read, pairs, answers).tolist(), strict=True):
                best[k] = max(best[k], (value, -a))
            begun, step = begun + step, 2 * step
        return [-a for _, a in best]

    @torch.inference_mode()
    def continue_with(
        self, read: Prompts, pairs: Sequence[tuple[int, int]], answers: Sequence[Sequence[Ids]]
    ) -> Tensor:
        """Log-probabilities of whole answers.

        Args:
            read: the rows, with keys and values.
            pairs: place of a row in that batch, and of one of its answers.
            answers: for each row its answers as token ids, none empty.

        Returns:
            (pairs,), float32.
        """
        first = read.logits.log_softmax(-1)
        total = torch.stack([first[k, answers[k][a][0]] for k, a in pairs])
        longer = [i for i, (k, a) in enumerate(pairs) if len(answers[k][a]) > 1]
        size = max(1, self.tokens // read.mask.shape[1])
        for start in range(0, len(longer), size):
            part = longer[start : start + size]
            some = [answers[pairs[i][0]][pairs[i][1]] for i in part]
            places = torch.tensor([pairs[i][0] for i in part])
            longest = max(map(len, some)) - 1
            # The last token of an answer is asked for, not read; padding on the right is never seen.
            ids = torch.tensor([[*answer[:-1], *[0] * (longest - len(answer) + 1)] for answer in some])
            mask = torch.cat([read.mask[places], torch.ones(len(part), longest, dtype=read.mask.dtype)], dim=1)
            cache = _cache([(keys[places], values[places]) for keys, values in read.layers])
            later = self._forward(ids, mask, cache, last=longest)
            for row, (i, answer) in enumerate(zip(part, some, strict=True)):
                log_p = later[row, : len(answer) - 1].log_softmax(-1)
                total[i] += log_p[torch.arange(len(answer) - 1), torch.tensor(answer[1:])].sum()
        return total

    @torch.inference_mode()
    def greedy(self, rows: Sequence[Ids], *, new_tokens: int, ends: frozenset[int]) -> list[list[int]]:
        """Greedy answers; a row that has ended is no longer computed.

        Args:
            rows: token ids, none empty.
            new_tokens: at most so many tokens an answer.
            ends: tokens that end an answer.

        Returns:
            The answers in order, without what ends them.
        """
        answers: list[list[int]] = [[] for _ in rows]
        for read in self._joined(self.read(rows)):
            cache, mask, places = _cache(read.layers), read.mask, torch.tensor(read.rows)
            chosen = read.logits.argmax(-1)
            for step in range(new_tokens):
                going = torch.tensor([token not in ends for token in chosen.tolist()])
                if not going.all():
                    alive = going.nonzero().flatten()
                    if not len(alive):
                        break
                    cache.batch_select_indices(alive)
                    chosen, mask, places = chosen[alive], mask[alive], places[alive]
                for place, token in zip(places.tolist(), chosen.tolist(), strict=True):
                    answers[place].append(token)
                if step + 1 < new_tokens:
                    mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                    chosen = self._forward(chosen[:, None], mask, cache, last=1)[:, 0].argmax(-1)
        return answers

    @torch.inference_mode()
    def answer_log_probabilities(self, rows: Sequence[tuple[Ids, int]]) -> list[tuple[Tensor, Tensor]]:
        """How likely given answers are, token by token.

        Args:
            rows: token ids of prompt and answer, and how many of them are the prompt's.

        Returns:
            For each row the log-probability of each answer token, and whether it was the likeliest, (answer,) each.
        """
        found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(rows)
        shared = common_prefix([ids[:asked] for ids, asked in rows]) if len(rows) > 1 else 0
        prefix = self._prefix(rows[0][0][:shared]) if shared else []
        for part in self._parts([len(ids) - shared for ids, _ in rows]):
            own = [rows[i][0][shared:] for i in part]
            kept = max(len(rows[i][0]) - rows[i][1] for i in part)
            cache = _cache(_expanded(prefix, len(part))) if shared else None
            logits = self._behind(own, shared, cache, last=kept + 1)[0][:, :-1]
            for k, i in enumerate(part):
                n = len(rows[i][0]) - rows[i][1]
                scores, target = logits[k, kept - n :], torch.tensor(own[k][len(own[k]) - n :])
                likely = scores.log_softmax(-1)[torch.arange(n), target]
                found[i] = likely, scores.argmax(-1) == target
        return found

    def _read(self, part: list[int], rows: Sequence[Ids], shared: int, prefix: _Layers, *, keep: bool) -> Prompts:
        """One batch behind what all its rows begin with."""
        cache = _cache(_expanded(prefix, len(part))) if shared or keep else None
        logits, mask = self._behind([rows[i][shared:] for i in part], shared, cache, last=1)
        return Prompts(tuple(part), _layers(cache) if keep else [], mask, logits[:, 0])

    def _behind(self, rows: Sequence[Ids], shared: int, cache: Any, *, last: int) -> tuple[Tensor, Tensor]:
        """Logits of the last positions, (b, last, v), and the mask of all, where the cache holds ``shared`` tokens."""
        ids, own = _left_padded(rows)
        mask = torch.cat([torch.ones(len(rows), shared, dtype=own.dtype), own], dim=1)
        return self._forward(ids, mask, cache, last=last), mask

    def _forward(self, ids: Tensor, mask: Tensor, cache: Any, *, last: int) -> Tensor:
        """Logits of the last positions, (b, last, v), float32 on the CPU; the cache takes up what was read."""
        device = self.model.device
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=last,
        )
        logits: Tensor = out.logits.float().cpu()
        return logits

    def _joined(self, parts: Iterator[Prompts]) -> Iterator[Prompts]:
        """Batches put together as far as the budget goes: a step of few rows takes nearly as long as one of many."""
        waiting: list[Prompts] = []
        for part in parts:
            together = [*waiting, part]
            size = sum(len(read.rows) for read in together) * max(read.mask.shape[1] for read in together)
            if waiting and size > _DECODED * self.tokens:
                yield _concatenated(waiting)
                waiting = []
            waiting.append(part)
        if waiting:
            yield _concatenated(waiting)

    def _prefix(self, ids: Ids) -> _Layers:
        cache = _cache([])
        self._forward(torch.tensor([list(ids)]), torch.ones(1, len(ids), dtype=torch.long), cache, last=1)
        return _layers(cache)

    def _parts(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of rows, shortest first, as many together as the budget of padded tokens allows."""
        part: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if part and (len(part) + 1) * lengths[i] > self.tokens:
                yield part
                part = []
            part.append(i)
        if part:
            yield part


def _left_padded(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Ids and mask, (b, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*[0] * (longest - len(row)), *row] for row in rows])
    return ids, torch.tensor([[*[0] * (longest - len(row)), *[1] * len(row)] for row in rows])


def _alike(rows: Sequence[Ids]) -> list[list[int]]:
    """Places of rows in groups that begin with much more than all rows do, and one group of the others.

    Jailbreak templates are long and each wraps several requests; what stands before the request is read once.
    """
    if len(rows) < 3:
        return [list(range(len(rows)))]
    enough = common_prefix(rows) + _WORTH_SHARING
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    groups: list[list[int]] = [[order[0]]]
    for before, after in pairwise(order):
        if common_prefix([rows[before], rows[after]]) >= enough:
            groups[-1].append(after)
        else:
            groups.append([after])
    others = [i for group in groups if len(group) < 3 for i in group]
    return [*(group for group in groups if len(group) >= 3), *([others] if others else [])]


def _concatenated(parts: Sequence[Prompts]) -> Prompts:
    """Batches as one, padded on the left."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.mask.shape[1] for part in parts)

    def padded(part: Prompts, layer: int, which: int) -> Tensor:
        held = part.layers[layer][which]
        return pad(held, (0, 0, longest - held.shape[-2], 0))

    layers = [
        (torch.cat([padded(part, i, 0) for part in parts]), torch.cat([padded(part, i, 1) for part in parts]))
        for i in range(len(parts[0].layers))
    ]
    mask = torch.cat([pad(part.mask, (longest - part.mask.shape[1], 0)) for part in parts])
    rows = tuple(i for part in parts for i in part.rows)
    return Prompts(rows, layers, mask, torch.cat([part.logits for part in parts]))


def _expanded(layers: _Layers, n: int) -> _Layers:
    return [(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1)) for keys, values in layers]


def _cache(layers: _Layers) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for i, (keys, values) in enumerate(layers):
        cache.update(keys, values, i)
    return cache


def _layers(cache: Any) -> _Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]
