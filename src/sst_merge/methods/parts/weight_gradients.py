"""Gradients of single samples with respect to whole weights, for scores of single entries; a few modules at a time."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ...core_space import CoreSpace
from ...data_loader.batch import Batch
from ...errors import BaseModelError
from ...fim_calculator import CoreModel, token_logprobs

__all__ = ["single_samples", "summed_gradients"]


def single_samples(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The first samples, each in a batch of its own and without its padding's share of the work."""
    rows: list[Batch] = []
    for batch in batches:
        for i in range(min(len(batch), count - len(rows))):
            seen = batch.attention_mask[i].bool()
            rows.append(Batch(*(t[i : i + 1, seen] for t in (batch.input_ids, batch.attention_mask, batch.labels))))
    return rows


def summed_gradients(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    samples: Sequence[Batch],
    modules: Sequence[str],
    of: Callable[[Tensor], Tensor],
    *,
    point: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Σ_x f(∇_θ L(x)), with L the mean negative log-likelihood per answer token.

    Args:
        model: the base model; its weights are only read.
        spaces: core spaces in which the point lies.
        samples: batches of one sample.
        modules: with whose weights.
        of: f, entry by entry.
        point: cores that are added to the base; the base itself by default.

    Returns:
        Module → (d_out, d_in), float32, where the module computes; 0 where a weight has no part in it.

    Raises:
        BaseModelError: a weight that has no gradient, such as a quantised one.
    """
    with CoreModel(model, spaces) as attached:
        attached.set_point(point)
        weights: dict[str, Parameter] = {}
        for module in modules:
            weight = model.get_submodule(module).weight
            if not isinstance(weight, Parameter) or not weight.is_floating_point():
                raise BaseModelError(f"module {module!r}: its weight has no gradient (quantised?); load a plain model")
            weights[module] = weight
        totals = {m: torch.zeros_like(w, dtype=torch.float32) for m, w in weights.items()}
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for sample in samples:
                log_p, _ = token_logprobs(attached.answers(sample))
                gradients = torch.autograd.grad(-log_p.mean(), list(weights.values()), allow_unused=True)
                for module, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None:
                        totals[module] += of(gradient)
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)
    return {module: spaces[module].kind.matrix(total) for module, total in totals.items()}
