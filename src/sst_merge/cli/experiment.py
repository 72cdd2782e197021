"""``sst-merge experiment``: a thin wrapper around :mod:`sst_merge.experiments`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from ..texts import duration
from .console import finish, print_table, progress_bars, say, say_lines, shell
from .voice import words_without

if TYPE_CHECKING:
    from ..experiments.run import Experiments

__all__ = ["experiment", "run_experiment"]

_NAMES = ("exp1", "exp2", "exp3", "all", "page")
_CONFIG = Path("configs/experiment_config.yaml")


@click.command(
    help="Run an experiment in the configuration's world: exp1 (safety tax and drift), exp2 (many experts), exp3 "
    "(every method, ablation), or all; page prints all their tables from finished ones. Finished work is not repeated.",
)
@click.argument("name", type=click.Choice(_NAMES))
@click.option("--config", type=click.Path(path_type=Path), default=_CONFIG, show_default=True, help="YAML file")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="folder")
@click.option("--seeds", default=None, help="of the adapters, such as 0,1,2")
@click.option("--methods", default=None, help="all, or labels and names such as 'sst;ties', separated by semicolons")
@click.option("--num-experts", "--num_experts", type=int, default=None, help="exp2: only this number of experts")
@click.option("--workers", type=int, default=None, help="processes, one thread each")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers do the cells, in place of processes")
@click.option("--quick", is_flag=True, help="the small version: the configuration's section quick")
@click.option("--dry-run", is_flag=True, help="count cells and estimate the time; nothing is trained or measured")
def experiment(name: str, config: Path, out: Path, quick: bool, dry_run: bool, **flags: Any) -> None:
    """Run one experiment, or print the page.

    Args:
        name: of the experiment.
        config: YAML file.
        out: folder of results.
        quick: the small version.
        dry_run: only plan.
        flags: seeds, methods, num_experts and workers, which win over the file, and scheduler.
    """
    run_experiment(name, config, out, quick=quick, dry_run=dry_run, **flags)


def run_experiment(
    name: str,
    config: Path,
    out: Path,
    *,
    quick: bool = False,
    dry_run: bool = False,
    seeds: str | None = None,
    methods: str | None = None,
    num_experts: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> None:
    """What the command and the scripts below ``experiments/`` do.

    Args:
        name: ``exp1``, ``exp2``, ``exp3``, ``all`` or ``page``.
        config: YAML file.
        out: folder of results; a quick run has a folder ``quick`` in it.
        quick: the small version.
        dry_run: only plan.
        seeds: numbers, separated by commas.
        methods: ``all``, or labels and names, separated by semicolons.
        num_experts: the only number of experts of experiment 2.
        workers: processes.
        scheduler: address of a Dask scheduler, whose workers do the cells in place of processes.
    """
    out = out / "quick" if quick else out
    from ..experiments.config import load_experiment_config
    from ..experiments.run import EXPERIMENTS, Experiments

    overrides = _overrides(name, seeds, methods, num_experts, workers)
    experiments = Experiments(load_experiment_config(config, quick=quick, overrides=overrides), out)
    names = EXPERIMENTS if name in {"all", "page"} else (name,)
    if dry_run:
        _show_outline(experiments, names)
        return
    if name == "page":
        page = experiments.page(names).removesuffix("\n")
        say_lines(page)
        finish({"page": page}, then="sst-merge methods")
        return
    from ..executors import workers_of

    paths: list[str] = []
    with workers_of(experiments.config.workers, scheduler) as processes:
        for chosen in names:
            with progress_bars() as progress:
                written = experiments.run(chosen, workers=processes, progress=progress)
            for path in written:
                say(path)
                paths.append(str(path))
    small = ["--quick"] if quick else []
    place = out.parent if quick else out
    words = ["sst-merge", "experiment", "page", "--config", config, "--out", place, *small]
    finish({"written": paths}, then=shell(*words))


def _overrides(
    name: str, seeds: str | None, methods: str | None, num_experts: int | None, workers: int | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if seeds is not None:
        numbers = _numbers(seeds)
        found |= {"seeds": numbers, "interference.seeds": numbers, "comparison.ablation.seeds": numbers}
    if methods is not None:
        chosen = "all" if methods.strip() == "all" else [part.strip() for part in methods.split(";") if part.strip()]
        fields = {"exp1": "safety_tax.methods", "exp2": "interference.methods", "exp3": "comparison.methods"}
        found |= {field: chosen for of, field in fields.items() if name in {of, "all", "page"}}
    if num_experts is not None:
        found["interference.sizes"] = [num_experts]
    if workers is not None:
        found["workers"] = workers
    return found


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds: found {text!r}; expected numbers separated by commas, such as 0,1,2") from error


def _show_outline(experiments: "Experiments", names: Sequence[str]) -> None:
    outline = experiments.outline(names)
    rows = [
        [
            kind,
            str(of.cells),
            str(of.finished),
            "?" if of.seconds is None else f"{of.seconds / 60:.1f}",
            of.source,
        ]
        for kind, of in outline.kinds.items()
    ]
    workers = experiments.config.workers
    with_workers = f"with {workers} process{'' if workers == 1 else 'es'}"
    time = "no time known" if outline.seconds is None else f"about {duration(outline.seconds)}"
    title = f"{', '.join(names)}: {time} {with_workers}"
    print_table(title, ["kind", "cells", "finished", "minutes of processor time", "from"], rows)
    kinds = {
        kind: {"cells": of.cells, "finished": of.finished, "seconds": of.seconds, "from": of.source}
        for kind, of in outline.kinds.items()
    }
    result = {"kinds": kinds, "seconds": outline.seconds, "workers": workers}
    finish(result, then=shell(*words_without("--dry-run")))
