"""``sst-merge merge``: a configuration in, a merged adapter with report, model card and page out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, OptionError, OutputExistsError, UnknownMethodError
from ..merging.config import MergeConfig
from .console import progress_bars, say, say_lines, warn
from .flags import config_from_flags, with_flags

if TYPE_CHECKING:
    from ..lora_utils import Adapter
    from ..merging import FileText, MergePlan

__all__ = ["merge", "with_config_flags"]


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
        help="an adapter: its folder, or name=..,path=..,role=..,weight=..; repeatable, replaces the file's list",
    )(function)


@click.command(
    help="Merge adapters into one. CONFIG is a YAML file; flags say the same, or win over it.",
    epilog="Example: sst-merge merge --adapter adapters/code --adapter path=adapters/safety,role=safety "
    "--output out/merged",
)
@with_config_flags
@click.option("--dry-run", is_flag=True, help="check everything, print the plan, and write nothing")
def merge(config: Path | None, adapters: Sequence[str], settings: Sequence[str], dry_run: bool, **values: Any) -> None:
    """Check, merge, write.

    Raises:
        OutputExistsError: the output is there and ``--force`` is not given.
    """
    checked = config_from_flags(config, values, adapters, settings)
    if checked.output.path.exists() and not checked.force:
        raise OutputExistsError(
            f"{checked.output.path} exists already; choose another --output, or replace it with --force"
        )
    from ..data_loader import resolve_device, torch_type
    from ..merging import merge_to_folder
    from .inputs import load_adapters, load_inputs, own_tokenizer, unused_revision

    opened = load_adapters(checked, headers_only=dry_run)
    tokenizer = own_tokenizer(checked, opened)
    plan = _plan(
        checked,
        opened,
        resolve_device(checked.device),
        "command line" if config is None else str(config),
        notes=(*tokenizer.warnings, *unused_revision(checked)),
    )
    dtype = torch_type(checked.output.dtype) if checked.output.dtype else None
    with progress_bars() as progress:
        found = plan.read_values(progress=progress)
    if dry_run:
        say_lines(plan.describe(dtype=dtype, ranks=checked.output.ranks))
        for warning in found:
            say(f"warning  {warning}")
        for line in _rows_found(checked):
            say(line)
        say(f"nothing written; without --dry-run the result goes to {checked.output.path}")
        return
    modules = [module.name for module in plan.modules]
    inputs = load_inputs(checked, plan.needs, str(plan.settings.device), modules=modules, tokenizer=tokenizer)
    with progress_bars() as progress:
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
        )
    for warning in report.warnings:
        warn(warning)
    say(
        f"merged {len(report.adapters)} adapters by {report.method}: {len(report.modules)} modules, rank "
        f"{report.output['rank']}, {report.output['dtype']}"
    )
    say(checked.output.path)


def _plan(
    config: MergeConfig, adapters: "list[Adapter]", device: str, source: str, *, notes: Sequence[str]
) -> "MergePlan":
    from ..data_loader import check_weights, torch_type
    from ..merging import MergeSettings, plan_merge
    from .inputs import load_base_index, needs_of, provenance

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
        device=device,
        assume_same_base=config.assume_same_base,
        modules_to_save_from=config.modules_to_save_from,
    )
    try:
        needs = needs_of(config)
        base, unchecked = load_base_index(config, adapters, needed=needs.data or needs.base)
        if config.base_model is not None and (needs.data or needs.base):
            check_weights(config.base_model, config.access)
        return plan_merge(
            adapters,
            config.merge.method,
            options=config.merge.options,
            settings=settings,
            given=tuple(name for name, value in present.items() if value is not None),
            base=base,
            base_model=None if config.base_model is None else config.access.repo(config.base_model),
            unchecked=unchecked,
            provenance=provenance(config, base),
            notes=notes,
        )
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
    from .inputs import commit_of_set

    sources = {"data.harm": config.data.harm, "data.benign": config.data.benign}
    sources |= {f"data of {item.label}": item.data for item in config.adapters}
    lines = []
    for name, source in sources.items():
        if source is not None and source.path is not None:
            found = read_rows(source, seed=config.seed)
            lines.append(f"data     {name}: {len(found.rows)} rows")
            lines += [f"warning  {note}" for note in found.notes]
        elif source is not None:
            commit = commit_of_set(source)
            at = "" if commit is None else f" at commit {commit}"
            lines.append(f"data     {name}: {source.name}{at}, not fetched in a dry run")
    return lines
