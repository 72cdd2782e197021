"""Fishers that were collected before: read, and refused where they do not belong to this merge."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core_space import CoreSpace
from ..errors import FisherError
from ..files import file_sha256
from ..fim_calculator import Fisher, fingerprint

__all__ = ["SavedFisher", "common_share"]


@dataclass(frozen=True)
class SavedFisher:
    """A file of statistics.

    Attributes:
        path: of the file.
        fisher: what it holds.
    """

    path: Path
    fisher: Fisher

    @classmethod
    def read(cls, path: Path) -> "SavedFisher":
        """Read a file.

        Args:
            path: what ``sst-merge fisher collect`` wrote.

        Returns:
            The file and its statistics.
        """
        return cls(path, Fisher.load(path))

    @property
    def provenance(self) -> dict[str, Any]:
        """For a report: what was read, and how it had been collected."""
        return {
            "sha256": file_sha256(self.path),
            "samples": self.fisher.samples,
            "settings": dict(self.fisher.settings),
        }

    def checked(
        self, *, spaces: Mapping[str, CoreSpace], structure: str, origin: str, settings: Mapping[str, Any]
    ) -> Fisher:
        """The statistics, after a check that they are those that the merge would have collected itself.

        Args:
            spaces: core spaces of the merge.
            structure: of the merge's Fishers.
            origin: estimator and digest of the merge's point, as in :attr:`~sst_merge.fim_calculator.Fisher.origin`.
            settings: the merge's own; what the file does not know of them is not compared.

        Returns:
            The statistics.

        Raises:
            FisherError: something differs; the message names all that does.
        """
        found = self._other_spaces(spaces)
        if self.fisher.structure != structure:
            found.append(_difference("structure", self.fisher.structure, structure))
        estimator, _, point = origin.partition("@")
        own_estimator, _, own_point = self.fisher.origin.partition("@")
        if own_estimator != estimator:
            found.append(_difference("estimator", own_estimator, estimator))
        known = {**self.fisher.settings, "samples": self.fisher.samples}
        found += [_difference(k, known[k], v) for k, v in settings.items() if k in known and known[k] != v]
        if not found and own_point != point:
            found.append("the gradients were taken at another point than this merge's (other weights or another share)")
        if found:
            raise FisherError(
                f"{self.path}: these statistics do not belong to this merge: {'; '.join(found)}. Collect them again "
                "with this merge's configuration (`sst-merge fisher collect`), or merge with the settings of the file"
            )
        return self.fisher

    def _other_spaces(self, spaces: Mapping[str, CoreSpace]) -> list[str]:
        if self.fisher.fingerprint == fingerprint(spaces):
            return []
        layers = self.fisher.layers
        lacking = [module for module in spaces if module not in layers]
        if lacking:
            return [f"it has no statistics of module {lacking[0]} (of {len(lacking)} such modules)"]
        extra = [module for module in layers if module not in spaces]
        if extra:
            return [f"it has statistics of module {extra[0]} (of {len(extra)}), which no adapter here touches"]
        for module, space in spaces.items():
            if layers[module].shape != space.shape:
                return [f"module {module} has cores {layers[module].shape} in the file, {space.shape} here"]
        return [
            "the core spaces have other bases: the adapters are others, or in another order, or only one of both "
            "commands knew the base model's kinds of layers (base_model)"
        ]


def _difference(name: str, found: object, expected: object) -> str:
    return f"{name} is {found!r} in the file, {expected!r} in this merge"


def common_share(files: Mapping[str, SavedFisher]) -> float | None:
    """The share of the way at which statistics of point ``trust`` were taken.

    Args:
        files: kind → file.

    Returns:
        The share, or None where no file knows it.

    Raises:
        FisherError: the files have different ones.
    """
    known = {kind: file for kind, file in files.items() if "share" in file.fisher.settings}
    shares = {file.fisher.settings["share"] for file in known.values()}
    if len(shares) > 1:
        found = ", ".join(f"{file.path} at {file.fisher.settings['share']!r}" for file in known.values())
        raise FisherError(
            f"the saved Fishers were taken at different shares of the way to the safe model: {found}. Collect one "
            "again with `--set fisher.trust_share=` the other's share"
        )
    return shares.pop() if shares else None
