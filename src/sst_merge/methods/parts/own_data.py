"""Every adapter with the data that it is judged on: what Fisher merging, RegMean and others have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...data_loader.batch import Batch
from ...errors import DataError, MergeError
from ...fim_calculator import point_cores
from .. import Layer, MergeProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OwnData", "own_data", "required_model", "signed_patches", "ticker"]


@dataclass(frozen=True)
class OwnData:
    """One adapter at its own optimum, with its own data.

    Attributes:
        name: of the adapter.
        weight: |w|.
        sign: of w, ±1.
        cores: its update times the sign of w, per module it touches.
        batches: what it is judged on.
        source: where the batches come from: ``own``, ``harm`` or ``benign``.
    """

    name: str
    weight: float
    sign: float
    cores: dict[str, Tensor]
    batches: Sequence[Batch]
    source: str


def own_data(problem: MergeProblem, method: str) -> tuple[tuple[OwnData, ...], tuple[str, ...]]:
    """Each adapter's own data; refusals for a safety adapter, the common benign data for others without any.

    A negative weight merges the reverse of an update: its sign goes to the update and |w| weighs it.

    Args:
        problem: with model, harm and benign batches.
        method: for messages.

    Returns:
        One entry per adapter in their order, and warnings about adapters without data of their own.

    Raises:
        MergeError: all weights are 0.
    """
    if all(a.weight == 0 for a in problem.adapters):
        raise MergeError(f"method {method!r} divides by the adapters' weights, which are all 0")
    found, warnings = [], []
    for adapter in problem.adapters:
        sign = -1.0 if adapter.weight < 0 else 1.0
        cores = point_cores([adapter.with_(weight=sign)], problem.spaces)
        batches: Sequence[Batch] = problem.adapter_benign.get(adapter.name, ())
        source = "own"
        if not batches:
            source = "harm" if adapter.role == "safety" else "benign"
            batches = problem.harm if source == "harm" else problem.benign
            if source == "benign" and len(problem.adapters) > 1:
                warnings.append(
                    f"adapter {adapter.name!r} has no benign data of its own, so {method} judges it on the common "
                    f"benign data; give it a data section for the method as published"
                )
        found.append(OwnData(adapter.name, abs(adapter.weight), sign, cores, batches, source))
    return tuple(found), tuple(warnings)


def required_model(problem: MergeProblem, method: str) -> "PreTrainedModel":
    """The model, after a check that calibration data are there too.

    Args:
        problem: the merge.
        method: for the message.

    Returns:
        The base model.

    Raises:
        DataError: no model, or no harm or benign batches.
    """
    if problem.model is None or not problem.harm or not problem.benign:
        raise DataError(
            f"method {method!r} needs model, harm and benign data; found model: {problem.model is not None}, harm "
            f"batches: {len(problem.harm)}, benign batches: {len(problem.benign)}"
        )
    return problem.model


def signed_patches(layer: Layer) -> list[Tensor]:
    """sign(wᵢ) Mᵢ of every adapter.

    Args:
        layer: one module.

    Returns:
        One core per adapter.
    """
    return [-m if w < 0 else m for m, w in zip(layer.patches, layer.weights, strict=True)]


def ticker(problem: MergeProblem, stage: str, batches: Sequence[Batch]) -> Callable[[int], None] | None:
    """A counter of samples for one stage.

    Args:
        problem: whose progress is reported.
        stage: its name.
        batches: what the stage runs over.

    Returns:
        To be called with the number of samples done, or None.
    """
    progress, total = problem.progress, sum(len(b) for b in batches)
    return None if progress is None else lambda done: progress(stage, done, total)
