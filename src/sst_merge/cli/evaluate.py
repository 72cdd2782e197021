"""``sst-merge evaluate``: a base, adapters and suites in; records, summary, tables and plots out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import processes
from ..errors import ConfigError
from ..evaluation.config import EvaluationConfig, NamedFolder
from .console import finish, near, print_table, progress_bars, say, shell, warn
from .flags import read_config, with_flags
from .sections import SectionedCommand
from .together import Faults
from .tracks import tracked, with_track
from .voice import words_without

if TYPE_CHECKING:
    from ..evaluation import EvaluationRun
    from ..judges import Judge
    from ..suites import Suite
    from ..worlds.lab.names import LabNames

__all__ = ["evaluate"]


def _list_suites() -> None:
    from ..suites import available_suites

    found = available_suites().values()
    rows = [[suite.name, suite.measure, suite.score, suite.summary] for suite in found]
    print_table("Suites", ["suite", "group", "score", "what it asks"], rows)
    records = [{"name": s.name, "group": s.measure, "score": s.score, "summary": s.summary} for s in found]
    finish(
        records, then="sst-merge evaluate --base BASE --adapter ADAPTER --suite safety --samples 100 --out results/new"
    )


@click.command(
    help="Evaluate a base model and adapters on it: safety, over-refusal, utility, drift. CONFIG is a YAML file; flags "
    "say the same, or win over it. The base is part of every table. The same command given again "
    "continues a run that was stopped.",
    epilog="Example: sst-merge evaluate --base meta-llama/Llama-2-7b-chat-hf --adapter merged=out/merged "
    "--suite safety --suite mmlu --samples 200 --out out/evaluation",
    cls=SectionedCommand,
    first=("base", "adapters", "adapter_folders", "suites", "list_suites", "samples", "out", "dry_run"),
    subjects={"judge": "Judges", "labels": "Judges"},
)
@with_flags(EvaluationConfig)
@with_track
@click.option("--labels", type=click.Path(path_type=Path), help="labelled answers for --judge-check")
@click.option("--judge-check", metavar="NAME", help="measure a judge against labelled answers and stop")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="processes, each with a copy of the base")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers have the models answer")
@click.option("--list-suites", is_flag=True, help="show all suites and stop")
@click.option(
    "--dry-run", is_flag=True, help="check everything, say what will be asked and how long it takes, and stop"
)
def evaluate(
    config: Path | None,
    judge_check: str | None,
    labels: Path | None,
    list_suites: bool,
    workers: int,
    scheduler: str | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Check, evaluate, print."""
    if list_suites:
        _list_suites()
        return
    if judge_check is not None:
        _check_judge(judge_check, labels, values["device"] or "cpu")
        return
    away = workers > 1 or scheduler is not None
    if away:
        _refuse_launcher("--workers" if scheduler is None else "--scheduler")
    checked = read_config(EvaluationConfig, config, values)
    from ..evaluation import evaluate_models, find_adapters
    from ..evaluation.calibration import CalibrationPrompts, read_calibration
    from ..judges.registry import check_judges
    from ..reporting import write_evaluation_report
    from ..suites import expand_suites
    from ..worlds.lab.names import LabNames, is_lab_name
    from .provenance import unused_revision

    for warning in unused_revision(checked.base, checked.base_revision):
        warn(warning)
    lab = LabNames.of(checked.base) if is_lab_name(checked.base) else None
    faults = Faults()
    suites: list[Suite] = []
    left_out: list[str] = []
    world = None if lab is None else "lab"
    with faults.collected():
        suites, left_out = expand_suites(checked.suites, world=world, allow_code=checked.allow_code)
    with faults.collected():
        check_judges([*checked.judges, *(model.name for model in checked.judge_models)])
    adapters: dict[str, Path] = {}
    with faults.collected():
        named = [_adapter(adapter, lab) for adapter in checked.adapters]
        adapters = find_adapters(named, checked.adapter_folders)
    exclude: list[CalibrationPrompts] = []
    for where in checked.exclude:
        with faults.collected():
            exclude.append(read_calibration(where))
    faults.tell()
    judges = _judges(checked, suites)
    base, world_seed = (checked.base, 0) if lab is None else (str(lab.base_path), lab.seed)
    for name in left_out:
        warn(f"suite {name} runs code that the models write and is left out; --allow-code-execution lets it run")
    asked: dict[str, Any] = {
        "judges": judges,
        "samples": checked.samples,
        "max_new_tokens": checked.max_new_tokens,
        "driftcheck": checked.driftcheck,
        "exclude": exclude,
        "attempts": checked.attempts,
        "reference": checked.reference,
        "settings": checked,
        "allow_code": checked.allow_code,
        "allow_noop": checked.allow_noop,
        "world_seed": world_seed,
        "force": checked.force,
    }
    if dry_run:
        from .evaluate_plan import say_plan

        finish(say_plan(base, adapters, suites, checked, asked), then=shell(*words_without("--dry-run")))
        return
    elsewhere = None
    if away:
        from .evaluate_elsewhere import asker

        prompts = tuple(prompt for source in exclude for prompt in source.prompts)
        elsewhere = asker(checked, base, world, world_seed, prompts, count=workers, scheduler=scheduler)
    with progress_bars() as progress, tracked(checked, checked.out):
        run = evaluate_models(
            base,
            adapters,
            suites,
            checked.out,
            **asked,
            cache=checked.cache,
            write_report=write_evaluation_report,
            progress=progress,
            ask_elsewhere=elsewhere,
        )
        _track(run)
    if elsewhere is not None and run.generated:
        warn(
            f"{run.generated} answers were given here again: on the other machines device, type or versions are not "
            "those of this one, which decide what a model answers"
        )
    _print(run, compared=checked.reference is not None)
    out = Path(near(checked.out))
    say(out)
    result = json.loads(run.summary.to_json()) | {"out": str(checked.out)}
    finish(result, then=f"open {shell(out / 'index.html')}; every answer is in {shell(out / 'records')}")


