"""Optional last step: re-learn the patch inside the safety subspace by gradient.

Parameters are the coefficients c of every layer in the basis V (M = M_U + V c), started from the filtered patch;
the loss is the refusal's negative log-likelihood plus a quadratic barrier on the tax budget. Because V is
F_b-orthonormal, equal steps in c cost equally much benign divergence: the basis is its own preconditioner.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..errors import OptionError
from ..fim_calculator import CoreModel, TokenBudget, answer_log_probabilities, mean_divergence
from ..gevp_solver import LayeredGEVP
from ..progress import Progress
from ..tracking import record
from .likelihood import refusal_log_probability

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["RefineTrail", "refine_coefficients"]

_REFERENCE_BYTES = 1 << 29
"""What the skilled model said, kept over the steps up to this size; beyond it a batch is asked again."""


@dataclass
class RefineTrail:
    """Steps that refinements of one patch share whatever their budgets: the barrier is 0 until one is exceeded.

    Attributes:
        states: coefficients and optimiser before every step of a run that had not exceeded its budget before it.
        divergences: what each of these steps found, nats per token.
        references: index of a benign batch → what the skilled model says there.
    """

    states: list[tuple[dict[str, Tensor], dict[str, Any]]] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    references: dict[int, Tensor] = field(default_factory=dict)

    def shared(self, tax_budget: float) -> int:
        """How many steps a run with this budget need not do again: the index of the last state that is also its own."""
        within = (i for i, divergence in enumerate(self.divergences) if divergence > tax_budget)
        return next(within, max(0, len(self.states) - 1))


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
    trail: RefineTrail | None = None,
    progress: Progress | None = None,
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
        trail: of earlier runs that differed in the budget alone; read and continued. Its states are held in memory.
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

    first = 0
    if trail is not None and trail.states:
        first = trail.shared(tax_budget)
        values, state = trail.states[first]
        with torch.no_grad():
            for m, value in values.items():
                coefficients[m].copy_(value)
        optimizer.load_state_dict(copy.deepcopy(state))
    within = True

    with CoreModel(model, spaces) as attached:
        kept: dict[int, Tensor] = {} if trail is None else trail.references
        budget = TokenBudget(halves=not attached.shared_layers)

        def skilled(index: int) -> Tensor:
            if index in kept:
                return kept[index]
            attached.set_point(utility)
            with torch.no_grad():
                asked = budget.each(benign[index], lambda part: answer_log_probabilities(attached, part))
                found = torch.cat([part for _, part in asked])
            if sum(r.nbytes for r in kept.values()) + found.nbytes <= _REFERENCE_BYTES:
                kept[index] = found
            return found

        def differentiated(batch: Batch, value: Callable[[Batch, int], Tensor]) -> tuple[float, tuple[Tensor, ...]]:
            """A sum over samples and its gradient; the function is also told how many answer tokens came before."""
            total, before = 0.0, 0
            gradient = tuple(torch.zeros_like(c) for c in coefficients.values())

            def work(part: Batch) -> tuple[float, tuple[Tensor, ...]]:
                attached.set_point(current())
                found = value(part, before)
                return float(found.detach()), torch.autograd.grad(
                    found, list(coefficients.values()), materialize_grads=True
                )

            for part, (found, own) in budget.each(batch, work):
                total, before = total + found, before + part.answers
                for of, more in zip(gradient, own, strict=True):
                    of.add_(more)
            return total, gradient

        def refused(part: Batch, _: int) -> Tensor:
            return refusal_log_probability(attached, part)

        for step in range(first, steps):
            if trail is not None and within and step == len(trail.states):
                values = {m: c.detach().clone() for m, c in coefficients.items()}
                trail.states.append((values, copy.deepcopy(optimizer.state_dict())))
            harm_batch, benign_batch = harm[step % len(harm)], benign[step % len(benign)]
            reference = skilled(step % len(benign))

            def apart(part: Batch, before: int, reference: Tensor = reference) -> Tensor:
                said = reference[before : before + part.answers]
                return mean_divergence(said, answer_log_probabilities(attached, part)) / len(reference)

            refusals, up = differentiated(harm_batch, refused)
            divergence, away = differentiated(benign_batch, apart)
            if trail is not None and within and step == len(trail.divergences):
                trail.divergences.append(divergence)
            excess = max(0.0, divergence - tax_budget) / tax_budget
            within = within and not excess > 0
            # Of barrier · budget · excess² − refusal.
            for c, of_refusal, of_divergence in zip(coefficients.values(), up, away, strict=True):
                c.grad = 2.0 * barrier * excess * of_divergence - of_refusal / len(harm_batch)
            optimizer.step()
            record("refining", step + 1, {"refusal": refusals / len(harm_batch), "divergence": divergence})
            if progress is not None:
                progress("refining coefficients", step + 1, steps)
    return {m: subspace.layers[m].expand(c.detach()).to(change[m]) for m, c in coefficients.items()}
