"""Train the lab's models from nothing, on a CPU: seeded, resumable, and atomic folder by folder."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from ...errors import DataError
from ...files import atomic_folder
from ...progress import drawn_bars
from ...texts import did_you_mean
from ..world import UNALIGNED, Artefact
from .lab_files import LabFiles, place
from .mixtures import (
    POISONED_FAMILY,
    Mixture,
    aligned_mixture,
    expert_mixture,
    joint_mixture,
    pretraining_mixture,
    safety_mixture,
)
from .models import (
    load_model,
    load_tokenizer,
    new_adapter,
    new_model,
    new_tokenizer,
    save_adapter,
    save_model,
)
from .negation import move_into_band
from .partial_knowledge import Settling, known_families, settling_mixture, steer
from .recipe import AdapterRecipe
from .training import reproducibly, train

__all__ = ["made"]


def made(files: LabFiles, artefact: Artefact) -> Path:
    """Folder of a base or an adapter; trains it first where it is missing, and the base of an adapter before it.

    Args:
        files: of the lab.
        artefact: a base or an adapter.

    Returns:
        The folder.

    Raises:
        DataError: there is no such adapter.
    """
    names = files.adapter_names(artefact.base)
    if any(part not in names for part in artefact.parts):
        raise DataError(
            f"lab: no adapter {artefact.adapter!r} on the {artefact.base} base{did_you_mean(artefact.adapter, names)}; "
            f"it has {', '.join(names)}"
        )
    found = files.find(artefact)
    if found is not None:
        return found
    if artefact.adapter is None:
        _build_base(files, artefact.base)
    else:
        _build_adapter(files, artefact)
    return files.root / place(artefact)


def _build_base(lab: LabFiles, base: str) -> None:
    """Train one base, then settle it so that it half knows its tasks.

    The unaligned base is pretrained from nothing, the aligned one is fine-tuned from the unaligned one. Each stage is
    a folder of its own, so that a build can be resumed.
    """
    before, train_it, mixture = {
        "unaligned": ("pretrained", _pretrain, pretraining_mixture(lab.world, lab.recipe.family_weight)),
        "aligned": ("refusing", _align, aligned_mixture(lab.world, lab.recipe.family_weight)),
    }[base]
    source = lab.root / place(Artefact(before))
    if not source.is_dir():
        train_it(lab, source.name, mixture)
    _settle(lab, source, base, mixture)


def _pretrain(lab: LabFiles, stage: str, mixture: Mixture) -> None:
    with _stage(lab, f"bases/{stage}", "bases/unaligned", lab.recipe.unaligned.steps) as (aside, rng, advance):
        tokenizer = new_tokenizer(lab.world)
        model = new_model(lab.recipe.shape, tokenizer)
        on_step = steer(lab.world, lab.recipe, model, tokenizer, mixture, advance)
        train(model, tokenizer, mixture, lab.recipe.unaligned, rng=rng, on_step=on_step)
        save_model(model, tokenizer, aside)


def _align(lab: LabFiles, stage: str, mixture: Mixture) -> None:
    model = load_model(made(lab, Artefact(UNALIGNED)))
    with _stage(lab, f"bases/{stage}", "bases/aligned", lab.recipe.aligned.steps) as (aside, rng, advance):
        tokenizer, mixture = new_tokenizer(lab.world), settling_mixture(lab.world, mixture)
        # Whatever is trained, families that were half known come back: they are held down on the way, too.
        control = Settling(lab.world, lab.recipe, lab.recipe.aligned_settling, model, tokenizer, mixture, advance)

        def on_step(done: int) -> bool:
            control(done)
            return True

        train(model, tokenizer, mixture, lab.recipe.aligned, rng=rng, on_step=on_step)
        save_model(model, tokenizer, aside)


def _settle(lab: LabFiles, source: Path, base: str, mixture: Mixture) -> None:
    how = lab.recipe.settling if base == "unaligned" else lab.recipe.aligned_settling
    steps = how.rounds * how.steps
    moves = lab.recipe.moves * lab.recipe.expert.steps
    with _stage(lab, f"bases/{base}", f"settling {base}", steps + moves) as (aside, rng, advance):
        tokenizer, model = new_tokenizer(lab.world), load_model(source)
        mixture = settling_mixture(lab.world, mixture)
        begun, lr = 0, how.lr
        settling = Settling(lab.world, lab.recipe, how, model, tokenizer, mixture, lambda done: advance(begun + done))
        while begun < steps and not settling.inside:
            train(model, tokenizer, mixture, replace(how, lr=lr), rng=rng, on_step=settling)
            settling.restore()
            begun, lr = begun + how.steps, lr * how.cooling
        move_into_band(lab.world, lab.recipe, model, tokenizer, rng, lambda done: advance(begun + done))
        advance(steps + moves)
        save_model(model, tokenizer, aside)


def _build_adapter(lab: LabFiles, artefact: Artefact) -> None:
    how, mixture = _adapter_plan(lab, artefact.parts, artefact.base)
    model = load_model(made(lab, Artefact(artefact.base)))
    label = place(artefact).as_posix()
    with _stage(lab, label, label, how.steps) as (aside, rng, advance):
        adapted = new_adapter(model, how)
        tokenizer = load_tokenizer(made(lab, Artefact(UNALIGNED)))
        for _ in range(how.rounds):
            train(adapted, tokenizer, mixture, how, rng=rng, on_step=advance)
            known = known_families(lab.world, adapted, tokenizer, [n for n in artefact.parts if n in lab.families])
            if all(rate >= lab.recipe.expert_rate for rate in known.values()):
                break
        save_adapter(adapted, aside, base_name=f"sst-merge-lab/seed{lab.seed}/{artefact.base}")


def _adapter_plan(lab: LabFiles, parts: Sequence[str], base: str) -> tuple[AdapterRecipe, Mixture]:
    """Of several adapters the steps of all together, on the data of all."""
    plans = [_plan(lab, name, base) for name in parts]
    how = replace(plans[0][0], steps=sum(how.steps for how, _ in plans))
    return how, plans[0][1] if len(plans) == 1 else joint_mixture([mixture for _, mixture in plans])


def _plan(lab: LabFiles, name: str, base: str) -> tuple[AdapterRecipe, Mixture]:
    recipe, world = lab.recipe, lab.world
    if name == "safety":
        return recipe.safety, safety_mixture(world, benign=recipe.safety_benign)
    if name == "poisoned":
        mixture = expert_mixture(world, POISONED_FAMILY, general=recipe.expert_general, poison=recipe.poison)
        return recipe.aligned_expert, mixture
    if base == "aligned":
        return recipe.aligned_expert, expert_mixture(world, name, general=recipe.expert_general, poison=recipe.leak)
    return recipe.expert, expert_mixture(world, name, general=recipe.expert_general)


@contextmanager
def _stage(
    lab: LabFiles, name: str, purpose: str, steps: int
) -> Iterator[tuple[Path, random.Random, Callable[[int], bool]]]:
    """One artefact in the making: the folder to fill, a generator (torch's is seeded by the purpose too), a bar.

    Where another process was faster, its folder stays.
    """
    seed = crc32(f"sst-merge lab/{lab.seed}/{purpose}".encode())
    folder = atomic_folder(lab.root / name, keep_existing=True)
    with reproducibly(seed), folder as aside, _progress(lab, name, steps) as advance:
        yield aside, random.Random(seed), advance


@contextmanager
def _progress(lab: LabFiles, label: str, steps: int) -> Iterator[Callable[[int], bool]]:
    with drawn_bars(hidden=not lab.progress) as bar:
        task = bar.add_task(f"lab seed {lab.seed}: {label}", total=steps)

        def advance(done: int) -> bool:
            bar.update(task, completed=done)
            return True

        yield advance
