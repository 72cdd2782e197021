"""Fisher information in the core space, from batches of text (design, section 3).

Per sample, log-likelihood ℓ = Σ log p(label) over response tokens and g = ∂ℓ/∂M; F = E[vec(g) vec(g)ᵀ]. Samples
share a batch only to share a pass: squaring a batch's mean gradient would underestimate F by about the batch size.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from math import isfinite
from typing import get_args

import torch
from torch import Tensor, nn

from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..errors import DataError, FisherError
from .capture import CoreModel
from .defaults import ESTIMATOR, STRUCTURE, Estimator
from .fisher import Fisher
from .identity import fingerprint, point_digest
from .likelihood import token_log_odds, token_logprobs
from .points import auto_structure
from .structures import LayerFisher, RunningSums, find_structure

__all__ = ["Progress", "compute_fim"]

Progress = Callable[[int], None]
"""Called with the number of samples done, after every batch."""


def compute_fim(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Iterable[Batch],
    *,
    point: Mapping[str, Tensor] | None = None,
    structure: str = STRUCTURE,
    estimator: Estimator = ESTIMATOR,
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Fisher:
    """Fisher information of a model's responses with respect to core matrices.

    Args:
        model: a Hugging Face causal language model; its weights are only read.
        spaces: module name to core space.
        batches: text; how it is cut into batches makes no difference.
        point: cores M at which the gradients are taken, by module; None is M = 0, the base. Named points such as
            ``trust`` need roles: :func:`~.by_role.compute_fim_harm` and its sister know them.
        structure: ``diagonal``, ``kronecker``, ``block``, ``lowrank``, another registered name, or ``auto``
            (:func:`~.points.auto_structure`).
        estimator: ``empirical`` takes the labels of the data, ``sampled`` draws them from the model (the true
            Fisher, one draw a sample), ``log_odds`` takes the data's labels and the gradient of log p/(1-p).
        generator: on the CPU, required by ``sampled``.
        modules: collect for these modules only; the point still holds for all.
        progress: called with the number of samples done.

    Returns:
        The statistics, on the CPU.

    Raises:
        FisherError: unknown structure or estimator, no generator, or gradients that are not finite.
        DataError: no batches.
    """
    _check_estimator(estimator, generator)
    wanted = {name: space for name, space in spaces.items() if modules is None or name in modules}
    if not wanted:
        raise FisherError("no module to collect a Fisher for; check `modules` and the adapters")
    structure = auto_structure(wanted) if structure == "auto" else structure
    kind = find_structure(structure)
    draws = generator if estimator == "sampled" else None
    sums: dict[str, RunningSums] = {}
    samples = 0
    with CoreModel(model, spaces) as core_model:
        core_model.set_point(point)
        for name, space in wanted.items():
            sums[name] = kind.sums(space.shape, core_model.device_of(name))

        def collect(module: str, e: Tensor, z: Tensor) -> None:
            if module in sums:
                sums[module].add(e, z)

        for index, batch in enumerate(batches):
            with core_model.recording(collect):
                answers = core_model.answers(batch)
                score = token_log_odds if estimator == "log_odds" else partial(token_logprobs, generator=draws)
                loss = score(answers)[0].sum()
                core_model.backward(loss)
            _close(sums, batch, index, float(loss.detach()))
            samples += len(batch)
            if progress is not None:
                progress(samples)
    if samples == 0:
        raise DataError("no batches: a Fisher needs at least one sample")
    layers: dict[str, LayerFisher] = {}
    for name in wanted:
        layers[name] = kind(samples=samples, **sums.pop(name).finish())
    return Fisher(structure, layers, samples, fingerprint(wanted), f"{estimator}@{point_digest(point)}")


def _check_estimator(estimator: str, generator: torch.Generator | None) -> None:
    if estimator not in get_args(Estimator):
        raise FisherError(f"unknown estimator {estimator!r}; known: {', '.join(get_args(Estimator))}")
    if estimator == "sampled" and generator is None:
        raise FisherError("the estimator 'sampled' draws labels: pass generator=torch.Generator().manual_seed(…)")


def _close(sums: Mapping[str, RunningSums], batch: Batch, index: int, loss: float) -> None:
    """End a batch, and refuse it where a statistic is not finite; one transfer to the CPU for all modules.

    Raises:
        FisherError: NaN or Inf in a gradient or in the log-likelihood.
    """
    tokens = batch.tokens
    sizes = [running.close_batch(len(batch), tokens) for running in sums.values()]
    finite = torch.stack([size.detach().to(sizes[0].device, torch.float64) for size in sizes]).isfinite().tolist()
    if not all(finite):
        bad = list(sums)[finite.index(False)]
        raise FisherError(f"module {bad}: gradients of batch {index} hold NaN or Inf (log-likelihood {loss:.6g})")
    if not isfinite(loss):
        raise FisherError(f"batch {index}: log-likelihood {loss}; check the model's precision and the labels")
