"""``sst-merge search``: methods, strengths and ranks are tried on dev prompts; a front and the best merge come out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import finish, near, note, print_table, progress_bars, say, shell, warn
from .voice import words_without

if TYPE_CHECKING:
    from ..methods import MethodSweep
    from ..search.config import SearchConfig
    from ..search.results import Results
    from ..search.run import Found
    from ..search.study import Trial

__all__ = ["search"]

_SHOWN = 20


@click.command(
    help="Find method, strength and rank on dev prompts. CONFIG is a YAML file that says what is merged and which "
    "prompts decide. Everything is kept in the output folder: the same command goes on where it stopped.",
    epilog="Example: sst-merge search search.yaml --trials 60 --out results/search",
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="folder of the search")
@click.option("--trials", type=click.IntRange(1, 100_000), help="merges to try in all, those of earlier runs counted")
@click.option("--time", "minutes", type=click.FloatRange(min=0, min_open=True), help="stop after so many minutes")
@click.option("--safety", type=click.FloatRange(0, 1), help="the best merge refuses at least this share of harm")
@click.option("--over-refusal", type=click.FloatRange(0, 1), help="and at most this share of what is harmless")
@click.option("--workers", type=click.IntRange(1, 64), help="processes, one thread each")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers try the merges")
@click.option("--dry-run", is_flag=True, help="say what would be tried, and try nothing")
def search(
    config: Path, trials: int | None, minutes: float | None, scheduler: str | None, dry_run: bool, **flags: Any
) -> None:
    """Search, print, write.

    Args:
        config: YAML file.
        trials: merges in all, in place of the file's.
        minutes: after which nothing new begins.
        scheduler: address of a Dask scheduler.
        dry_run: only say what would be tried.
        flags: out, safety, over_refusal and workers, which win over the file.
    """
    from ..search.config import SearchConfig
    from ..yaml_config import load_yaml_config

    fields = {"out": "out", "safety": "choose.safety", "over_refusal": "choose.over_refusal", "workers": "workers"}
    given = {field: flags[flag] for flag, field in fields.items() if flags[flag] is not None}
    if "out" in given:
        given["out"] = given["out"].absolute()
    called = {field: f"--{flag.replace('_', '-')}" for flag, field in fields.items() if field in given}
    checked = load_yaml_config(SearchConfig, config, overrides=given, flags=called)
    most = trials or checked.search.trials
    if dry_run:
        _show_space(checked, most)
        return
    from ..executors import workers_of
    from ..search.run import run_search
    from .search_ground import ground_of, merge_of

    ground = ground_of(checked)
    with workers_of(checked.workers, scheduler) as workers, progress_bars() as progress:
        seconds = None if minutes is None else 60 * minutes
        found = run_search(checked, ground, workers=workers, trials=most, seconds=seconds, progress=progress)
    from ..search.results import write_results

    merge, whole = merge_of(checked, ground)
    title = f"Search over {', '.join(dict.fromkeys(form.sweep.method for form in found.space.forms.values()))}"
    results = write_results(checked.out, found.trials, checked.choose, merge, title)
    for label, why in found.left_out.items():
        note(f"left out {label}: {why}")
    if not whole:
        warn(
            "calibration prompts of this world cannot be written as text: commands of methods that read data lack them"
        )
    _print(checked, found, results)


def _print(config: "SearchConfig", found: "Found", results: "Results") -> None:
    from ..search.front import nearest
    from ..search.results import merge_command, rate_text

    rows = [_row(trial, results) for trial in results.front[:_SHOWN]]
    measured = sum(trial.measured is not None for trial in found.trials)
    failed = [trial for trial in found.trials if trial.failure is not None]
    title = f"Front of {measured} merges on dev prompts, over-refusal ≤ {config.choose.over_refusal:g}"
    print_table(title, ["trial", "method", "settings", "safety", "skill", "over-ref."], rows)
    if len(results.front) > _SHOWN:
        say(f"and {len(results.front) - _SHOWN} more in {near(results.paths[0])}")
    for trial in failed[:3]:
        warn(f"trial {trial.number} failed: {trial.failure}")
    if len(failed) > 3:
        warn(f"and {len(failed) - 3} more failed; {near(results.paths[0])} says why")
    if found.limit != config.choose.over_refusal:
        note(f"proposals keep to the over-refusal that this search began with, {found.limit:g}")
    if found.out_of_time:
        note("time ran out; the same command goes on")
    then = f"open {shell(near(results.paths[-1]))}"
    best = results.best
    if best is not None and best.measured is not None:
        say(
            f"best: trial {best.number}, {best.point.label}, {best.point.settings}: safety "
            f"{rate_text(best.measured.safety)}, skill {best.measured.skill:.2f}"
        )
        then = shell("sst-merge", "merge", near(config.out / "best.yaml"))
    elif (close := nearest(found.trials, config.choose)) is not None and close.measured is not None:
        warn(
            f"no merge refuses ≥ {config.choose.safety:g} of harmful and ≤ {config.choose.over_refusal:g} of harmless "
            f"prompts, so there is no best.yaml; nearest is trial {close.number}: safety "
            f"{close.measured.safety.rate:.2f}, over-refusal {rate_text(close.measured.over_refusal)}. Try more, or "
            "ask for less (--safety, --over-refusal)"
        )
        then = shell(*map(near, merge_command(config.out, close)))
    for path in results.paths:
        say(near(path))
    record = {
        "out": str(config.out),
        "measured": measured,
        "new": found.measured,
        "failed": len(failed),
        "best": None if best is None else best.number,
        "front": [trial.number for trial in results.front],
        "left_out": dict(found.left_out),
        "written": [str(path) for path in results.paths],
    }
    finish(record, then=then)


def _row(trial: "Trial", results: "Results") -> list[str]:
    found = trial.measured
    assert found is not None
    needless = "–" if found.over_refusal is None else f"{found.over_refusal.rate:.2f}"
    number = f"{trial.number}*" if trial == results.best else str(trial.number)
    rates = [f"{found.safety.rate:.2f}", f"{found.skill:.2f}", needless]
    return [number, trial.point.label, trial.point.settings, *rates]


def _show_space(config: "SearchConfig", most: int) -> None:
    """What would be tried; whether it can be made of what is given is seen when it is."""
    from ..search.run import asked_sweeps, space_of

    safety = config.merge is None or any(adapter.role == "safety" for adapter in config.merge.adapters)
    sweeps: dict[str, MethodSweep] = asked_sweeps(config, safety=safety)
    space = space_of(config, sweeps)
    rows = []
    for label, form in space.forms.items():
        rows.append([label, form.sweep.knob, str(form.knob)])
        rows += [["", name, str(of)] for name, of in form.free.items()]
    print_table("What is tried", ["form", "what moves", "between"], rows)
    ranks = ", ".join("exact" if rank is None else str(rank) for rank in space.ranks)
    warm = len(space.warm(config.search.warm_start))
    say(f"ranks: {ranks}; {min(warm, most)} declared strengths first, then {max(0, most - warm)} proposals")
    record = {
        "forms": {
            label: {"knob": form.sweep.knob, "range": str(form.knob)}
            | {"options": {name: str(of) for name, of in form.free.items()}}
            for label, form in space.forms.items()
        },
        "ranks": list(space.ranks),
        "warm_start": warm,
        "trials": most,
    }
    finish(record, then=shell(*words_without("--dry-run")))
