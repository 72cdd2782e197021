"""Merge coefficients learned by gradient on calibration data: the base stays frozen, a handful of numbers move."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...data_loader.batch import Batch
from ...fim_calculator import CoreModel, token_logprobs
from .. import MergeProblem
from .own_data import required_model

__all__ = ["learn_coefficients"]


def _mean_log_likelihood(attached: CoreModel, batch: Batch) -> Tensor:
    """Mean over samples of the mean log-probability per answer token, a scalar in nats."""
    log_p, sample = token_logprobs(attached.answers(batch))
    sample = sample.to(log_p.device)
    sums = log_p.new_zeros(len(batch)).index_add(0, sample, log_p)
    return (sums / torch.bincount(sample, minlength=len(batch))).mean()


def learn_coefficients(
    problem: MergeProblem,
    start: Tensor,
    cores: Callable[[Tensor], Mapping[str, Tensor]],
    *,
    method: str,
    harm_weight: float,
    steps: int,
    learning_rate: float,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, list[float]]:
    """Maximise harm_weight · log p(refusal | harmful prompt) + log p(answer | benign prompt) with Adam.

    Every step takes one batch of each kind, in turn.

    Args:
        problem: model, spaces and data.
        start: coefficients to begin with, any shape.
        cores: coefficients → merged core per module, differentiable.
        method: for messages.
        harm_weight: weight of the refusals' term, ≥ 0.
        steps: of Adam; 0 returns the start.
        learning_rate: of Adam.
        bounds: coefficients are kept between them.

    Returns:
        The coefficients, rounded to three decimals, and the objective before every step.
    """
    model = required_model(problem, method)
    coefficients = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([coefficients], lr=learning_rate)
    objectives: list[float] = []
    with CoreModel(model, problem.spaces) as attached:
        for step in range(steps):
            harm, benign = problem.harm[step % len(problem.harm)], problem.benign[step % len(problem.benign)]
            attached.set_point(cores(coefficients))
            objective = harm_weight * _mean_log_likelihood(attached, harm) + _mean_log_likelihood(attached, benign)
            optimizer.zero_grad()
            (-objective).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if bounds is not None:
                with torch.no_grad():
                    coefficients.clamp_(*bounds)
            objectives.append(float(objective.detach()))
            if problem.progress is not None:
                problem.progress("learning coefficients", step + 1, steps)
    # Later digits are rounding of the model's own float32 parts, and differ from machine to machine.
    return coefficients.detach().round(decimals=3), objectives
