"""``merge`` and ``merge_lora_adapters``: a merge in one call, with everything as a keyword."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ..lora_utils import Adapter, BaseModelIndex, BaseWeights
from ..progress import Progress
from .inputs import MergeInputs
from .plan import plan_merge
from .result import MergeResult
from .run import merge_in_memory
from .settings import MergeSettings
from .workers import Workers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data_loader import Batch
    from ..methods import Refuses

__all__ = ["merge", "merge_lora_adapters"]


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
    refuses: "Refuses | None" = None,
    seed: int = 0,
    rank: int | None = None,
    energy: float | None = None,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    assume_same_base: bool = False,
    modules_to_save_from: str | None = None,
    progress: Progress | None = None,
    workers: Workers = "auto",
    **options: object,
) -> MergeResult:
    """Merge adapters into one by any registered method.

    The only place that lists all keywords: inside, model and data travel as
    :class:`~sst_merge.merging.MergeInputs`, the rest as :class:`~sst_merge.merging.MergeSettings`. To look at a merge
    before it is made, or to write it straight to disk, call :func:`~sst_merge.merging.plan_merge`.

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
        refuses: says which harmful prompts a model refuses, for ``safety_target``: such as
            :class:`~sst_merge.judges.GreedyRefusals`.
        seed: of every random choice.
        rank: largest rank of the output; exact by default.
        energy: share of ‖ΔW‖² to keep per module; all by default.
        compute_dtype: float32 or float64: type of the merged factors, and of ΔW for methods that work on it; core
            matrices are float64 either way and rounded once.
        device: where the algebra runs.
        assume_same_base: merge adapters that name different bases.
        modules_to_save_from: name of the adapter whose whole weights (heads, embeddings) are written where several
            adapters have them and disagree.
        progress: called with (stage, done, total).
        workers: threads that merge modules, or ``auto``; the result is the same
            (:func:`~sst_merge.merging.number_of_workers`).
        options: options of the method.

    Returns:
        The merged adapter in memory, with its report.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, LoraFactors, merge
        >>> def rank_one(row, column, name):
        ...     factors = LoraFactors(torch.eye(2)[:, row : row + 1], torch.eye(3)[column : column + 1])
        ...     return Adapter.from_factors({"layer": factors}, name=name)
        >>> code, maths = rank_one(0, 0, "code"), rank_one(1, 2, "maths")
        >>> result = merge([code, maths.with_(weight=0.5)], "task_arithmetic", strength=2.0)
        >>> result.adapter.delta("layer").round(decimals=4)
        tensor([[2., 0., 0.],
                [0., 0., 1.]])
        >>> result.report.modules["layer"].rank
        2
    """
    inputs = MergeInputs(
        model=model,
        harm=harm,
        benign=benign,
        adapter_benign=adapter_benign,
        base_weights=base_weights,
        aligned_weights=aligned_weights,
        refuses=refuses,
    )
    settings = MergeSettings(
        seed=seed,
        rank=rank,
        energy=energy,
        compute_dtype=compute_dtype,
        device=device,
        assume_same_base=assume_same_base,
        modules_to_save_from=modules_to_save_from,
    )
    checked = inputs.base if base is None else base
    plan = plan_merge(adapters, method, options=options, settings=settings, given=inputs.given, base=checked)
    return merge_in_memory(plan, inputs, progress=progress, workers=workers)


def merge_lora_adapters(
    model: "PreTrainedModel",
    adapters: Sequence[Adapter],
    harm: "Sequence[Batch]",
    benign: "Sequence[Batch]",
    *,
    seed: int = 0,
    rank: int | None = None,
    **options: Any,
) -> MergeResult:
    """SST-Merge, the whole flow: Fishers, GEVP, filter, coefficients, merged adapter.

    Args:
        model: the base model the adapters were trained on.
        adapters: at least one of role ``utility``, and one of role ``safety`` unless ``aligned_base=True``.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        seed: of every random choice.
        rank: rank of the output; exact by default.
        options: fields of :class:`~sst_merge.sst.SSTOptions`, and the other keywords of :func:`merge`, such as
            ``adapter_benign`` for ``utility="fisher"``, or ``progress``.

    Returns:
        The merged adapter and its report.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, merge_lora_adapters
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).eval()
        >>> def adapter(name, role):
        ...     factors = LoraFactors(torch.randn(8, 2), torch.randn(2, 8))
        ...     return Adapter.from_factors({"model.layers.0.mlp.up_proj": factors}, name=name, role=role)
        >>> code, safety = adapter("code", "utility"), adapter("safety", "safety")
        >>> def batch():
        ...     ids = torch.randint(16, (8, 5))
        ...     return Batch(ids, torch.ones_like(ids), ids.where(torch.arange(5) > 2, -100))
        >>> result = merge_lora_adapters(model, [code, safety], [batch()], [batch()], mu=1.0)
        >>> result.report.method, result.adapter.modules
        ('sst', ('model.layers.0.mlp.up_proj',))
    """
    return merge(adapters, "sst", model=model, harm=harm, benign=benign, seed=seed, rank=rank, **options)
