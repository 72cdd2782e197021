"""One experiment from configuration to report: adapters, cells, records, tables, pictures."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..executors import Executors
from ..files import atomic_file
from ..progress import Progress
from .cells import Cell, CellStore, canonical
from .comparison_report import comparison_report
from .config import ExperimentConfig
from .estimate import Estimate, Expectation
from .interference_report import interference_report
from .page import WHOLE_RUN, Ran, results_page
from .plan import Planned, Planner
from .report import Report, write_report
from .runner import Workers, run_cells
from .safety_tax_report import safety_tax_report
from .training import training_cells, training_stages

__all__ = ["EXPERIMENTS", "Experiments", "Outline"]

EXPERIMENTS = ("exp1", "exp2", "exp3")
_FOLDERS = {"exp1": "exp1_safety_tax", "exp2": "exp2_interference", "exp3": "exp3_comparison"}
_REPORTS: Mapping[str, Callable[[ExperimentConfig, Sequence[Planned], CellStore, Path], Report]] = {
    "exp1": safety_tax_report,
    "exp2": interference_report,
    "exp3": comparison_report,
}


@dataclass(frozen=True)
class Outline:
    """What a run would do.

    Attributes:
        kinds: kind of cell → estimate.
        seconds: wall clock with the configured workers; None where something is not known.
    """

    kinds: Mapping[str, Estimate]
    seconds: float | None


class Experiments:
    """The experiments of one configuration in one folder of results.

    Args:
        config: what is asked for.
        out: results; cells are shared by all experiments in it.
    """

    def __init__(self, config: ExperimentConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.store = CellStore(out / "cells")

    def planned(self, name: str) -> list[Planned]:
        """All cells of an experiment.

        Args:
            name: one of :data:`EXPERIMENTS`.

        Returns:
            The cells; digests of adapters that are still to be trained read ``missing``.

        Raises:
            ConfigError: there is no such experiment.
        """
        planner = Planner(self.config)
        plans = {"exp1": planner.safety_tax, "exp2": planner.interference, "exp3": planner.comparison}
        if name not in plans:
            raise ConfigError(f"no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
        return plans[name]()

    def outline(self, names: Sequence[str]) -> Outline:
        """What a run of some experiments would do, without doing anything.

        Args:
            names: of the experiments.

        Returns:
            Numbers of cells and an estimate of the time.
        """
        planned = [entry for name in names for entry in self.planned(name)]
        cells = [*self._untrained(planned), *(entry.cell for entry in planned)]
        kinds = Expectation(self.store, cells).outline()
        parts = [of.seconds for of in kinds.values()]
        known = [seconds for seconds in parts if seconds is not None]
        return Outline(kinds, sum(known) / self.config.workers if len(known) == len(parts) else None)

    def run(self, name: str, *, workers: Executors | None = None, progress: Progress | None = None) -> list[Path]:
        """Finish an experiment's cells and write its report.

        Args:
            name: of the experiment.
            workers: where cells are done, ready for the next experiment too; by default processes, as the configuration
                says.
            progress: called with (stage, done, total).

        Returns:
            What was written: records, summary, tables, pictures.
        """
        folder = self.out / _FOLDERS[name] if name in _FOLDERS else self.out
        with _logged(self.out), ExitStack() as own:
            processes: Executors = workers or own.enter_context(Workers(self.config.workers))
            started = time.perf_counter()
            self.train(name, workers=processes, progress=progress)
            planned = self.planned(name)
            # What takes longest goes first, so that none of it is left for one worker at the end.
            cells = [entry.cell for entry in planned]
            cells.sort(key=Expectation(self.store, cells).seconds, reverse=True)
            new = run_cells(cells, self.store, workers=processes, stage=name, progress=progress)
            written = self.report(name)
            took = round(time.perf_counter() - started, 1)
            _note(folder / "runs.jsonl", {"new cells": new, "cells": len(cells), "seconds": took})
        return written

    def report(self, name: str) -> list[Path]:
        """Write records, summary, tables and pictures from finished cells; the same cells give the same bytes.

        Args:
            name: of the experiment.

        Returns:
            What was written.
        """
        folder, planned = self.out / _FOLDERS[name], self.planned(name)
        records = _write_records(folder / "records.jsonl", planned, self.store)
        return [records, *write_report(_REPORTS[name](self.config, planned, self.store, folder), folder)]

    def page(self, names: Sequence[str], *, title: str = "Results", made_by: str = WHOLE_RUN) -> str:
        """The page of results: every table, and what they come from.

        Args:
            names: of the experiments; their cells are finished.
            title: its heading.
            made_by: what makes it, and from what.

        Returns:
            Markdown.
        """
        ran = []
        for name in names:
            planned, folder = self.planned(name), self.out / _FOLDERS[name]
            kept = [self.store.load(cell) for cell in {entry.cell.key: entry.cell for entry in planned}.values()]
            report = _REPORTS[name](self.config, planned, self.store, folder)
            ran.append(Ran(name, report, [k["run"] for k in kept], sum(k["seconds"] for k in kept), len(kept)))
        return results_page(self.config, ran, title=title, made_by=made_by)

    def train(self, name: str, *, workers: Executors | None = None, progress: Progress | None = None) -> None:
        """Train the bases and adapters that an experiment's unfinished cells still need; the world keeps them.

        Args:
            name: of the experiment.
            workers: as for :meth:`run`.
            progress: called with (stage, done, total).
        """
        with ExitStack() as own:
            processes: Executors = workers or own.enter_context(Workers(self.config.workers))
            # Adapters beside their bases where these are there.
            for stage in training_stages(self._untrained(self.planned(name))):
                run_cells(stage, self.store, workers=processes, stage="training", progress=progress, again=True)

    def _untrained(self, planned: Sequence[Planned]) -> list[Cell]:
        unfinished = [entry.cell for entry in planned if not self.store.has(entry.cell)]
        return training_cells([cell.parameters for cell in unfinished])


def _write_records(path: Path, planned: Sequence[Planned], store: CellStore) -> Path:
    """One line a cell: what was measured, without when and how fast."""
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8") as stream:
        for entry in planned:
            cell: Cell = entry.cell
            line: dict[str, Any] = {
                "part": entry.part,
                "group": entry.group,
                "method": entry.label,
                "seed": entry.seed,
                "key": cell.key,
                "kind": cell.kind,
                "parameters": cell.parameters,
                "result": store.load(cell)["result"],
            }
            stream.write(canonical(line) + "\n")
    return path


def _note(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


@contextmanager
def _logged(out: Path) -> Iterator[None]:
    """A line a cell in ``log.txt``."""
    out.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("sst_merge.experiments")
    handler = logging.FileHandler(out / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, forwards = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = forwards
        handler.close()
