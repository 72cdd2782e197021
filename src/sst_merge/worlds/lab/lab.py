"""The lab's front door: where the bases and adapters of a seed lie, building on demand what is not there yet."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError
from .recipe import DEFAULT_RECIPE, Recipe
from .world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BASES", "Lab", "adapter_folder", "base_folder", "cache_root", "load_lab", "shipped_root"]

BASES = ("unaligned", "aligned")


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
class Lab:
    """The world of one seed, with its models and adapters.

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

    def base_path(self, base: str) -> Path:
        """Folder of a base in Hugging Face format; trains it first where it is missing.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            The folder.
        """
        _check_base(base)
        found = self._find(Path("bases", base))
        if found is None:
            from .build import build_base

            found = build_base(self, base)
        return found

    def adapter_path(self, name: str, *, base: str | None = None, seed: int = 0) -> Path:
        """Folder of an adapter in PEFT format; trains it first where it is missing.

        Args:
            name: a task family, ``safety`` or ``poisoned``.
            base: the base it was trained on; by default the only one it exists for, else ``unaligned``.
            seed: the adapter's own seed (data order, initialisation); the base stays the same.

        Returns:
            The folder.

        Raises:
            DataError: there is no such adapter.
        """
        base = base or ("aligned" if name == "poisoned" else "unaligned")
        if name not in self.adapter_names(base):
            raise DataError(
                f"lab: no adapter {name!r} on the {base} base; it has {', '.join(self.adapter_names(base))}"
            )
        found = self._find(Path("adapters", base, name, f"seed{seed}"))
        if found is None:
            from .build import build_adapter

            found = build_adapter(self, name, base=base, seed=seed)
        return found

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

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The word-level tokenizer with its chat template.

        Returns:
            The tokenizer.
        """
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.base_path("unaligned"))
        return tokenizer

    def model(self, base: str = "unaligned") -> "PreTrainedModel":
        """A base model, float32, in evaluation mode.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            The model.
        """
        from .models import load_model

        return load_model(self.base_path(base))

    def _find(self, relative: Path) -> Path | None:
        for root in (self.read_only, self.root):
            if root is not None and (root / relative).is_dir():
                return root / relative
        return None


def load_lab(seed: int = 0, *, recipe: Recipe = DEFAULT_RECIPE, progress: bool = True) -> Lab:
    """The lab of a seed: shipped artefacts where the package has them, cached or newly built ones where not.

    Nothing is trained by this call; a base or adapter that is missing is built when it is asked for.

    Args:
        seed: the lab's seed; seed 0 is shipped, and the repository (not the wheel) has the unaligned base of seed 1.
        recipe: how missing artefacts are trained; shipped ones are used for the default recipe only.
        progress: whether building shows a progress bar.

    Returns:
        The lab.
    """
    read_only = shipped_root(seed) if recipe == DEFAULT_RECIPE else None
    return Lab(seed, cache_root(seed, recipe), recipe, read_only, progress)


def _check_base(base: str) -> None:
    if base not in BASES:
        raise DataError(f"lab: base is {base!r}, expected one of {', '.join(BASES)}")