def _refuse_launcher(flag: str) -> None:
    """Each of a launcher's processes would start workers of its own.

    Raises:
        ConfigError: there is a launcher.
    """
    if processes.launched() > 1:
        raise ConfigError(
            f"{flag}: not together with a launcher, which started {processes.launched()} processes (WORLD_SIZE) that "
            f"share the work themselves; start the command without it, or leave {flag} out"
        )


def _adapter(adapter: NamedFolder, lab: "LabNames | None") -> tuple[str | None, Path]:
    """Name and folder of an adapter, fetched where it is on the hub; of one of the lab, its own name and place.

    Raises:
        AdapterError: neither a folder nor a repository with one adapter.
        ConfigError: an adapter of the lab without a base of the lab.
    """
    from ..data_loader.hub import cached_snapshot, short_name
    from ..lora_utils.places import adapter_place
    from ..worlds.lab.names import is_lab_name

    name, place = adapter.name, adapter.reference
    if not is_lab_name(str(place)):
        if isinstance(place, Path) and cached_snapshot(place) is None:
            return name, place
        found = adapter_place(place, looked_at=Path(adapter.path))
        for note in found.notes:
            warn(note)
        return name or short_name(place), found.folder
    if lab is None:
        raise ConfigError(
            f"--adapter {place}: an adapter of the lab needs a base of the lab, as in --base lab:unaligned"
        )
    label, path = lab.adapter(str(place))
    return name or label, path


def _judges(config: EvaluationConfig, suites: "list[Suite]") -> "list[Judge]":
    if not any(suite.judged for suite in suites):
        return []
    from ..data_loader.base_model import resolve_device
    from ..judges import DEFAULT_JUDGES, make_judges

    places = {model.name: model.path for model in config.judge_models}
    return make_judges(config.judges or DEFAULT_JUDGES, device=resolve_device(config.device), models=places)


