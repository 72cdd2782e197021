"""Finished cells of experiments in one small file beside a study's page, and runs that go on from it."""

import argparse
import json
import lzma
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study import study_options, write_page

from sst_merge.experiments.cells import Cell, CellStore, canonical
from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.plan import Planned
from sst_merge.experiments.run import Experiments
from sst_merge.files import atomic_file
from sst_merge.methods import get_method

__all__ = ["figures_of", "finish", "keep_older", "pack", "packed_options", "packed_study", "unpack"]

_CELLS = "cells.jsonl.xz"


def packed_study(doc: str | None, script: Path, names: Sequence[str], title: str) -> None:
    """A whole study of the lab: run what is missing, pack, write the page.

    Args:
        doc: the script's docstring.
        script: ``measure.py``, beside the ``measured.yaml`` that says what is measured.
        names: of experiments.
        title: of the page.
    """
    options = packed_options(doc, script.with_name("measured.yaml")).parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    if not finish(experiments, names, options):
        return
    made_by = f"`studies/{script.parent.name}/measure.py` from its packed cells"
    page = experiments.page(names, title=title, made_by=made_by)
    write_page(options.out, page, figures_of(options.results, names))


def packed_options(doc: str | None, config: Path) -> argparse.ArgumentParser:
    """A parser with what every study of packed cells asks for.

    Args:
        doc: the script's docstring.
        config: of the experiments, where none is given.

    Returns:
        The parser.
    """
    parser = study_options(doc)
    parser.add_argument("--config", type=Path, default=config, help="of the experiments")
    parser.add_argument("--results", type=Path, required=True, help="working folder: cells, tables, pictures")
    parser.add_argument("--only-pack", action="store_true", help="pack what is finished, and write no page")
    parser.add_argument("--keep-older", action="store_true", help="use cells of other code where all else is equal")
    parser.add_argument("--only-page", action="store_true", help="train and measure nothing; every cell must be there")
    return parser


def finish(experiments: Experiments, names: Sequence[str], options: argparse.Namespace) -> bool:
    """Run what packed cells lack, and write the reports of some experiments.

    Args:
        experiments: of one configuration.
        names: of experiments.
        options: of :func:`packed_options`.

    Returns:
        Whether all of it is there; with ``--only-pack`` cells were packed and nothing else was done.
    """
    print(f"{unpack(options.out, experiments.store)} cells unpacked")
    if options.only_pack:
        print(f"{pack(options.out, experiments.store)} bytes packed")
        return False
    for name in names:
        if options.keep_older:
            print(f"{name}: cells of other commits: {dict(keep_older(experiments.store, experiments.planned(name)))}")
        if options.only_page:
            experiments.report(name)
            continue
        experiments.train(name)
        if options.keep_older:
            # An adapter that is there now is part of the names of its finished cells, too.
            keep_older(experiments.store, experiments.planned(name))
        experiments.run(name)
    if not options.only_page:
        print(f"{pack(options.out, experiments.store)} bytes packed")
    return True


def figures_of(results: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the reports of some experiments say, as plain values.

    Args:
        results: working folder of the experiments.
        names: of finished experiments.

    Returns:
        Experiment → figures.
    """
    found = {}
    for name in names:
        (summary,) = results.glob(f"{name}_*/summary.json")
        found[name] = json.loads(summary.read_text(encoding="utf-8"))["figures"]
    return found


def unpack(folder: Path, store: CellStore) -> int:
    """Put packed cells where experiments look for them.

    Args:
        folder: with ``cells.jsonl.xz``, or without.
        store: of the experiments.

    Returns:
        How many there were.
    """
    packed = folder / _CELLS
    if not packed.is_file():
        return 0
    lines = lzma.decompress(packed.read_bytes()).decode().splitlines()
    for line in lines:
        kept = json.loads(line)
        path = store.folder / kept["kind"] / f"{kept.pop('key')}.json"
        if not path.is_file():
            with atomic_file(path) as aside:
                aside.write_text(canonical(kept) + "\n", encoding="utf-8")
    return len(lines)


def pack(folder: Path, store: CellStore) -> int:
    """Write all finished cells into one small file; the same cells give the same bytes.

    Args:
        folder: for ``cells.jsonl.xz``.
        store: of the experiments.

    Returns:
        Bytes.
    """
    paths = sorted(path for path in store.folder.glob("*/*.json") if path.parent.name != "training")
    # A cell of older code that stands for a newer one is the same file under a second name.
    once = {path.read_bytes(): path for path in reversed(paths)}
    lines = [
        canonical({**json.loads(content), "key": path.stem})
        for content, path in sorted(once.items(), key=lambda of: of[1])
    ]
    small = lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9)
    with atomic_file(folder / _CELLS) as aside:
        aside.write_bytes(small)
    return len(small)


def keep_older(store: CellStore, planned: Sequence[Planned]) -> Counter[str]:
    """Let cells of other code stand where this code has none and everything else is equal.

    An adapter that is not on this machine matches any; an option that is new must stand at its default; of several
    cells the latest is taken.

    Args:
        store: of the experiments.
        planned: all cells that are wanted.

    Returns:
        Commit → cells that are taken over from it.
    """
    found: dict[str, list[tuple[str, Path, Mapping[str, Any]]]] = defaultdict(list)
    for path in store.folder.glob("*/*.json"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if "artefacts" in kept["depends"]:
            dated = (kept["run"]["finished"], path, kept)
            found[_but_code(kept["kind"], kept["parameters"], kept["depends"])].append(dated)
    taken: Counter[str] = Counter()
    for entry in planned:
        cell, path = entry.cell, store.path(entry.cell)
        if path.is_file():
            continue
        same = [of for of in found[_but_code(cell.kind, cell.parameters, cell.depends)] if _same_inputs(of[2], cell)]
        if same:
            _, older, kept = max(same, key=lambda of: of[0])
            with atomic_file(path) as aside:
                aside.write_bytes(older.read_bytes())
            taken[str(kept["run"]["commit"])] += 1
    return taken


def _but_code(kind: str, parameters: Mapping[str, Any], depends: Mapping[str, Any]) -> str:
    # All options of a merge, given or not, are compared by themselves; what is on request alone changes no result.
    swept = {
        name: value for name, value in parameters.get("swept", {}).items() if name not in {"options", "on_request"}
    }
    parameters = {**parameters, "swept": swept}
    rest = {name: value for name, value in depends.items() if name not in {"artefacts", "code", "options", "version"}}
    return canonical([kind, parameters, rest])


def _same_inputs(kept: Mapping[str, Any], cell: Cell) -> bool:
    """The same adapters, and the same options; one that was not there yet must stand at its default."""
    before, here = kept["depends"], cell.depends
    if not all(here["artefacts"].get(name) in {"missing", digest} for name, digest in before["artefacts"].items()):
        return False
    swept = cell.parameters.get("swept") or cell.parameters.get("staged")
    # The knob takes every value of the sweep, whatever it is by default.
    knob = (swept or {}).get("knob")
    old, new = ({k: v for k, v in of.get("options", {}).items() if k != knob} for of in (before, here))
    added = {name: value for name, value in new.items() if name not in old}
    defaults = get_method(swept["method"]).options().model_dump(mode="json") if added and swept else {}
    return old == {name: new.get(name) for name in old} and added == {name: defaults.get(name) for name in added}
