"""Optional last step: re-learn the patch inside the safety subspace by gradient.

Parameters are the coefficients c of every layer in the basis V (M = M_U + V c), started from the filtered patch;
the loss is the refusal's negative log-likelihood plus a quadratic barrier on the tax budget. Because V is
F_b-orthonormal, equal steps in c cost equally much benign divergence: the basis is its own preconditioner.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..errors import OptionError
from ..fim_calculator import Batch, CoreModel
from ..gevp_solver import LayeredGEVP
from .likelihood import answer_log_probabilities, mean_divergence, refusal_log_probability

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["refine_coefficients"]

_REFERENCE_BYTES = 1 << 29
"""What the skilled model said, kept over the steps up to this size; beyond it a batch is asked again."""


def refine_coefficients(
    model: "PreTrainedModel",
    spaces: Mapping[str, CoreSpace],
    subspace: LayeredGEVP,
    utility: Mapping[str, Tensor],
    change: Mapping[str, Tensor],
    harm: Sequence[Batch],
    benign: Sequence[Batch],
    *,
    steps: int,
    tax_budget: float,
    learning_rate: float = 0.05,
    barrier: float = 50.0,
    embed: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Adam on the coefficients, one harm and one benign batch a step, in turn.

    Args:
        model: the base model.
        spaces: core space per module.
        subspace: directions per layer (all of them, or the k best).
        utility: M_U per module, the skilled model.
        change: the filtered patch to start from, per module.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        steps: gradient steps.
        tax_budget: divergence above which the barrier acts, nats per token.
        learning_rate: relative to the root mean square of the starting coefficients.
        barrier: weight of the squared excess over the budget, in units of the budget.
        embed: from the subspace's cores to full ones, where the subspace covers only a region.
        progress: called with (stage, done, total).

    Returns:
        The re-learnt patch, per module of the subspace.

    Raises:
        OptionError: no steps or no batches.
    """
    if steps < 1 or not harm or not benign:
        raise OptionError(
            f"refine needs steps ≥ 1 and batches of both kinds; found {steps}, {len(harm)}, {len(benign)}"
        )
    start = {m: result.coefficients(change[m]) for m, result in subspace.layers.items()}
    scale = float(torch.cat(list(start.values())).square().mean().sqrt()) or 1.0
    coefficients = {m: c.clone().requires_grad_(True) for m, c in start.items()}
    optimizer = torch.optim.Adam(list(coefficients.values()), lr=learning_rate * scale)

    def current() -> dict[str, Tensor]:
        moved = embed({m: subspace.layers[m].expand(c).to(utility[m]) for m, c in coefficients.items()})
        return {m: core + moved[m] if m in moved else core for m, core in utility.items()}

    with CoreModel(model, spaces) as attached:
        kept: dict[int, Tensor] = {}

        def skilled(index: int) -> Tensor:
            if index in kept:
                return kept[index]
            attached.set_point(utility)
            with torch.no_grad():
                found = answer_log_probabilities(attached, benign[index])
            if sum(r.nbytes for r in kept.values()) + found.nbytes <= _REFERENCE_BYTES:
                kept[index] = found
            return found

        for step in range(steps):
            harm_batch, benign_batch = harm[step % len(harm)], benign[step % len(benign)]
            reference = skilled(step % len(benign))
            cores = current()
            attached.set_point(cores)
            refusal = refusal_log_probability(attached, harm_batch) / len(harm_batch)
            merged = answer_log_probabilities(attached, benign_batch)
            excess = (mean_divergence(reference, merged) / len(reference) - tax_budget).clamp_min(0.0) / tax_budget
            optimizer.zero_grad()
            (barrier * tax_budget * excess.square() - refusal).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None:
                progress("refining coefficients", step + 1, steps)
    return {m: subspace.layers[m].expand(c.detach()).to(change[m]) for m, c in coefficients.items()}
