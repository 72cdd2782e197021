"""``sst-merge evaluate``: a base, adapters and suites in; records, summary, tables and plots out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .console import print_table, progress_bars, warn

if TYPE_CHECKING:
    from ..evaluation import EvaluationRun
    from ..judges import Judge
    from ..suites.catalogue import Suite

__all__ = ["evaluate"]


def _list_suites(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from ..suites.catalogue import SUITES

    rows = [[suite.name, suite.measure, suite.score, suite.summary] for suite in SUITES.values()]
    print_table("Suites", ["suite", "group", "score", "what it asks"], rows)
    context.exit()


@click.command(
    help="Evaluate a base model and adapters on it: safety, over-refusal, utility, drift. The base is part of every "
    "table. A run that was stopped goes on where it was when the same command is given again.",
    epilog="Example: sst-merge evaluate --base meta-llama/Llama-2-7b-chat-hf --adapter merged=out/merged "
    "--suite safety --suite mmlu --samples 200 --out out/evaluation",
)
@click.option("--base", metavar="FOLDER|ID|lab:NAME", help="base model: folder, hub id, or lab:unaligned, lab:aligned")
@click.option("--adapter", "adapters", multiple=True, metavar="[NAME=]FOLDER", help="PEFT folder (or lab:NAME), or a "
    "folder of them; repeatable")  # fmt: skip
@click.option("--adapters-dir", "folders", multiple=True, type=click.Path(path_type=Path), help="folder with many "
    "adapters, named by their paths below it; repeatable")  # fmt: skip
@click.option("--suite", "names", multiple=True, metavar="NAME|FILE.jsonl", help="suite, group (safety, "
    "over_refusal, utility, drift, all), or a file of own questions; repeatable, or separated by commas")  # fmt: skip
@click.option("--list-suites", is_flag=True, is_eager=True, expose_value=False, callback=_list_suites,
    help="show all suites and stop")  # fmt: skip
@click.option("--judge", "judges", multiple=True, metavar="NAME", help="who decides refusal, harm and incoherence; "
    "repeatable, by default rules, incoherence and offline; the first judge of a column counts")  # fmt: skip
@click.option("--judge-model", "judge_models", multiple=True, metavar="NAME=FOLDER|ID", help="another copy of a "
    "judge's model; repeatable")  # fmt: skip
@click.option("--judge-check", metavar="NAME", help="measure a judge against labelled answers and stop")
@click.option("--labels", type=click.Path(path_type=Path), help="labelled answers for --judge-check")
@click.option("--samples", type=click.IntRange(min=1), help="samples per suite, drawn by the seed; all by default")
@click.option("--attempts", type=click.IntRange(min=1), help="answers drawn to each question of humaneval_samples and "
    "lab_tasks_samples, at least the k of their pass@k; 10 by default")  # fmt: skip
@click.option("--reference", metavar="NAME", help="model that all others are compared with on the same samples (paired "
    "bootstrap, McNemar); the base by default")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="folder to write into")
@click.option("--cache", type=click.Path(path_type=Path), help="folder of answers to resume from; OUT/answers by "
    "default. Runs that share one share their answers")  # fmt: skip
@click.option("--allow-code-execution", "allow_code", is_flag=True, help="let suites run code that the models write "
    "(humaneval), in a sandbox")  # fmt: skip
@click.option("--backend", type=click.Choice(["hf", "vllm"]), default="hf", show_default=True)
@click.option("--batch-size", default="auto", show_default=True, metavar="N|auto", help="prompts a batch")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto",
    show_default=True, help="auto: as stored; float32 on a CPU")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="such as cpu, cuda:1")
@click.option("--device-map", metavar="auto", help="spread the model over all GPUs (hf)")
@click.option("--tensor-parallel", default=1, show_default=True, help="GPUs that a model is split over (vllm)")
@click.option("--apply-chat-template/--no-apply-chat-template", "chat_template", default=None,
    help="by default where the tokenizer has a template")  # fmt: skip
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="answers are no longer than this; by default as "
    "long as the suite allows")  # fmt: skip
@click.option("--driftcheck", metavar="FILE|ID", help="the original DRIFTCHECK prompts, for drift_safe and "
    "drift_unsafe in place of the stand-in; needs one of these suites")  # fmt: skip
@click.option("--exclude", "excluded", multiple=True, metavar="FILE|SET", help="leave out of every suite what a "
    "merge was calibrated on: a file of prompts, the merge's YAML, or a data set's name; repeatable")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="of drawn samples, few-shot examples and sampled answers")
@click.option("--allow-noop", is_flag=True, help="evaluate adapters whose update is exactly zero as well")
@click.option("--force", is_flag=True, help="replace a finished evaluation; answers that are there are used again")
def evaluate(
    base: str | None, adapters: Sequence[str], folders: Sequence[Path], names: Sequence[str], out: Path | None,
    judges: Sequence[str], judge_check: str | None, batch_size: str, device: str, seed: int, allow_code: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Check, evaluate, print.

    Args:
        base: the base model.
        adapters: values of ``--adapter``.
        folders: values of ``--adapters-dir``.
        names: values of ``--suite``.
        out: output folder.
        judges: values of ``--judge``.
        judge_check: a judge to measure instead.
        batch_size: a number or ``auto``.
        device: where the model goes.
        seed: of every random choice.
        allow_code: whether suites may run code.
        options: the remaining flags.

    Raises:
        ConfigError: a flag is missing or cannot be.
    """
    if judge_check is not None:
        _check_judge(judge_check, options["labels"], device)
        return
    for flag, value in (("--base", base), ("--suite", names), ("--out", out)):
        if not value:
            raise ConfigError(f"{flag}: missing; see sst-merge evaluate --help")
    assert base is not None and out is not None
    from ..evaluation import ModelSettings, evaluate_models, find_adapters
    from ..evaluation.calibration import read_calibration
    from ..suites.custom import custom_suite
    from ..suites.suite_groups import expand_suites
    from ..worlds.lab.names import LabNames, is_lab_name

    lab = LabNames.of(base) if is_lab_name(base) else None
    asked = [name.strip() for text in names for name in text.split(",") if name.strip()]
    files = [name for name in asked if name.endswith(".jsonl")]
    suites, left_out = expand_suites(
        [name for name in asked if name not in files], lab=lab is not None, allow_code=allow_code
    )
    suites += [custom_suite(Path(file)) for file in files]
    for name in left_out:
        warn(f"suite {name} runs code that the models write and is left out; --allow-code-execution lets it run")
    chosen = _judges(judges, options["judge_models"], suites, device)
    found = find_adapters([_adapter(text, lab) for text in adapters], folders)
    settings = ModelSettings(
        backend=options["backend"],
        dtype=options["dtype"],
        device=None if device == "auto" else _device(device),
        device_map=options["device_map"],
        batch_size=_batch_size(batch_size),
        tensor_parallel=options["tensor_parallel"],
        chat_template=options["chat_template"],
        seed=seed,
    )
    exclude = [read_calibration(where) for where in options["excluded"]]
    with progress_bars() as progress:
        run = evaluate_models(
            base if lab is None else str(lab.base_path),
            found,
            suites,
            out,
            judges=chosen,
            samples=options["samples"],
            max_new_tokens=options["max_new_tokens"],
            driftcheck=options["driftcheck"],
            exclude=exclude,
            attempts=options["attempts"],
            reference=options["reference"],
            settings=settings,
            allow_code=allow_code,
            allow_noop=options["allow_noop"],
            cache=options["cache"],
            lab_seed=0 if lab is None else lab.seed,
            force=options["force"],
            progress=progress,
        )
    _print(run, compared=options["reference"] is not None)
    click.echo(str(out))


