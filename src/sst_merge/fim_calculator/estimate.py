"""Fisher information in the core space, from batches of text (design, section 3).

Per sample, log-likelihood ℓ = Σ log p(label) over response tokens and g = ∂ℓ/∂M; F = E[vec(g) vec(g)ᵀ]. Samples
share a batch only to share a pass: squaring a batch's mean gradient would underestimate F by about the batch size.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from .. import processes
from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..errors import DataError, FisherError
from .capture import CoreModel
from .defaults import ESTIMATOR, STRUCTURE, Estimator
from .fisher import Fisher
from .gathering import Gathering
from .identity import fingerprint, point_digest
from .kept_parts import KeptParts
from .points import auto_structure
from .structures import find_structure
from .together import gathered_together
from .token_budget import TokenBudget

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
    keep: Path | None = None,
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
        keep: folder in which each of several processes keeps its part while it collects, so that the same call goes on
            there after a kill; nothing is kept by one process.
        progress: called with the number of samples done.

    Returns:
        The statistics, on the CPU; inside :func:`~sst_merge.processes.joined` those of the batches of all processes.

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
    with CoreModel(model, spaces) as core_model:
        core_model.set_point(point)
        budget = TokenBudget(halves=not core_model.shared_layers)

        def start() -> Gathering:
            return Gathering(core_model, kind, wanted, estimator, generator, budget)

        if processes.count() == 1:
            gathering = start()
            for index, batch in enumerate(batches):
                gathering.take(batch, index)
                if progress is not None:
                    progress(gathering.samples)
            samples = gathering.samples
            layers = gathering.layers() if samples else {}
        else:
            text = list(batches)
            parts = (
                None
                if keep is None
                else KeptParts.of(
                    keep,
                    model,
                    wanted,
                    text,
                    point=point,
                    structure=structure,
                    estimator=estimator,
                    generator=generator,
                )
            )
            samples = sum(len(batch) for batch in text)
            layers = gathered_together(start, kind, wanted, text, parts=parts, progress=progress) if samples else {}
    if samples == 0:
        raise DataError("no batches: a Fisher needs at least one sample")
    return Fisher(structure, layers, samples, fingerprint(wanted), f"{estimator}@{point_digest(point)}")


def _check_estimator(estimator: str, generator: torch.Generator | None) -> None:
    if estimator not in get_args(Estimator):
        raise FisherError(f"unknown estimator {estimator!r}; known: {', '.join(get_args(Estimator))}")
    if estimator == "sampled" and generator is None:
        raise FisherError("the estimator 'sampled' draws labels: pass generator=torch.Generator().manual_seed(…)")
