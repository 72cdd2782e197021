"""The search itself: propose, merge, measure, tell, until enough is known."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..errors import ConfigError, SSTMergeError
from ..executors import Executors
from ..experiments.cells import Cell, CellStore
from ..experiments.provenance import code_digest, versions
from ..experiments.runner import finish_cells
from ..methods import MethodSweep
from ..progress import Progress
from .arena import Measured, Opener
from .config import SearchConfig
from .space import Space, forms_of, search_space
from .study import Study, Trial
from .work import PROBE, TRIAL, ProbeWork, TrialWork

__all__ = ["Found", "Ground", "asked_sweeps", "run_search", "space_of"]


@dataclass(frozen=True)
class Ground:
    """Where trials take place.

    Attributes:
        opener: of the arena, in any process.
        parameters: that it is given, plain values.
        depends: what else a trial's result depends on, plain values: digests of adapters, base and prompts.
        safety: whether a safety adapter is merged.
    """

    opener: Opener
    parameters: Mapping[str, Any]
    depends: Mapping[str, Any]
    safety: bool


@dataclass(frozen=True)
class Found:
    """A search, finished or stopped by time.

    Attributes:
        trials: all that were proposed, in order.
        space: what was searched.
        left_out: label of a form → why it cannot be made of what is given.
        limit: over-refusal that proposals kept to.
        measured: merges that were made and measured now; others were known.
        out_of_time: whether time ran out before all trials were made.
    """

    trials: tuple[Trial, ...]
    space: Space
    left_out: Mapping[str, str]
    limit: float
    measured: int
    out_of_time: bool


def asked_sweeps(config: SearchConfig, *, safety: bool) -> dict[str, MethodSweep]:
    """The forms that a configuration asks for.

    Args:
        config: of the search.
        safety: whether a safety adapter is merged.

    Returns:
        Label → sweep.

    Raises:
        ConfigError: an unknown method, or two forms of one label.
    """
    search = config.search
    alone = search.forms and not search.methods
    found = {} if alone else forms_of(search.methods, safety=safety)
    for form in search.forms:
        if form.label in found:
            raise ConfigError(f"search.forms: {form.label!r} is declared already; give your form another label")
        found[form.label] = form.checked
    return found


def space_of(config: SearchConfig, sweeps: Mapping[str, MethodSweep]) -> Space:
    """What may be tried.

    Args:
        config: of the search.
        sweeps: label → sweep.

    Returns:
        The space.

    Raises:
        ConfigError: options of a method that is not searched, or values that it refuses.
    """
    known = {*sweeps, *(sweep.method for sweep in sweeps.values())}
    for name in config.search.options:
        if name not in known:
            raise ConfigError(f"search.options: {name!r} is not searched; expected one of {', '.join(sorted(known))}")
    asked = {
        label: {**config.search.asked(sweep.method), **config.search.asked(label)} for label, sweep in sweeps.items()
    }
    own_rank = None if config.merge is None else config.merge.output.rank
    return search_space(sweeps, asked=asked, ranks=config.search.ranks or (own_rank,))


def run_search(
    config: SearchConfig,
    ground: Ground,
    *,
    workers: Executors,
    trials: int | None = None,
    seconds: float | None = None,
    store: CellStore | None = None,
    progress: Progress | None = None,
) -> Found:
    """Search; a study in the same folder is continued.

    Args:
        config: of the search.
        ground: where trials take place.
        workers: who makes and measures merges.
        trials: in all, in place of the configuration's.
        seconds: after which no further trial begins.
        store: of measured merges, for searches that share one; the folder's own by default.
        progress: called with (stage, done, total).

    Returns:
        What was found.

    Raises:
        ConfigError: nothing that was asked for can be made of what is given.
        SSTMergeError: every merge of the warm start failed.
    """
    began, most = time.monotonic(), trials or config.search.trials
    store = CellStore(config.out / "cells") if store is None else store
    sweeps = asked_sweeps(config, safety=ground.safety)
    left_out = _left_out(config, ground, space_of(config, sweeps), store, workers)
    named = bool(config.search.methods or config.search.forms)
    possible = {label: sweep for label, sweep in sweeps.items() if label not in left_out}
    if left_out and (named or not possible):
        label, why = next(iter(left_out.items()))
        raise ConfigError(f"search: {label!r} cannot be made of what is given: {why}")
    space = space_of(config, {label: possible[label] for label in possible})
    said = config.model_dump(mode="json", include={"world", "skills", "adapter_seed", "prompts", "calibration"})
    said |= {"search": config.search.model_dump(mode="json", exclude={"trials"}), "forms": list(possible)}
    said |= {**ground.parameters, "depends": dict(ground.depends)}
    study = Study(
        config.out,
        space,
        said,
        limit=config.choose.over_refusal,
        seed=config.search.seed,
        warm=space.warm(config.search.warm_start),
    )
    new, out_of_time = 0, False
    while batch := study.propose(most, config.search.at_once):
        warm = batch[0].number < study.warm
        # Between two pieces of the warm start time is looked at.
        timed = seconds is not None and warm
        size = max(1, config.search.at_once, len(workers.pools(len(batch)))) if timed else len(batch)
        for some in [batch[start : start + size] for start in range(0, len(batch), size)]:
            if seconds is not None and time.monotonic() - began > seconds:
                out_of_time = True
                break
            new += _measure(some, study, ground, store, workers, progress, most)
        if out_of_time:
            break
        _check(study)
    return Found(tuple(study.trials()), space, left_out, study.limit, new, out_of_time)


def trial_cell(ground: Ground, trial: Trial) -> Cell:
    """The cell of a trial; equal merges have the same one.

    Args:
        ground: where it takes place.
        trial: the merge.

    Returns:
        The cell.
    """
    depends = {
        "version": __version__,
        "torch": versions()["torch"],
        "code": code_digest(TrialWork.__module__, method=trial.point.method),
        **ground.depends,
    }
    parameters = {"arena": dict(ground.parameters), "point": trial.point.parameters}
    return Cell(TRIAL, f"trial {trial.number}, {trial.point.label}: {trial.point.settings}", parameters, depends)


def _left_out(
    config: SearchConfig, ground: Ground, space: Space, store: CellStore, workers: Executors
) -> dict[str, str]:
    """Forms that cannot be made of what is given, found without any work but opening it.

    Raises:
        ConfigError: a rank that no merge of these adapters has.
        SSTMergeError: it cannot be opened.
    """
    points = {label: form.point(form.sweep.middle, {}, None).parameters for label, form in space.forms.items()}
    some = next(iter(space.forms.values()))
    points |= {f"rank {r}": some.point(some.sweep.middle, {}, r).parameters for r in space.ranks if r is not None}
    parameters = {"arena": dict(ground.parameters), "points": points}
    cell = Cell(PROBE, "what can be merged", parameters, {"version": __version__, **ground.depends})
    ended = finish_cells([cell], store, work=ProbeWork(ground.opener), workers=workers)
    if ended.failures:
        raise SSTMergeError(next(iter(ended.failures.values())).partition(": ")[2])
    found: dict[str, str] = store.load(cell)["result"]["refused"]
    too_large = next((found[name] for name in found if name.startswith("rank ")), None)
    if too_large is not None and some.sweep.label not in found:
        raise ConfigError(f"search.ranks: {too_large}")
    return {label: why for label, why in found.items() if label in space.forms}


def _measure(
    batch: list[Trial],
    study: Study,
    ground: Ground,
    store: CellStore,
    workers: Executors,
    progress: Progress | None,
    most: int,
) -> int:
    cells = {trial.number: trial_cell(ground, trial) for trial in batch}
    done = batch[0].number

    def advance(_: str, finished: int, _total: int) -> None:
        if progress is not None:
            progress("trials", done + finished, most)

    ended = finish_cells(
        list(cells.values()), store, work=TrialWork(ground.opener), workers=workers, stage="trials", progress=advance
    )
    for trial in batch:
        cell = cells[trial.number]
        failure = ended.failures.get(cell.key)
        found = failure if failure is not None else Measured.from_dict(store.load(cell)["result"])
        study.tell(trial, found)
    return ended.started - len(ended.failures)


def _check(study: Study) -> None:
    """Stop where nothing works.

    Raises:
        SSTMergeError: all trials failed, and there were several.
    """
    trials = study.trials()
    failures = [trial.failure for trial in trials if trial.failure is not None]
    if len(failures) == len(trials) and len(failures) >= min(5, study.warm or 5):
        raise SSTMergeError(f"all {len(failures)} merges that were tried failed; first {failures[0]}")