def _check_judge(name: str, labels: Path | None, device: str) -> None:
    from ..data_loader.base_model import resolve_device
    from ..judges import run_judge_check
    from ..reporting import rate_with_interval

    check = run_judge_check(name, labels, device=resolve_device(device))
    figures = {
        "accuracy": check.accuracy,
        "balanced accuracy": check.balanced_accuracy,
        "Cohen's κ": check.kappa,
    }
    rows = [
        [title, rate_with_interval(found.value, (found.low, found.high), digits=3)] for title, found in figures.items()
    ]
    rows += [["found among yes", f"{check.recall:.3f}"], ["left alone among no", f"{check.specificity:.3f}"]]
    say(
        f"{check.judge} on {check.source}: {check.column}, n = {check.n} answers to {check.questions} questions, "
        f"{check.positives} labelled yes"
    )
    print_table("95 % intervals over questions", ["figure", "value"], rows)
    intervals = {title: {"value": f.value, "low": f.low, "high": f.high} for title, f in figures.items()}
    result = {"judge": check.judge, "source": check.source, "column": check.column, "n": check.n} | intervals
    result |= {"recall": check.recall, "specificity": check.specificity}
    finish(result, then=f"sst-merge evaluate --judge {shell(name)} --base BASE --suite safety --out results/new")


def _track(run: "EvaluationRun") -> None:
    """Every mean of the run's overview, for whoever follows it."""
    from ..reporting.evaluation_tables import main_scores
    from ..tracking import record

    summary = run.summary
    scores = [(suite, score) for suite in summary.suites for score in main_scores(summary, suite)]
    for model in summary.models:
        found = {f"{suite}/{score}": summary.figure(model, suite, score) for suite, score in scores}
        record(f"evaluation/{model}", 0, {name: figure.value for name, figure in found.items() if figure is not None})


def _print(run: "EvaluationRun", *, compared: bool) -> None:
    """Suites down, models across: there are more suites than models as a rule.

    Comparisons are many and are in the report; they are printed too where a reference was asked for.
    """
    from ..fitted_tables import best_marked
    from ..reporting.evaluation_tables import comparison_table, figure_cell, main_scores, tax_table
    from ..reporting.tables import cell_text

    summary = run.summary
    rows = []
    for suite in summary.suites:
        for score in main_scores(summary, suite):
            figures = [summary.figure(model, suite, score) for model in summary.models]
            n = max((figure.n for figure in figures if figure is not None), default=0)
            values = [None if figure is None else figure.value for figure in figures]
            cells = best_marked([*map(figure_cell, figures)], values, higher=_higher_is_better(suite, score))
            rows.append([suite, score, str(n), *cells])
    where = str(run.out / "index.html")
    title = "Means with 95 % intervals; * the best of its row"
    print_table(title, ["suite", "score", "n", *summary.models], rows, intervals=where)
    tables = [tax_table(summary)] if summary.taxes else []
    if compared and summary.reference is not None:
        shown = {(suite, score) for suite in summary.suites for score in main_scores(summary, suite)}
        main = tuple(found for found in summary.comparisons if (found.suite, found.score) in shown)
        tables.append(comparison_table(replace(summary, comparisons=main)))
    for table in tables:
        texts = [[cell_text(cell) for cell in row] for row in table.rows]
        print_table(table.caption, table.columns, texts, intervals=where)
    if summary.left_out:
        counts = ", ".join(f"{suite} {count}" for suite, count in summary.left_out.items())
        say(f"rows left out because a merge was calibrated on them: {counts}")
    for warning in summary.warnings:
        warn(warning)


def _higher_is_better(suite: str, score: str) -> bool | None:
    """Which way a column is read; None where that is not known."""
    from ..suites import available_suites

    if score in {"harm", "incoherent"}:
        return False
    if score in {"correct", "helpful"}:
        return True
    found = available_suites().get(suite)
    return found.higher_is_better if found is not None and found.score == score else None
