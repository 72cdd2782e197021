"""What a model is shown: padded token ids, and which of them are the response."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["IGNORED", "Batch", "joined"]

IGNORED = -100
"""Label of a token that carries no loss (prompt and padding)."""


@dataclass(frozen=True)
class Batch:
    """Padded sequences; which side is padded does not matter.

    Attributes:
        input_ids: (b, t), int64.
        attention_mask: (b, t), int64: 1 on tokens, 0 on padding.
        labels: (b, t), int64: the token itself on the response, -100 elsewhere. Not shifted.

    Raises:
        DataError: shapes or types differ, the batch is empty, or a padded position has a label.

    Example:
        >>> import torch
        >>> from sst_merge import Batch
        >>> ids = torch.tensor([[5, 6, 7, 8]])
        >>> labels = torch.tensor([[-100, -100, 7, 8]])  # 5 and 6 are the prompt
        >>> batch = Batch(ids, torch.ones_like(ids), labels)
        >>> len(batch), batch.tokens
        (1, 4)
    """

    input_ids: "Tensor"
    attention_mask: "Tensor"
    labels: "Tensor"

    def __post_init__(self) -> None:
        import torch

        for name in ("input_ids", "attention_mask", "labels"):
            tensor: Tensor = getattr(self, name)
            if tensor.ndim != 2 or tensor.shape != self.input_ids.shape or tensor.dtype != torch.int64:
                raise DataError(
                    f"batch: {name} has shape {tuple(tensor.shape)} and type {tensor.dtype}; input_ids, attention_mask "
                    f"and labels must all be int64 of one shape (b, t), here {tuple(self.input_ids.shape)}"
                )
        if self.input_ids.numel() == 0:
            raise DataError(f"batch: empty, shape {tuple(self.input_ids.shape)}")
        if bool(((self.labels != IGNORED) & (self.attention_mask == 0)).any()):
            raise DataError("batch: labels on padding; set them to -100 where attention_mask is 0")

    def __len__(self) -> int:
        """Number of samples."""
        return self.input_ids.shape[0]

    @property
    def tokens(self) -> int:
        """Number of tokens that are not padding."""
        return int(self.attention_mask.sum())

    def rows(self, which: "slice | Tensor") -> "Batch":
        """Some of the samples, as wide as before.

        Args:
            which: a slice, or a mask or positions of samples, (b,).
        """
        return Batch(self.input_ids[which], self.attention_mask[which], self.labels[which])

    @property
    def answers(self) -> int:
        """Number of response tokens that are predicted, which the first of a sample is not."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def width(self) -> int:
        """Tokens of a sample, padding included."""
        return self.input_ids.shape[1]

    def halves(self) -> "list[Batch]":
        """Both halves of the samples, without columns at the end that only the other half's samples reach."""
        middle = (len(self) + 1) // 2
        return [_ending_with_its_longest(self.rows(half)) for half in (slice(middle), slice(middle, None))]

    def to(self, device: "torch.device | str") -> "Batch":
        """The same batch on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def _ending_with_its_longest(batch: Batch) -> Batch:
    end = int(batch.attention_mask.any(0).nonzero()[-1]) + 1
    return Batch(batch.input_ids[:, :end], batch.attention_mask[:, :end], batch.labels[:, :end])


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches as one, in their order, each padded on the right to the width of the widest.

    Args:
        batches: at least one.

    Returns:
        All their samples; the batch itself where there is one.
    """
    if len(batches) == 1:
        return batches[0]
    import torch

    width = max(batch.input_ids.shape[1] for batch in batches)

    def all_of(name: str, padding: int) -> "Tensor":
        tensors: list[Tensor] = [getattr(batch, name) for batch in batches]
        wide = [torch.nn.functional.pad(of, (0, width - of.shape[1]), value=padding) for of in tensors]
        return torch.cat(wide)

    return Batch(all_of("input_ids", 0), all_of("attention_mask", 0), all_of("labels", IGNORED))
