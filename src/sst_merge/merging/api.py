"""``merge`` and ``merge_to_folder``: the two ways into this room."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from ..lora_utils import Adapter, BaseModelIndex, BaseWeights, LoraFactors
from .engine import Progress
from .report import MergeReport
from .result import FileText, MergeResult, write_merge
from .task import MergeInputs, MergeTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data_loader.batch import Batch

__all__ = ["merge", "merge_to_folder"]


def merge(
    adapters: Sequence[Adapter],
    method: str = "task_arithmetic",
    *,
    model: "PreTrainedModel | None" = None,
    harm: "Sequence[Batch]" = (),
    benign: "Sequence[Batch]" = (),
    adapter_benign: "Mapping[str, Sequence[Batch]]" = MappingProxyType({}),
    base: BaseModelIndex | None = None,
    base_weights: BaseWeights | None = None,
    aligned_weights: BaseWeights | None = None,
    seed: int = 0,
    rank: int | None = None,
    energy: float | None = None,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    assume_same_base: bool = False,
    progress: Progress | None = None,
    **options: object,
) -> MergeResult:
    """Merge adapters into one by any registered method.

    Args:
        adapters: what to merge, each with its role and weight.
        method: name of a method (``sst-merge methods`` lists them).
        model: base model, for methods that read data.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        adapter_benign: benign batches of single adapters' own data, by adapter name.
        base: layers of the base model to check the adapters against; those of ``model`` by default.
        base_weights: weights of the unaligned base, for methods that compare it with an aligned one.
        aligned_weights: weights of the aligned base.
        seed: of every random choice.
        rank: largest rank of the output; exact by default.
        energy: share of ‖ΔW‖² to keep per module; all by default.
        compute_dtype: float32 or float64: type of the merged factors, and of ΔW for methods that work on it; core
            matrices are float64 either way and rounded once.
        device: where the algebra runs.
        assume_same_base: merge adapters that name different bases.
        progress: called with (stage, done, total).
        options: options of the method.

    Returns:
        The merged adapter in memory, with its report.
    """
    task = MergeTask.start(
        adapters,
        method,
        options,
        MergeInputs(
            model=model,
            harm=harm,
            benign=benign,
            adapter_benign=adapter_benign,
            base_weights=base_weights,
            aligned_weights=aligned_weights,
        ),
        base=base,
        seed=seed,
        rank=rank,
        energy=energy,
        compute_dtype=compute_dtype,
        device=device,
        assume_same_base=assume_same_base,
        progress=progress,
    )
    factors = {merged.name: merged.factors for merged in task.modules()}
    plan = task.plan
    adapter = Adapter.from_factors(factors, name="merged", base_model=plan.base_model, task_type=plan.task_type)
    return MergeResult(adapter, task.report(), dict(task.timings), task.input_folders)


def merge_to_folder(
    adapters: Sequence[Adapter],
    path: str | Path,
    method: str = "task_arithmetic",
    *,
    model: "PreTrainedModel | None" = None,
    harm: "Sequence[Batch]" = (),
    benign: "Sequence[Batch]" = (),
    adapter_benign: "Mapping[str, Sequence[Batch]]" = MappingProxyType({}),
    base: BaseModelIndex | None = None,
    base_weights: BaseWeights | None = None,
    aligned_weights: BaseWeights | None = None,
    seed: int = 0,
    rank: int | None = None,
    energy: float | None = None,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    assume_same_base: bool = False,
    progress: Progress | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    extra_files: Mapping[str, FileText] = MappingProxyType({}),
    **options: object,
) -> MergeReport:
    """Merge adapters straight to disk: memory holds one module, however large the adapters are.

    Args:
        adapters: what to merge, each with its role and weight.
        path: folder to make; nothing is left of it after an error.
        method: name of a method.
        model: base model, for methods that read data.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        adapter_benign: benign batches of single adapters' own data, by adapter name.
        base: layers of the base model to check the adapters against; those of ``model`` by default.
        base_weights: weights of the unaligned base, for methods that compare it with an aligned one.
        aligned_weights: weights of the aligned base.
        seed: of every random choice.
        rank: largest rank of the output; exact by default.
        energy: share of ‖ΔW‖² to keep per module; all by default.
        compute_dtype: as in :func:`merge`.
        device: where the algebra runs.
        assume_same_base: merge adapters that name different bases.
        progress: called with (stage, done, total).
        dtype: type to write; ``compute_dtype`` by default.
        force: replace an existing folder.
        extra_files: file name → text, or a function of the finished report.
        options: options of the method.

    Returns:
        The report as written to ``merge_report.json``.
    """
    task = MergeTask.start(
        adapters,
        method,
        options,
        MergeInputs(
            model=model,
            harm=harm,
            benign=benign,
            adapter_benign=adapter_benign,
            base_weights=base_weights,
            aligned_weights=aligned_weights,
        ),
        base=base,
        seed=seed,
        rank=rank,
        energy=energy,
        compute_dtype=compute_dtype,
        device=device,
        assume_same_base=assume_same_base,
        progress=progress,
    )

    def stream() -> Iterator[tuple[str, LoraFactors]]:
        for merged in task.modules():
            yield merged.name, merged.factors

    return write_merge(
        path,
        stream(),
        task.report,
        base_model=task.plan.base_model,
        task_type=task.plan.task_type,
        dtype=dtype,
        force=force,
        extra_files=extra_files,
        inputs=task.input_folders,
    )
