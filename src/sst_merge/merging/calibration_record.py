"""Which calibration data a merge read: a digest, so that the same report means the same data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .inputs import MergeInputs

if TYPE_CHECKING:
    from ..data_loader import Batch

__all__ = ["CalibrationRecord", "calibration_records"]


@dataclass(frozen=True)
class CalibrationRecord:
    """One source of calibration data.

    Attributes:
        samples: how many.
        sha256: over the token ids and labels of every sample in order, without padding, so that it does not depend on
            the size of the batches.
    """

    samples: int
    sha256: str

    @classmethod
    def of(cls, batches: "Sequence[Batch]") -> "CalibrationRecord":
        """Digest the samples of some batches.

        Args:
            batches: at least one.

        Returns:
            Number and digest.
        """
        digest, samples = hashlib.sha256(), 0
        for batch in batches:
            for ids, labels, mask in zip(batch.input_ids, batch.labels, batch.attention_mask, strict=True):
                kept = mask.bool()
                row = hashlib.sha256(ids[kept].cpu().numpy().tobytes())
                row.update(labels[kept].cpu().numpy().tobytes())
                digest.update(row.digest())
                samples += 1
        return cls(samples, digest.hexdigest())


def calibration_records(inputs: MergeInputs) -> dict[str, CalibrationRecord]:
    """Records of all data that is there.

    Args:
        inputs: what the merge was given.

    Returns:
        ``harm``, ``benign``, ``benign of NAME`` → record.
    """
    sources = {"harm": inputs.harm, "benign": inputs.benign}
    sources |= {f"benign of {name}": batches for name, batches in inputs.adapter_benign.items()}
    return {name: CalibrationRecord.of(batches) for name, batches in sources.items() if len(batches)}