def _adapter(text: str, lab: Any) -> tuple[str | None, Path]:
    """``[NAME=]FOLDER``; a folder whose own name has an equals sign is taken as it is.

    Raises:
        ConfigError: an adapter of the lab without a base of the lab.
    """
    from ..worlds.lab.names import is_lab_name

    name, sign, place = text.partition("=")
    if not sign or Path(text).exists():
        name, place = "", text
    if not is_lab_name(place):
        return name or None, Path(place).expanduser()
    if lab is None:
        raise ConfigError(
            f"--adapter {text!r}: an adapter of the lab needs a base of the lab, as in --base lab:unaligned"
        )
    label, path = lab.adapter(place)
    return name or label, path


def _judges(names: Sequence[str], models: Sequence[str], suites: "Sequence[Suite]", device: str) -> "list[Judge]":
    if not any(suite.judged for suite in suites):
        return []
    from ..judges import DEFAULT_JUDGES, make_judges

    places = {}
    for text in models:
        name, sign, place = text.partition("=")
        if not sign:
            raise ConfigError(f"--judge-model {text!r}: expected NAME=FOLDER or NAME=ID")
        places[name] = place
    asked = [name.strip() for text in names for name in text.split(",") if name.strip()]
    return make_judges(asked or DEFAULT_JUDGES, device=_device(device), models=places)


