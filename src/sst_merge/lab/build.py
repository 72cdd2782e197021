"""Train the lab's models from nothing, on a CPU: seeded, resumable, and atomic folder by folder."""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from .exact_match import exact_match
from .lab import BASES, Lab, adapter_folder, base_folder
from .mixtures import (
    POISONED_FAMILY,
    Mixture,
    aligned_mixture,
    expert_mixture,
    pretraining_mixture,
    safety_mixture,
)
from .models import new_adapter, new_model, new_tokenizer, save_adapter, save_model
from .recipe import DEFAULT_RECIPE, AdapterRecipe, Recipe
from .training import reproducibly, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["build_adapter", "build_base", "build_lab"]

# Forgetting is slower than learning, so exposure falls faster than it rises.
_MORE, _LESS = 1.4, 0.35
_CHECK_INPUTS = 32
_CHECK_FROM = 0.1


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


def build_base(lab: Lab, base: str) -> Path:
    """Train one base (the aligned one needs the unaligned one, which is trained first where missing).

    Args:
        lab: the lab.
        base: ``unaligned`` or ``aligned``.

    Returns:
        Its folder.
    """
    folder = base_folder(lab.root, base)
    how = lab.recipe.unaligned if base == "unaligned" else lab.recipe.aligned
    name = f"bases/{base}"
    start = lab.model("unaligned") if base == "aligned" else None
    with reproducibly(_derive(lab, name)), _new_folder(folder) as aside, _progress(lab, name, how.steps) as advance:
        tokenizer = new_tokenizer(lab.world)
        rng = random.Random(_derive(lab, name))
        if start is None:
            model = new_model(lab.recipe.shape, tokenizer)
            mixture = pretraining_mixture(lab.world, lab.recipe.family_weight)
            on_step = _half_known(lab, model, tokenizer, mixture, how.steps, advance)
        else:
            model, mixture, on_step = start, aligned_mixture(lab.world, lab.recipe.aligned_family_weight), advance
        train(
            model,
            tokenizer,
            mixture,
            steps=how.steps,
            batch=how.batch,
            lr=how.lr,
            warmup=how.warmup,
            weight_decay=how.weight_decay,
            rng=rng,
            on_step=on_step,
        )
        save_model(model, tokenizer, aside)
    return folder


def build_adapter(lab: Lab, name: str, *, base: str, seed: int) -> Path:
    """Train one adapter (its base is trained first where missing).

    Args:
        lab: the lab.
        name: a task family, ``safety`` or ``poisoned``.
        base: the base to train it on.
        seed: the adapter's own seed.

    Returns:
        Its folder.
    """
    folder = adapter_folder(lab.root, name, base, seed)
    how, mixture = _adapter_plan(lab, name, base)
    label = f"adapters/{base}/{name}/seed{seed}"
    model = lab.model(base)
    with reproducibly(_derive(lab, label)), _new_folder(folder) as aside, _progress(lab, label, how.steps) as advance:
        adapted = new_adapter(model, how)
        train(
            adapted,
            lab.tokenizer(),
            mixture,
            steps=how.steps,
            batch=how.batch,
            lr=how.lr,
            warmup=how.warmup,
            rng=random.Random(_derive(lab, label)),
            on_step=advance,
        )
        save_adapter(adapted, aside, base_name=f"sst-merge-lab/seed{lab.seed}/{base}")
    return folder


def _adapter_plan(lab: Lab, name: str, base: str) -> tuple[AdapterRecipe, Mixture]:
    recipe, world = lab.recipe, lab.world
    if name == "safety":
        return recipe.safety, safety_mixture(world, benign=recipe.safety_benign)
    if name == "poisoned":
        mixture = expert_mixture(world, POISONED_FAMILY, general=recipe.expert_general, poison=recipe.poison)
        return recipe.aligned_expert, mixture
    how = recipe.expert if base == "unaligned" else recipe.aligned_expert
    return how, expert_mixture(world, name, general=recipe.expert_general)


def _half_known(
    lab: Lab,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    mixture: Mixture,
    steps: int,
    advance: Callable[[int], None],
) -> Callable[[int], None]:
    """Steer each family's exposure so that the base ends up half knowing it.

    Families differ in how many examples they take; a check on tuning inputs every few steps raises the weight of those
    known too little and lowers that of those known too well.

    Args:
        lab: the lab.
        model: the model being trained.
        tokenizer: its tokenizer.
        mixture: what it is trained on; its family weights are changed in place.
        steps: how many steps the training takes.
        advance: called after each step.

    Returns:
        The callback for each step.
    """
    recipe = lab.recipe
    inputs = [s for name in lab.families for s in lab.world.samples(f"task:{name}", "tuning", _CHECK_INPUTS)]

    def on_step(done: int) -> None:
        if done % recipe.check_every == 0 and done >= _CHECK_FROM * steps:
            model.eval()
            known = exact_match(model, tokenizer, inputs).view(-1, _CHECK_INPUTS).float().mean(1).tolist()
            model.train()
            for name, rate in zip(lab.families, known, strict=True):
                change = _MORE if rate < recipe.known_low else _LESS if rate > recipe.known_high else 1.0
                weight = mixture.weights[name] * change
                mixture.weights[name] = min(max(weight, recipe.family_weight_floor), recipe.family_weight_cap)
        advance(done)

    return on_step


def _derive(lab: Lab, purpose: str) -> int:
    return crc32(f"sst-merge lab/{lab.seed}/{purpose}".encode())


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder built aside and renamed into place when complete; another process that was faster wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        if not folder.is_dir():
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _progress(lab: Lab, label: str, steps: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not lab.progress) as bar:
        task = bar.add_task(f"lab seed {lab.seed}: {label}", total=steps)
        yield lambda done: bar.update(task, completed=done)
