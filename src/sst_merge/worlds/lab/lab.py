"""The lab's front door: the bases and adapters of a seed, trained on demand where they are not there yet."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..world import ALIGNED, BASES, UNALIGNED, Artefact
from .build import made
from .lab_files import LabFiles, cache_root, shipped_root
from .models import load_model, load_tokenizer
from .recipe import DEFAULT_RECIPE, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Lab", "build_lab", "load_lab"]


class Lab(LabFiles):
    """The world of one seed, with its models and adapters."""

    def base_path(self, base: str) -> Path:
        """Folder of a base in Hugging Face format; trains it first where it is missing.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            The folder.
        """
        return made(self, Artefact(base))

    def adapter_path(self, name: str, *, base: str | None = None, seed: int = 0) -> Path:
        """Folder of an adapter in PEFT format; trains it first where it is missing.

        Args:
            name: a task family, ``safety`` or ``poisoned``.
            base: the base it was trained on; by default the only one it exists for, else ``unaligned``.
            seed: the adapter's own seed (data order, initialisation); the base stays the same.

        Returns:
            The folder.
        """
        return made(self, Artefact(base or (ALIGNED if name == "poisoned" else UNALIGNED), name, seed))

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The word-level tokenizer with its chat template.

        Returns:
            The tokenizer.
        """
        return load_tokenizer(self.base_path(UNALIGNED))

    def model(self, base: str = UNALIGNED) -> "PreTrainedModel":
        """A base model, float32, in evaluation mode.

        Args:
            base: ``unaligned`` or ``aligned``.

        Returns:
            The model.
        """
        return load_model(self.base_path(base))


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


def build_lab(
    seed: int, out: Path, *, recipe: Recipe = DEFAULT_RECIPE, adapter_seeds: int = 1, progress: bool = True
) -> Lab:
    """Train both bases and every adapter of a seed into a folder; what is there already is kept.

    Args:
        seed: the lab's seed.
        out: the folder.
        recipe: how to train.
        adapter_seeds: how many seeds of each adapter.
        progress: whether to show progress bars.

    Returns:
        The lab in that folder.
    """
    lab = Lab(seed, out, recipe, None, progress)
    for base in BASES:
        lab.base_path(base)
    for base in BASES:
        for name in lab.adapter_names(base):
            for k in range(adapter_seeds):
                lab.adapter_path(name, base=base, seed=k)
    return lab
