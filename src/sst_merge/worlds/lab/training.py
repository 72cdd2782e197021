"""The training loop of every model of the lab, and the checks that make it reproducible."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from ...threads import one_thread
from .exact_match import IGNORE, pad_batch, remembered
from .mixtures import Mixture
from .recipe import AdapterRecipe, BaseRecipe
from .world import Sample

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["reproducibly", "train"]

_MICRO_BATCHES = 3


@contextmanager
def reproducibly(seed: int) -> Iterator[None]:
    """One thread and a seeded global generator inside, everything as before outside.

    Initialisers of transformers and PEFT read torch's global generator; the order of float additions depends on the
    number of threads. Same seed, same bytes needs both fixed.

    Args:
        seed: the seed.

    Yields:
        Nothing.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train(
    model: "nn.Module",
    tokenizer: "PreTrainedTokenizerBase",
    mixture: Mixture,
    how: BaseRecipe | AdapterRecipe,
    *,
    rng: random.Random,
    on_step: Callable[[int], bool],
) -> None:
    """AdamW with linear warm-up and cosine decay on the answers' tokens; the model is changed in place.

    Args:
        model: a causal language model; parameters that need no gradient stay as they are.
        tokenizer: its tokenizer.
        mixture: what to train on.
        how: steps of one round, batch, peak learning rate, warm-up, weight decay.
        rng: decides the batches.
        on_step: called after each step with the number of steps done; training stops when it returns False.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=how.lr, weight_decay=how.weight_decay, betas=(0.9, 0.98), foreach=True)
    model.train()
    batches = mixture.batches(how.batch, rng)
    for step in range(how.steps):
        for group in optimiser.param_groups:
            group["lr"] = how.lr * _schedule(step, how.steps, how.warmup)
        _accumulate(model, tokenizer, next(batches))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if not on_step(step + 1):
            break
    model.eval()


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _accumulate(model: "nn.Module", tokenizer: "PreTrainedTokenizerBase", samples: Sequence[Sample]) -> None:
    """Gradient of the mean loss over all answer tokens of a batch, in micro-batches of similar length."""
    rows = sorted(remembered(tokenizer, samples), key=lambda row: len(row[0]))
    answer_tokens = sum(len(ids) - start for ids, start in rows)
    size = math.ceil(len(rows) / _MICRO_BATCHES)
    for begin in range(0, len(rows), size):
        ids, labels = pad_batch(rows[begin : begin + size], int(tokenizer.pad_token_id))
        logits = model(input_ids=ids, use_cache=False).logits
        flat, target = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        loss = cross_entropy(flat, target, ignore_index=IGNORE, reduction="sum") / answer_tokens
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own gap
