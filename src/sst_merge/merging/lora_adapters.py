"""``merge_lora_adapters``: SST-Merge in one call."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..lora_utils import Adapter
from .api import merge
from .result import MergeResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data_loader.batch import Batch

__all__ = ["merge_lora_adapters"]


def merge_lora_adapters(
    model: "PreTrainedModel",
    adapters: Sequence[Adapter],
    harm: "Sequence[Batch]",
    benign: "Sequence[Batch]",
    *,
    adapter_benign: "Mapping[str, Sequence[Batch]]" = MappingProxyType({}),
    seed: int = 0,
    rank: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> MergeResult:
    """SST-Merge, the whole flow: Fishers, GEVP, filter, coefficients, merged adapter.

    Args:
        model: the base model the adapters were trained on.
        adapters: at least one of role ``utility``, and one of role ``safety`` unless ``aligned_base=True``.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        adapter_benign: benign data of single adapters, for ``utility="fisher"``.
        seed: of every random choice.
        rank: rank of the output; exact by default.
        progress: called with (stage, done, total).
        options: fields of :class:`~sst_merge.sst.SSTOptions`.

    Returns:
        The merged adapter and its report.
    """
    return merge(
        adapters,
        "sst",
        model=model,
        harm=harm,
        benign=benign,
        adapter_benign=adapter_benign,
        seed=seed,
        rank=rank,
        progress=progress,
        **options,
    )
