"""``sst-merge merge``: a configuration in, a merged adapter with report, model card and page out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, OptionError, OutputExistsError, UnknownMethodError
from ..merging.config import MergeConfig
from .console import progress_bars, warn
from .flags import config_flags, config_from_flags

if TYPE_CHECKING:
    from ..lora_utils import Adapter, BaseModelIndex
    from ..merging import FileText, MergePlan, MergeReport

__all__ = ["merge", "with_config_flags"]


def with_config_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the configuration file, ``--adapter``, ``--set`` and one flag per field.

    Args:
        function: takes config, adapters, settings and the flags' values as keywords.

    Returns:
        The decorated function.
    """
    for flag in reversed(config_flags()):
        function = flag.declare()(function)
    function = click.option(
        "--set", "settings", multiple=True, metavar="OPTION=VALUE",
        help="an option of the method, such as fisher.structure=block; repeatable",
    )(function)  # fmt: skip
    function = click.option(
        "--adapter", "adapters", multiple=True, metavar="PATH|KEY=VALUE,...",
        help="an adapter: its folder, or name=..,path=..,role=..,weight=..; repeatable, replaces the file's list",
    )(function)  # fmt: skip
    return click.argument("config", required=False, type=click.Path(path_type=Path))(function)


@click.command(
    help="Merge adapters into one. CONFIG is a YAML file; flags say the same, or win over it.",
    epilog="Example: sst-merge merge --adapter adapters/code --adapter path=adapters/safety,role=safety "
    "--output out/merged",
)
@with_config_flags
@click.option("--dry-run", is_flag=True, help="check everything, print the plan, and write nothing")
def merge(config: Path | None, adapters: Sequence[str], settings: Sequence[str], dry_run: bool, **values: Any) -> None:
    """Check, merge, write.

    Args:
        config: YAML file.
        adapters: values of ``--adapter``.
        settings: values of ``--set``.
        dry_run: stop after the plan.
        values: the configuration's flags.

    Raises:
        OutputExistsError: the output is there and ``--force`` is not given.
    """
    checked = config_from_flags(config, values, adapters, settings)
    if checked.output.path.exists() and not checked.force:
        raise OutputExistsError(
            f"{checked.output.path} exists already; choose another --output, or replace it with --force"
        )
    from .inputs import load_adapters, load_base_index, resolve_device, torch_type

    opened = load_adapters(checked)
    device = resolve_device(checked.device)
    base = load_base_index(checked, opened)
    plan = _plan(checked, opened, base, "command line" if config is None else str(config))
    if dry_run:
        written = torch_type(checked.output.dtype or checked.compute_dtype)
        click.echo(plan.describe(dtype=written, compute_dtype=torch_type(checked.compute_dtype)))
        for line in _rows_found(checked):
            click.echo(line)
        click.echo(f"nothing written; without --dry-run the result goes to {checked.output.path}")
        return
    report = _carry_out(checked, plan, base, device)
    for warning in report.warnings:
        warn(warning)
    click.echo(
        f"merged {len(report.adapters)} adapters by {report.method}: {len(report.modules)} modules, rank "
        f"{report.output['rank']}, {report.output['dtype']}"
    )
    click.echo(str(checked.output.path))


def _plan(config: MergeConfig, adapters: "list[Adapter]", base: "BaseModelIndex | None", source: str) -> "MergePlan":
    from ..merging import plan_merge

    present = {
        "model": config.base_model,
        "harm": config.data.harm,
        "benign": config.data.benign,
        "base_weights": config.base_model,
        "aligned_weights": config.aligned_base_model,
    }
    try:
        return plan_merge(
            adapters,
            config.merge.method,
            options=config.merge.options,
            given=tuple(name for name, value in present.items() if value is not None),
            base=base,
            rank=config.output.rank,
            energy=config.output.energy,
            assume_same_base=config.assume_same_base,
        )
    except UnknownMethodError as error:
        raise ConfigError(f"{source}: merge.method: {error}") from error
    except OptionError as error:
        raise ConfigError(f"{source}: merge: {error}") from error


def _carry_out(config: MergeConfig, plan: "MergePlan", base: "BaseModelIndex | None", device: str) -> "MergeReport":
    from ..merging import merge_to_folder
    from .inputs import load_model_and_data, open_weights, torch_type

    needs = plan.method.needs_for(plan.options)
    data = load_model_and_data(config, device) if needs.data or needs.base else None
    unaligned, aligned = open_weights(config) if needs.aligned_base else (None, None)
    with progress_bars() as progress:
        return merge_to_folder(
            plan.adapters,
            config.output.path,
            plan.method.name,
            model=data.model if data else None,
            harm=data.harm if data else (),
            benign=data.benign if data else (),
            adapter_benign=data.adapter_benign if data else {},
            base=base,
            base_weights=unaligned,
            aligned_weights=aligned,
            seed=config.seed,
            rank=plan.rank,
            energy=plan.energy,
            compute_dtype=torch_type(config.compute_dtype),
            device=device,
            assume_same_base=config.assume_same_base,
            progress=progress,
            dtype=torch_type(config.output.dtype) if config.output.dtype else None,
            force=config.force,
            extra_files=_pages(),
            **config.merge.options,
        )


def _pages() -> "dict[str, FileText]":
    from ..reporting import merge_page, model_card

    return {"README.md": model_card, "merge_report.html": merge_page}


def _rows_found(config: MergeConfig) -> list[str]:
    """Rows of the data that lie on this machine; a hub data set is not fetched for a dry run."""
    from ..data_loader import load_rows

    sources = {"data.harm": config.data.harm, "data.benign": config.data.benign}
    sources |= {f"data of {item.label}": item.data for item in config.adapters}
    lines = []
    for name, source in sources.items():
        if source is not None and source.path is not None:
            lines.append(f"data     {name}: {len(load_rows(source.to_source(), seed=config.seed))} rows")
        elif source is not None:
            lines.append(f"data     {name}: {source.to_source().name}, not fetched in a dry run")
    return lines
