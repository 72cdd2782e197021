"""Where the bases and adapters of a lab lie; nothing is trained here."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...errors import DataError
from ..world import ALIGNED, BASES, SAFETY, Artefact
from .recipe import DEFAULT_RECIPE, Recipe
from .world import World

__all__ = ["LabFiles", "cache_root", "place", "shipped_root"]


def shipped_root(seed: int) -> Path:
    """Where the package carries the artefacts of a seed, if it does.

    Args:
        seed: the lab's seed.

    Returns:
        The folder, which need not exist.
    """
    return Path(__file__).parent / "artefacts" / f"seed{seed}"


def cache_root(seed: int, recipe: Recipe = DEFAULT_RECIPE) -> Path:
    """Where artefacts built on demand are kept: below ``SST_MERGE_CACHE``, default ``~/.cache/sst-merge``.

    Args:
        seed: the lab's seed.
        recipe: the training recipe; another recipe gets another folder.

    Returns:
        The folder, which need not exist.
    """
    cache = os.environ.get("SST_MERGE_CACHE")
    home = Path(cache) if cache else Path.home() / ".cache" / "sst-merge"
    return home / "lab" / f"{recipe.digest()}-seed{seed}"


@dataclass(frozen=True)
class LabFiles:
    """The world of one seed, and where its models and adapters lie.

    Attributes:
        seed: the lab's seed.
        root: where missing artefacts are built and kept.
        recipe: how they are trained.
        read_only: a second folder to look into first (the artefacts that the package ships), or None.
        progress: whether building shows a progress bar.
    """

    seed: int
    root: Path
    recipe: Recipe = field(default=DEFAULT_RECIPE)
    read_only: Path | None = None
    progress: bool = True

    @cached_property
    def world(self) -> World:
        """The world: prompts, answers, splits. Pure Python."""
        return World(self.seed)

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the 20 task families."""
        return self.world.families

    def adapter_names(self, base: str) -> tuple[str, ...]:
        """Every adapter that exists for a base.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            The task families, then ``safety`` (unaligned base) or ``poisoned`` (aligned base).
        """
        _check_base(base)
        return (*self.families, "poisoned" if base == ALIGNED else SAFETY)

    def shipped(self, base: str) -> tuple[str, ...]:
        """Adapters of a base (their seed 0) that are there already, shipped or cached.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            Their names.
        """
        return tuple(name for name in self.adapter_names(base) if self.find(Artefact(base, name)) is not None)

    def find(self, artefact: Artefact) -> Path | None:
        """Folder of a base or an adapter that is there already.

        Args:
            artefact: of this lab.

        Returns:
            The folder, or None where it would have to be trained first.
        """
        _check_base(artefact.base)
        for root in (self.read_only, self.root):
            if root is not None and (root / place(artefact)).is_dir():
                return root / place(artefact)
        return None


def place(artefact: Artefact) -> Path:
    """Where a base or an adapter lies below a lab's root.

    Args:
        artefact: a base or an adapter.

    Returns:
        The folder, relative.
    """
    if artefact.adapter is None:
        return Path("bases", artefact.base)
    return Path("adapters", artefact.base, artefact.adapter, f"seed{artefact.seed}")


def _check_base(base: str) -> None:
    if base not in BASES:
        raise DataError(f"lab: base is {base!r}, expected one of {', '.join(BASES)}")
