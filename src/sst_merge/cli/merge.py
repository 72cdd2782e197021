"""``sst-merge merge``: a configuration in, a merged adapter with report, model card and page out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, OptionError, OutputExistsError, UnknownMethodError
from ..merging.config import MergeConfig
from ..texts import counted
from .console import finish, near, note, progress_bars, say, say_lines, shell, warn
from .estimates import memory_option, planned_memory, say_data_costs, tokens_a_sample
from .flags import with_flags
from .merge_flags import config_from_flags
from .sections import SectionedCommand
from .tracks import tracked, with_track
from .voice import words_without

if TYPE_CHECKING:
    import torch

    from ..data_loader import TokenizerChoice
    from ..lora_utils import Adapter, BaseModelIndex
    from ..merging import FileText, MergePlan

__all__ = ["MERGE_SUBJECTS", "merge", "with_config_flags"]

MERGE_SUBJECTS = {"settings": "Method", "merge__": "Method", "data__": "Calibration data", "output__": "Output"}
"""Headings of the help of commands that take a merge's configuration."""


def with_config_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the configuration file, ``--adapter``, ``--set`` and one flag per field."""
    function = with_flags(MergeConfig)(function)
    function = click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="OPTION=VALUE",
        help="an option of the method, such as fisher.structure=block; repeatable",
    )(function)
    return click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="PATH|KEY=VALUE,...",
        help="its folder, or name=..,path=..,role=..,weight=..,data=..; repeatable, replaces the file's list",
    )(function)


@click.command(
    help="Merge adapters into one. CONFIG is a YAML file; flags say the same, or win over it.",
    epilog="Example: sst-merge merge --base BASE --skill adapters/code=0.7 --skill adapters/maths --safety "
    "adapters/safety --calibration builtin -o out/merged",
    cls=SectionedCommand,
    first=("base_model", "skills", "safety", "output__path", "merge__method", "data__calibration", "dry_run"),
    subjects=MERGE_SUBJECTS,
)
@click.option(
    "--skill",
    "skills",
    multiple=True,
    metavar="ADAPTER[=WEIGHT]",
    help="an adapter of a skill; path=ADAPTER,data=FILE where it has prompts of its own; repeatable",
)
@click.option("--safety", multiple=True, metavar="ADAPTER[=WEIGHT]", help="an adapter that refuses harm; repeatable")
@with_config_flags
@with_track
@click.option("--dry-run", is_flag=True, help="check everything, print plan, memory and time, and write nothing")
@memory_option
def merge(
    config: Path | None,
    adapters: Sequence[str],
    skills: Sequence[str],
    safety: Sequence[str],
    settings: Sequence[str],
    dry_run: bool,
    memory: str | None,
    **values: Any,
) -> None:
    """Check, merge, write.

    Raises:
        OutputExistsError: the output is there and ``--force`` is not given.
    """
    planned_bytes = planned_memory(memory, dry_run=dry_run)
    checked = config_from_flags(config, values, adapters, settings, skills=skills, safety=safety)
    if checked.output.path.exists() and not checked.force:
        raise OutputExistsError(
            f"{checked.output.path} exists already; choose another --output, or replace it with --force"
        )
    from ..data_loader import resolve_device, torch_type
    from ..machine import free_memory
    from ..merging import merge_to_folder
    from ..merging.workers import require_module_memory, workers_and_why
    from .adapters import load_adapters
    from .calibration import own_tokenizer
    from .inputs import load_inputs
    from .provenance import builtin_note, unused_revision

    if checked.merge.method is None:
        note(_why_method(checked))

    opened = load_adapters(checked, headers_only=dry_run)
    tokenizer = own_tokenizer(checked, opened)
    device = resolve_device(checked.device)
    plan, base_index = _plan(
        checked,
        opened,
        device,
        "command line" if config is None else str(config),
        tokenizer,
        notes=(
            *tokenizer.warnings,
            *unused_revision(checked.base_model, checked.base_revision),
            *builtin_note(checked),
        ),
    )
    dtype = torch_type(checked.output.dtype) if checked.output.dtype else None
    workers, why = workers_and_why(plan, checked.workers, available=planned_bytes if dry_run else None)
    if why is not None:
        note(f"workers  {workers}, not {checked.workers}: {why}")
    with progress_bars() as progress:
        found = plan.read_values(progress=progress, threads=workers)
    if dry_run:
        say_lines(plan.describe(dtype=dtype, ranks=checked.output.ranks))
        for warning in found:
            say(f"warning  {warning}")
        rows = _rows_found(checked)
        for line in rows:
            say(line)
        costs = {}
        if plan.needs.data and base_index is not None:
            costs = say_data_costs(checked, plan, base_index, tokenizer, memory=planned_bytes)
        elif plan.settings.device == "cpu" and (there := planned_bytes or free_memory()) is not None:
            require_module_memory(plan, workers, there)
        say(f"nothing written; without --dry-run the result goes to {near(checked.output.path)}")
        finish(_record(plan, checked, found, rows, dtype) | costs, then=shell(*words_without("--dry-run")))
        return
    modules = [module.name for module in plan.modules]
    inputs = load_inputs(checked, plan.needs, device, modules=modules, tokenizer=tokenizer)
    with progress_bars(tokens_a_sample(inputs)) as progress, tracked(checked, checked.output.path):
        report = merge_to_folder(
            plan,
            checked.output.path,
            inputs,
            dtype=dtype,
            ranks=checked.output.ranks,
            force=checked.force,
            extra_files=_pages(),
            copies=tokenizer.files,
            progress=progress,
            values=found,
            workers=workers,
        )
    for warning in report.warnings:
        if warning not in inputs.notes:  # those were said when the data were read
            warn(warning)
    say(
        f"merged {counted(len(report.adapters), 'adapter')} by {report.method}: "
        f"{counted(len(report.modules), 'module')}, rank "
        f"{report.output['rank']}, {report.output['dtype']}"
    )
    given = None if checked.base_model is None else checked.access.label(checked.base_model)
    output, base = near(checked.output.path), near(given or report.base_model or "BASE")
    say(output)
    finish(
        {"output": str(checked.output.path), "base_model": report.base_model, "method": report.method}
        | {"options": report.to_dict()["options"], "modules": len(report.modules), "rank": report.output["rank"]}
        | {"dtype": report.output["dtype"], "warnings": list(report.warnings), "files": dict(report.output["files"])},
        then=shell(
            *("sst-merge", "evaluate", "--base", base, "--adapter", output),
            *("--suite", "safety", "--samples", 100, "--out", Path("results") / checked.output.path.name),
        ),
    )


def _why_method(config: MergeConfig) -> str:
    """Which method is taken where none is named, and why."""
    roles = {adapter.role for adapter in config.adapters}
    if config.method == "sst":
        return "method   sst: there are skills, safety and a base to measure them on (--method takes another)"
    if "safety" not in roles:
        why = "there is no safety adapter (--safety), so the skills are added up"
    elif "utility" not in roles:
        why = "there is no skill (--skill), so there is nothing that safety could cost"
    else:
        why = "there is no base (--base) to measure on, so safety is simply added; with one the method is sst"
    return f"method   {config.method}: {why} (--method takes another)"


def _record(
    plan: "MergePlan", config: MergeConfig, found: Sequence[str], rows: Sequence[str], dtype: "torch.dtype | None"
) -> dict[str, Any]:
    """The plan as plain values."""
    return {
        "dry_run": True,
        "output": str(config.output.path),
        "base_model": plan.base_model,
        "method": plan.method.name,
        "options": plan.options.model_dump(mode="json"),
        "adapters": [
            {"name": one.name, "role": one.role, "weight": one.weight, "modules": len(one.modules)}
            for one in plan.adapters
        ],
        "modules": len(plan.modules),
        "rank_at_most": plan.output_rank,
        "bytes_at_most": plan.output_bytes(dtype or plan.settings.compute_dtype, config.output.ranks),
        "memory_bytes": plan.peak_bytes,
        "seconds": plan.seconds,
        "whole_weights": list(plan.carried.tensors),
        "data": [row for row in rows if row.startswith("data")],
        "warnings": [*plan.warnings, *found, *(row.removeprefix("warning  ") for row in rows if row[:4] == "warn")],
    }


def _plan(
    config: MergeConfig,
    adapters: "list[Adapter]",
    device: str,
    source: str,
    tokenizer: "TokenizerChoice",
    *,
    notes: Sequence[str],
) -> "tuple[MergePlan, BaseModelIndex | None]":
    from ..data_loader import algebra_device, check_weights, require_plain, torch_type
    from ..merging import MergeSettings, plan_merge
    from .adapters import load_base_index
    from .inputs import needs_of
    from .provenance import provenance, quantised_note

    present = {
        "model": config.base_model,
        "harm": config.data.harm,
        "benign": config.data.benign,
        "base_weights": config.base_model,
        "aligned_weights": config.aligned_base_model,
    }
    settings = MergeSettings(
        seed=config.seed,
        rank=config.output.rank,
        energy=config.output.energy,
        compute_dtype=torch_type(config.compute_dtype),
        device=str(algebra_device(device)),
        assume_same_base=config.assume_same_base,
        modules_to_save_from=config.modules_to_save_from,
    )
    try:
        needs = needs_of(config)
        base, unchecked = load_base_index(config, adapters, needed=needs.data or needs.base)
        quantised = None
        if config.base_model is not None and (needs.data or needs.base):
            quantised = check_weights(config.base_model, config.access)
        elif config.quantization is not None:
            notes = [*notes, f"quantization is not used: method {config.method!r} runs no base"]
        if needs.aligned_base and base is not None and config.base_model and config.aligned_base_model:
            why = f"method {config.method!r} compares the weights of two bases"
            require_plain(config.base_model, replace(config.access, quantization=None), why)
        plan = plan_merge(
            adapters,
            config.method,
            options=config.merge.options,
            settings=settings,
            given=tuple(name for name, value in present.items() if value is not None),
            base=base,
            base_model=None if config.base_model is None else config.access.label(config.base_model),
            unchecked=unchecked,
            provenance=provenance(config, base, tokenizer, quantised),
            notes=[*notes, *quantised_note(quantised, adapters)],
        )
        return plan, base
    except UnknownMethodError as error:
        raise ConfigError(f"{source}: merge.method: {error}") from error
    except OptionError as error:
        raise ConfigError(f"{source}: merge: {error}") from error


def _pages() -> "dict[str, FileText]":
    from ..reporting import merge_page, model_card

    return {"README.md": model_card, "merge_report.html": merge_page}


def _rows_found(config: MergeConfig) -> list[str]:
    """Rows of the data that lie on this machine; a hub data set is asked for and not fetched for a dry run."""
    from ..data_loader import read_rows
    from .provenance import commit_of_set

    sources = {"data.harm": config.data.harm, "data.benign": config.data.benign}
    sources |= {f"data of {item.label}": item.data for item in config.adapters}
    lines = []
    for name, source in sources.items():
        if source is not None and source.path is not None:
            found = read_rows(source, seed=config.seed)
            lines.append(f"data     {name}: {counted(len(found.rows), 'row')}")
            lines += [f"warning  {note}" for note in found.notes]
        elif source is not None:
            commit = commit_of_set(source)
            at = "" if commit is None else f" at commit {commit}"
            lines.append(f"data     {name}: {source.name}{at}, not fetched in a dry run")
    return lines
