"""Model and data of a merge, in one record for every door."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..lora_utils import BaseModelIndex, BaseWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data_loader import Batch
    from ..methods import Refuses

__all__ = ["NO_INPUTS", "MergeInputs"]


@dataclass(frozen=True, kw_only=True)
class MergeInputs:
    """What a method may look at beside the adapters; methods without data need none of it.

    Attributes:
        model: base model in evaluation mode, or None.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        adapter_benign: benign batches of single adapters' own data, by adapter name.
        base_weights: weights of the unaligned base, for methods that compare it with an aligned one, or None.
        aligned_weights: weights of the aligned base, or None.
        notes: sentences about how the data were read, for the report.
        refuses: says which harmful prompts a model refuses, for ``safety_target``, or None.

    Example:
        >>> import torch
        >>> from sst_merge import Batch, MergeInputs
        >>> ids = torch.tensor([[5, 6, 7, 8]])
        >>> batch = Batch(ids, torch.ones_like(ids), labels=ids)
        >>> MergeInputs(harm=[batch], benign=[batch]).given
        ('harm', 'benign')
    """

    model: "PreTrainedModel | None" = None
    harm: "Sequence[Batch]" = ()
    benign: "Sequence[Batch]" = ()
    adapter_benign: "Mapping[str, Sequence[Batch]]" = field(default_factory=dict)
    base_weights: BaseWeights | None = None
    aligned_weights: BaseWeights | None = None
    notes: tuple[str, ...] = ()
    refuses: "Refuses | None" = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what is there, as :func:`~.plan.plan_merge` takes them."""
        present = {
            "model": self.model is not None,
            "harm": len(self.harm) > 0,
            "benign": len(self.benign) > 0,
            "base_weights": self.base_weights is not None,
            "aligned_weights": self.aligned_weights is not None,
        }
        return tuple(name for name, there in present.items() if there)

    @property
    def base(self) -> BaseModelIndex | None:
        """Layers of the model, to check adapters against; None without a model."""
        if self.model is None:
            return None
        return BaseModelIndex.of(self.model, name=self.model.name_or_path or "model")


NO_INPUTS = MergeInputs()
"""For methods that look at the adapters alone."""