def _check_judge(name: str, labels: Path | None, device: str) -> None:
    from ..judges import run_judge_check
    from ..reporting import rate_with_interval

    check = run_judge_check(name, labels, device="cpu" if device == "auto" else _device(device))
    figures = {
        "accuracy": check.accuracy,
        "balanced accuracy": check.balanced_accuracy,
        "Cohen's κ": check.kappa,
    }
    rows = [
        [title, rate_with_interval(found.value, (found.low, found.high), digits=3)] for title, found in figures.items()
    ]
    rows += [["found among yes", f"{check.recall:.3f}"], ["left alone among no", f"{check.specificity:.3f}"]]
    click.echo(
        f"{check.judge} on {check.source}: {check.column}, n = {check.n} answers to {check.questions} questions, "
        f"{check.positives} labelled yes"
    )
    print_table("95 % intervals over questions", ["figure", "value"], rows)


def _device(name: str) -> str:
    from ..data_loader.base_model import resolve_device

    return resolve_device(name)


def _batch_size(text: str) -> Any:
    if text != "auto" and not text.isdecimal():
        raise ConfigError(f"--batch-size {text!r}: expected a number or auto")
    return text if text == "auto" else int(text)


def _print(run: "EvaluationRun", *, compared: bool) -> None:
    """Suites down, models across: there are more suites than models as a rule.

    Comparisons are many and stand in the report; they are printed too where a reference was asked for.
    """
    from ..reporting import rate_with_interval
    from ..reporting.evaluation_tables import comparison_table, main_scores
    from ..reporting.tables import cell_text

    summary = run.summary
    rows = []
    for suite in summary.suites:
        for score in main_scores(summary, suite):
            rates = [summary.rate(model, suite, score) for model in summary.models]
            n = max((rate.n for rate in rates if rate is not None), default=0)
            cells = [rate_with_interval(rate.value, rate.ends) if rate else rate_with_interval(None) for rate in rates]
            rows.append([suite, score, str(n), *cells])
    print_table("Means with 95 % intervals", ["suite", "score", "n", *summary.models], rows)
    if compared and summary.reference is not None:
        shown = {(suite, score) for suite in summary.suites for score in main_scores(summary, suite)}
        kept = tuple(found for found in summary.comparisons if (found.suite, found.score) in shown)
        table = comparison_table(replace(summary, comparisons=kept))
        print_table(table.caption, table.columns, [[cell_text(cell) for cell in row] for row in table.rows])
    if summary.left_out:
        counts = ", ".join(f"{suite} {count}" for suite, count in summary.left_out.items())
        click.echo(f"rows left out because a merge was calibrated on them: {counts}")
    for warning in summary.warnings:
        warn(warning)
