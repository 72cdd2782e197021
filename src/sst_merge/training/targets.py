"""Which layers a recipe adapts, seen from the base's configuration before any weight is read."""

import difflib
from pathlib import Path

from ..data_loader import PLAIN, BaseAccess
from ..errors import BaseModelError
from ..lora_utils import BaseModelIndex
from .recipe import ALL_LINEAR, TrainingRecipe

__all__ = ["check_targets"]


def check_targets(base: str | Path, recipe: TrainingRecipe, *, access: BaseAccess = PLAIN) -> BaseModelIndex:
    """Refuse a target that no layer of the base is called by.

    Args:
        base: folder or hub id.
        recipe: names the targets.
        access: what may be read of the base.

    Returns:
        The layers of the base.

    Raises:
        BaseModelError: no such layer, or no configuration of a base.
    """
    index = BaseModelIndex.load(base, task_type="CAUSAL_LM", access=access)
    if recipe.targets == ALL_LINEAR:
        return index
    endings = sorted({name.rpartition(".")[2] for name in index.modules})
    for target in recipe.targets:
        # PEFT's own rule: the whole name, or its last parts.
        if not any(name == target or name.endswith(f".{target}") for name in index.modules):
            close = difflib.get_close_matches(target, endings, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise BaseModelError(
                f"targets: {target!r} is no layer of {str(base)!r} that LoRA can adapt; {hint}there are "
                f"{', '.join(endings)}, or {ALL_LINEAR}"
            )
    return index
