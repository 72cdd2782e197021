"""Where the bases and adapters of a lab lie; nothing is trained here."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...errors import DataError
from ..world import BASES
from .recipe import DEFAULT_RECIPE, Recipe
from .world import World

__all__ = ["LabFiles", "adapter_folder", "base_folder", "cache_root", "checked_name", "shipped_root"]


def base_folder(root: Path, base: str) -> Path:
    """Where a base lies below a lab's root.

    Args:
        root: the lab's root folder.
        base: ``unaligned`` or ``aligned``.

    Returns:
        The folder.
    """
    return root / "bases" / base


def adapter_folder(root: Path, name: str, base: str, seed: int) -> Path:
    """Where an adapter lies below a lab's root.

    Args:
        root: the lab's root folder.
        name: task family, ``safety`` or ``poisoned``.
        base: the base it was trained on.
        seed: the adapter's own seed.

    Returns:
        The folder.
    """
    return root / "adapters" / base / name / f"seed{seed}"


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
        return (*self.families, "safety" if base == "unaligned" else "poisoned")

    def shipped(self, base: str) -> tuple[str, ...]:
        """Adapters of a base (their seed 0) that are there already, shipped or cached.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            Their names.
        """
        return tuple(name for name in self.adapter_names(base) if self._find(Path("adapters", base, name, "seed0")))

    def find_base(self, base: str) -> Path | None:
        """Folder of a base that is there already.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            The folder, or None where it would have to be trained first.
        """
        _check_base(base)
        return self._find(Path("bases", base))

    def find_adapter(self, name: str, *, base: str, seed: int = 0) -> Path | None:
        """Folder of an adapter that is there already.

        Args:
            name: a task family, ``safety`` or ``poisoned``.
            base: the base it was trained on.
            seed: the adapter's own seed.

        Returns:
            The folder, or None where it would have to be trained first.
        """
        return self._find(Path("adapters", base, name, f"seed{seed}"))

    def _find(self, relative: Path) -> Path | None:
        for root in (self.read_only, self.root):
            if root is not None and (root / relative).is_dir():
                return root / relative
        return None


def checked_name(files: LabFiles, name: str, base: str) -> str:
    """An adapter's name, if there is such an adapter.

    Args:
        files: of the lab.
        name: a task family, ``safety`` or ``poisoned``.
        base: the base it was trained on.

    Returns:
        The name.

    Raises:
        DataError: there is no such adapter.
    """
    if name not in files.adapter_names(base):
        raise DataError(f"lab: no adapter {name!r} on the {base} base; it has {', '.join(files.adapter_names(base))}")
    return name


def _check_base(base: str) -> None:
    if base not in BASES:
        raise DataError(f"lab: base is {base!r}, expected one of {', '.join(BASES)}")
