"""The Fishers of one merge, collected with the same settings, and what they need of its data."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import DataError
from ..fim_calculator import CoreModel, Estimator, Fisher, compute_fim
from ..methods import MergeProblem
from .region import Region

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["collect", "require_data", "required_model"]


def required_model(problem: MergeProblem) -> "PreTrainedModel":
    """The base model.

    Raises:
        DataError: there is none.
    """
    if problem.model is None:
        raise DataError("method 'sst' needs the base model for this step (base_model, model= in Python), found none")
    return problem.model


def require_data(problem: MergeProblem) -> None:
    """Refuse a merge without model or calibration data.

    Raises:
        DataError: no model, or no harm or benign batches.
    """
    if problem.model is None or not problem.harm or not problem.benign:
        raise DataError(
            "method 'sst' needs base_model, data.harm and data.benign; found model: "
            f"{problem.model is not None}, harm batches: {len(problem.harm)}, benign batches: {len(problem.benign)}"
        )


def collect(
    problem: MergeProblem,
    batches: Sequence[Batch],
    role: str,
    stage: str,
    *,
    structure: str,
    estimator: Estimator,
    point: Mapping[str, Tensor] | None,
    region: Region,
) -> Fisher:
    """One Fisher.

    Args:
        problem: model, full spaces, seed, progress.
        batches: what it is taken over.
        role: ``safety`` for harm, ``utility`` for benign; decides the label seed.
        stage: name for the progress bar.
        structure: which correlations are kept.
        estimator: what is differentiated.
        point: cores at which gradients are taken; None is the base.
        region: where it is collected.

    Returns:
        The statistics, unscaled.
    """
    model, spaces = required_model(problem), problem.spaces
    generator = torch.Generator().manual_seed(problem.seed * 2 + (role == "safety"))
    total = sum(len(b) for b in batches)
    progress = problem.progress
    tick = None if progress is None else lambda done: progress(stage, done, total)
    if region.kept is None:
        return compute_fim(
            model,
            spaces,
            batches,
            point=point,
            structure=structure,
            estimator=estimator,
            generator=generator,
            keep=problem.keep,
            progress=tick,
        )
    # A region's bases cannot express the point, so the point is held in the full spaces around it.
    with CoreModel(model, spaces) as around:
        around.set_point(point)
        return compute_fim(
            model,
            region.spaces,
            batches,
            structure=structure,
            estimator=estimator,
            generator=generator,
            progress=tick,
        )
