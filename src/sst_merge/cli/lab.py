"""``sst-merge lab``: thin wrappers around :mod:`sst_merge.worlds.lab`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..texts import counted
from .console import finish, print_table, say, shell
from .groups import CommandGroup

if TYPE_CHECKING:
    from ..worlds.world import Split

__all__ = ["lab"]

_BASE = click.Choice(["unaligned", "aligned"])
_EVALUATE = "sst-merge lab evaluate $(sst-merge lab path -q safety)"


@click.group(cls=CommandGroup, help="The small world with ground truth: build it, find its files, evaluate.")
def lab() -> None:
    """Group of commands."""


@lab.command(
    help="Train both bases and all adapters of a seed from nothing; what is there already is kept.",
    short_help="Train bases and adapters of a seed.",
)
@click.option("--seed", default=0, show_default=True, help="of the world and of all training")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="folder to fill")
@click.option("--adapter-seeds", default=1, show_default=True, help="seeds of every adapter")
def build(seed: int, out: Path, adapter_seeds: int) -> None:
    """Build the lab.

    Args:
        seed: of the lab.
        out: folder to fill.
        adapter_seeds: how many seeds of each adapter.
    """
    from ..worlds.lab import build_lab

    build_lab(seed, out, adapter_seeds=adapter_seeds)
    say(out)
    finish({"path": str(out)}, then=shell("sst-merge", "lab", "evaluate", "--seed", seed))


@lab.command(
    help="Print the folder of a base (unaligned, aligned) or of an adapter; trains it first where missing.",
    short_help="Print where a base or an adapter lies.",
)
@click.argument("name")
@click.option("--base", type=_BASE, default=None, help="base that the adapter was trained on")
@click.option("--seed", default=0, show_default=True, help="of the lab")
@click.option("--adapter-seed", default=0, show_default=True, help="of the adapter")
def path(name: str, base: str | None, seed: int, adapter_seed: int) -> None:
    """Print where an artefact lies.

    Args:
        name: a base, a task family, ``safety`` or ``poisoned``.
        base: which base's adapter.
        seed: of the lab.
        adapter_seed: of the adapter.
    """
    from ..worlds.lab import load_lab
    from ..worlds.world import BASES

    world = load_lab(seed)
    found = world.base_path(name) if name in BASES else world.adapter_path(name, base=base, seed=adapter_seed)
    say(found)
    finish({"path": str(found)}, then=f"sst-merge inspect {shell(found)}" if name not in BASES else _EVALUATE)


@lab.command(
    help="Measure a base, or a base with ADAPTERS (folders in PEFT format, simply added), on test prompts.",
    short_help="Measure a base, with or without adapters.",
)
@click.argument("adapters", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--base", type=_BASE, default="unaligned", show_default=True, help="base model")
@click.option("--family", "families", multiple=True, help="task family to measure; repeatable, all by default")
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", show_default=True, help="which prompts")
@click.option("--n", default=256, show_default=True, help="prompts per measure")
@click.option("--seed", default=0, show_default=True, help="of the lab")
def evaluate(adapters: Sequence[Path], base: str, families: Sequence[str], split: "Split", n: int, seed: int) -> None:
    """Measure.

    Args:
        adapters: folders, added with weight 1.
        base: base model.
        families: task families.
        split: which prompts.
        n: prompts per measure.
        seed: of the lab.
    """
    from ..lora_utils import Adapter, BaseModelIndex, check_against_base
    from ..worlds.asking import measure
    from ..worlds.lab import load_lab
    from ..worlds.lab.lab_world import LabWorld
    from ..worlds.updates import UpdatedModel, adapters_update

    world = load_lab(seed)
    model = world.model(base)
    added = [Adapter.load(folder) for folder in adapters]
    for adapter in added:
        check_against_base(adapter, BaseModelIndex.of(model, name="lab"))
    with UpdatedModel(model, sorted({module for adapter in added for module in adapter.modules})) as updated:
        updated.set(adapters_update(added))
        found = measure(LabWorld(world), model, families or world.families, split=split, n=n)
    scores = asdict(found)
    utility = scores.pop("utility")
    rates = scores | {f"task {family}": rate for family, rate in utility.items()}
    rows = [[name, f"{rate['k'] / rate['n']:.3f}", f"{rate['k']}/{rate['n']}"] for name, rate in rates.items()]
    title = f"{base} base with {counted(len(adapters), 'adapter')}, {split} prompts"
    print_table(title, ["measure", "rate", "count"], rows)
    finish(rates, then="sst-merge experiment exp1 --quick --dry-run")
