"""Which calibration data a merge read: a digest, so that the same report means the same data."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data_loader.batch import Batch

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


def calibration_records(
    harm: "Sequence[Batch]", benign: "Sequence[Batch]", adapter_benign: "Mapping[str, Sequence[Batch]]"
) -> dict[str, CalibrationRecord]:
    """Records of all that is there.

    Args:
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        adapter_benign: benign batches of single adapters' own data, by adapter name.

    Returns:
        ``harm``, ``benign``, ``benign of NAME`` → record.
    """
    sources = {"harm": harm, "benign": benign} | {f"benign of {name}": b for name, b in adapter_benign.items()}
    return {name: CalibrationRecord.of(batches) for name, batches in sources.items() if len(batches)}
