"""``sst-merge fisher``: statistics that are collected once, kept, and added up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..merging.config import MergeConfig
from .console import progress_bars
from .flags import config_from_flags
from .merge import with_config_flags
from .outputs import check_target

__all__ = ["fisher"]

# Points that the adapters alone decide.
_POINTS = ("merged", "own", "base")


@click.group(help="Collect Fisher statistics, and add them up.")
def fisher() -> None:
    """Group of commands."""


@fisher.command(
    help="Collect the statistics of harmful or benign prompts over the adapters of CONFIG, and save them. Takes the "
    "flags of `merge`; structure, estimator and point are those of merge.fisher, the point `merged` by default."
)
@with_config_flags
@click.option("--kind", type=click.Choice(["harm", "benign"]), required=True, help="which prompts")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="file to write, .safetensors")
def collect(
    config: Path | None, adapters: Sequence[str], settings: Sequence[str], kind: str, out: Path, **values: Any
) -> None:
    """Collect and save.

    Args:
        config: YAML file.
        adapters: values of ``--adapter``.
        settings: values of ``--set``.
        kind: ``harm`` or ``benign``.
        out: file to write.
        values: the configuration's flags.

    Raises:
        ConfigError: no data of that kind.
    """
    # The output folder of a merge is not needed here, but one model checks both commands.
    values = {**values, "output__path": values.get("output__path") or str(out.absolute().with_suffix(".merged"))}
    checked = config_from_flags(config, values, adapters, settings)
    check_target(out, option="--out", force=checked.force)
    source = checked.data.harm if kind == "harm" else checked.data.benign
    if source is None:
        raise ConfigError(f"data.{kind}: missing; give the prompts whose statistics are to be collected")
    import torch

    from ..data_loader.base_model import resolve_device
    from ..fim_calculator import build_spaces, compute_fim_benign, compute_fim_harm
    from ..lora_utils import BaseModelIndex, check_against_base, check_compatible
    from .inputs import load_adapters, load_model_and_data

    how = _how(checked)
    opened = load_adapters(checked)
    check_compatible(opened, assume_same_base=checked.assume_same_base)
    device = resolve_device(checked.device)
    loaded = load_model_and_data(checked, device)
    assert loaded.model is not None
    index = BaseModelIndex.of(loaded.model, name=str(checked.base_model))
    for adapter in opened:
        check_against_base(adapter, index)
        adapter.check_values()
    opened = [adapter.with_kinds(index.kinds) for adapter in opened]
    batches = loaded.harm if kind == "harm" else loaded.benign
    total = sum(len(batch) for batch in batches)
    compute = compute_fim_harm if kind == "harm" else compute_fim_benign
    with progress_bars() as progress:
        found = compute(
            loaded.model,
            opened,
            batches,
            structure=how["structure"],
            estimator=how["estimator"],
            point=how["point"],
            spaces=build_spaces(opened, device=device),
            generator=torch.Generator().manual_seed(checked.seed),
            progress=lambda done: progress(f"Fisher of {kind} prompts", done, total),
        )
    found.save(out)
    click.echo(f"{found.structure}, {found.samples} samples, {len(found.layers)} modules")
    click.echo(str(out))


@fisher.command(help="Add statistics of the same adapters and settings: the same as one run over all samples.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="file to write, .safetensors")
@click.option("--force", is_flag=True, help="replace an existing file")
def add(files: Sequence[Path], out: Path, force: bool) -> None:
    """Sum saved statistics.

    Args:
        files: what `collect` wrote.
        out: file to write.
        force: replace an existing file.
    """
    check_target(out, option="--out", force=force)
    from ..fim_calculator import Fisher

    total = Fisher.load(files[0])
    for file in files[1:]:
        total = total + Fisher.load(file)
    total.save(out)
    click.echo(f"{total.structure}, {total.samples} samples, {len(total.layers)} modules")
    click.echo(str(out))


def _how(config: MergeConfig) -> dict[str, Any]:
    """Structure, estimator and point, as ``sst`` checks them.

    Raises:
        ConfigError: a point that depends on the data.
    """
    from ..methods import get_method, parse_options

    given = config.merge.options.get("fisher", {})
    how: dict[str, Any] = parse_options(get_method("sst"), {"fisher": given}).model_dump()["fisher"]
    if not isinstance(given, Mapping) or "point" not in given:
        how["point"] = "merged"
    if how["point"] not in _POINTS:
        raise ConfigError(
            f"merge.fisher.point: {how['point']!r} depends on the data, so statistics taken there would not add up; "
            f"expected one of {', '.join(_POINTS)}"
        )
    return how
