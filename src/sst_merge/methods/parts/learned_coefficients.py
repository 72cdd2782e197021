"""Merge coefficients learned by gradient on calibration data: the base stays frozen, a handful of numbers move."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...data_loader.batch import Batch
from ...fim_calculator import CoreModel, token_logprobs
from .. import MergeProblem
from .own_data import required_model

__all__ = ["learn_coefficients"]


def _mean_log_likelihood(attached: CoreModel, batch: Batch) -> Tensor:
    """Mean over samples of the mean log-probability per answer token, a scalar in nats."""
    log_p, sample = token_logprobs(attached.answers(batch, share=True))
    sample = sample.to(log_p.device)
    sums = log_p.new_zeros(len(batch)).index_add(0, sample, log_p)
    return (sums / torch.bincount(sample, minlength=len(batch))).mean()


def learn_coefficients(
    problem: MergeProblem,
    start: Tensor,
    cores: Callable[[Tensor], Mapping[str, Tensor]],
    *,
    method: str,
    steps: int,
    learning_rate: float,
    harm_weight: float = 1.0,
    terms: Sequence[tuple[float, Sequence[Batch]]] | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, list[float]]:
    """Maximise harm_weight · log p(refusal | harmful prompt) + log p(answer | benign prompt) with Adam.

    Or a weighted sum of other likelihoods. Every step takes one batch of each, in turn.

    Args:
        problem: model, spaces and data.
        start: coefficients to begin with, any shape.
        cores: coefficients → merged core per module, differentiable.
        method: for messages.
        steps: of Adam; 0 returns the start.
        learning_rate: of Adam.
        harm_weight: weight of the refusals' term, ≥ 0.
        terms: weights and batches of answers, in place of the refusals and the benign answers.
        bounds: coefficients are kept between them.

    Returns:
        The coefficients, rounded to three decimals, and the objective before every step.
    """
    model = required_model(problem, method)
    summed = terms if terms is not None else ((harm_weight, problem.harm), (1.0, problem.benign))
    coefficients = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([coefficients], lr=learning_rate)
    objectives: list[float] = []
    with CoreModel(model, problem.spaces) as attached:
        for step in range(steps):
            optimizer.zero_grad()
            objective = start.new_zeros(())
            # One term's activations at a time: there may be as many terms as adapters.
            for weight, batches in summed:
                attached.set_point(cores(coefficients))
                term = weight * _mean_log_likelihood(attached, batches[step % len(batches)])
                (-term).backward()  # type: ignore[no-untyped-call]
                objective = objective + term.detach()
            optimizer.step()
            if bounds is not None:
                with torch.no_grad():
                    coefficients.clamp_(*bounds)
            objectives.append(float(objective))
            if problem.progress is not None:
                problem.progress("learning coefficients", step + 1, steps)
    # Later digits are rounding of the model's own float32 parts, and differ from machine to machine.
    return coefficients.detach().round(decimals=3), objectives
