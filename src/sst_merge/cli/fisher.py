"""``sst-merge fisher``: statistics that are collected once, kept, and added up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, OptionError
from ..merging.config import MergeConfig
from ..processes import once
from ..texts import did_you_mean
from .console import finish, progress_bars, say, shell, warn
from .estimates import memory_option, planned_memory, say_data_costs, tokens_a_sample
from .groups import CommandGroup
from .merge import MERGE_SUBJECTS, with_config_flags
from .merge_flags import config_from_flags
from .outputs import check_target
from .sections import SectionedCommand
from .voice import words_without

if TYPE_CHECKING:
    from ..fim_calculator import Fisher
    from ..sst import SSTOptions

__all__ = ["fisher"]


@click.group(cls=CommandGroup, help="Collect Fisher statistics, and add them up.")
def fisher() -> None:
    """Group of commands."""


@fisher.command(
    help="Collect the statistics that `merge` with method sst and `inputs: core` would collect from CONFIG, and save "
    "them for it: naming these files (fisher.harm, fisher.benign, fisher.skills) gives that merge. Takes the flags of "
    "`merge` and the options of sst; what calibration_holdout sets aside stays out.",
    short_help="Collect what sst would collect from a merge's data.",
    cls=SectionedCommand,
    first=("base_model", "adapters", "kind", "skill", "point", "out", "data__calibration"),
    subjects=MERGE_SUBJECTS,
)
@with_config_flags
@click.option("--kind", type=click.Choice(["harm", "benign"]), help="which prompts")
@click.option("--skill", metavar="ADAPTER", help="instead of --kind: the own Fisher of a utility adapter")
@click.option("--point", metavar="POINT", help="where gradients are taken: short for --set fisher.point=POINT")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="file to write, .safetensors")
@click.option("--dry-run", is_flag=True, help="check everything, print memory and time, and write nothing")
@memory_option
def collect(
    config: Path | None,
    adapters: Sequence[str],
    settings: Sequence[str],
    kind: str | None,
    skill: str | None,
    point: str | None,
    out: Path,
    dry_run: bool,
    memory: str | None,
    **values: Any,
) -> None:
    """Collect and save.

    Raises:
        ConfigError: neither or both of --kind and --skill, another name of the file, or no data of that kind.
    """
    if (kind is None) == (skill is None):
        raise ConfigError("give either --kind harm, --kind benign or --skill ADAPTER: a file holds one Fisher")
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: expected a name that ends in .safetensors")
    planned_bytes = planned_memory(memory, dry_run=dry_run)
    # The output folder of a merge is not needed here, but one model checks both commands.
    values = {**values, "output__path": values.get("output__path") or str(out.absolute().with_suffix(".merged"))}
    settings = [*settings, f"fisher.point={point}"] if point else settings
    checked = config_from_flags(config, values, adapters, settings, method="sst")
    check_target(out, option="--out", force=checked.force)
    options = _sst_options(checked)
    _check_data(checked, options, kind, skill)
    from ..data_loader import algebra_device, check_weights, resolve_device, torch_type
    from ..fim_calculator import parts_beside, remove_parts
    from ..merging import MergeSettings, merge_problem, plan_merge
    from ..sst import SSTMerge
    from .adapters import load_adapters, load_base_index
    from .calibration import own_tokenizer
    from .inputs import load_model_and_data
    from .provenance import builtin_note, quantised_note, unused_revision

    opened, device = load_adapters(checked), resolve_device(checked.device)
    merge_settings = MergeSettings(
        seed=checked.seed,
        compute_dtype=torch_type(checked.compute_dtype),
        device=str(algebra_device(device)),
        assume_same_base=checked.assume_same_base,
        modules_to_save_from=checked.modules_to_save_from,
    )
    tokenizer = own_tokenizer(checked, opened)
    for warning in (
        *tokenizer.warnings,
        *unused_revision(checked.base_model, checked.base_revision),
        *builtin_note(checked),
    ):
        warn(warning)
    base, _ = load_base_index(checked, opened, needed=True)
    if checked.base_model is not None:
        for warning in quantised_note(check_weights(checked.base_model, checked.access), opened):
            warn(warning)
    plan = plan_merge(
        opened,
        "sst",
        options=_named(checked.merge.options),
        # A Fisher needs less of it than a merge; what it does need has been checked.
        given=("model", "harm", "benign"),
        base=base,
        settings=merge_settings,
    )
    plan.read_values()
    if dry_run:
        costs = (
            {}
            if base is None
            else say_data_costs(checked, plan, base, tokenizer, memory=planned_bytes, only=kind or f"benign of {skill}")
        )
        say(f"nothing written; without --dry-run the statistics go to {out}")
        finish({"dry_run": True, "path": str(out)} | costs, then=shell(*words_without("--dry-run")))
        return
    modules = [module.name for module in plan.modules]
    loaded = load_model_and_data(checked, device, modules=modules, tokenizer=tokenizer)
    keep = parts_beside(out)
    with progress_bars(tokens_a_sample(loaded)) as progress:
        problem = merge_problem(plan, loaded, keep=keep, progress=progress)
        merge = SSTMerge(problem, options)
        found = merge.fisher(kind) if kind is not None else merge.skill_fisher(str(skill))
    once("the file is written", lambda: found.save(out))
    remove_parts(keep)
    _tell(found, out, kind or f"skills.{skill}")


@fisher.command(
    help="Add statistics of the same adapters and settings: the same as one run over all samples.",
    short_help="Add up statistics of several runs.",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="file to write, .safetensors")
@click.option("--force", is_flag=True, help="replace an existing file")
def add(files: Sequence[Path], out: Path, force: bool) -> None:
    """Sum saved statistics."""
    check_target(out, option="--out", force=force)
    from ..fim_calculator import Fisher

    total = Fisher.load(files[0])
    for file in files[1:]:
        total = total + Fisher.load(file)
    total.save(out)
    _tell(total, out, "KIND")


def _tell(found: "Fisher", out: Path, kind: str) -> None:
    where = found.settings.get("point", "their own optimum")
    share = f" at share {found.settings['share']:.3g}" if "share" in found.settings else ""
    say(f"{found.structure}, {found.samples} samples, {len(found.layers)} modules, point {where}{share}")
    say(out)
    finish(
        {"path": str(out), "structure": found.structure, "samples": found.samples, "modules": len(found.layers)}
        | {"settings": dict(found.settings)},
        then=f"sst-merge merge CONFIG --method sst --set fisher.{kind}={shell(out)}",
    )


def _sst_options(config: MergeConfig) -> "SSTOptions":
    """The configuration's options of ``sst``.

    Raises:
        ConfigError: another method, or an option that is not one of ``sst``.
    """
    from ..methods import get_method, parse_options
    from ..sst import SSTOptions

    given = config.merge
    if given.method not in {None, "sst"}:
        raise ConfigError(f"merge.method: {given.method!r} reads no saved Fishers; expected sst, or no method at all")
    try:
        options = parse_options(get_method("sst"), _named(given.options))
    except OptionError as error:
        raise ConfigError(f"merge: {error}") from error
    assert isinstance(options, SSTOptions)
    return options


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a merge that names files of Fishers has them: ``inputs: core`` unless they say otherwise."""
    return {"inputs": "core", **given}


def _check_data(config: MergeConfig, options: "SSTOptions", kind: str | None, skill: str | None) -> None:
    """Refuse before anything is loaded what the statistics cannot be collected without.

    Raises:
        ConfigError: the data or the adapter are missing.
    """
    present = {"harm": config.data.harm, "benign": config.data.benign}
    if kind is not None and present[kind] is None:
        raise ConfigError(f"data.{kind}: missing; give the prompts whose statistics are to be collected")
    named = {adapter.label: adapter for adapter in config.adapters if adapter.role == "utility"}
    if skill is not None and (skill not in named or named[skill].data is None):
        close = did_you_mean(skill, named) if skill not in named else ""
        found = ", ".join(name for name, adapter in named.items() if adapter.data is not None) or "none"
        raise ConfigError(
            f"--skill {skill}: no utility adapter of that name with a `data:` section{close}; found {found}"
        )
    measured = options.fisher.point == "trust" and options.fisher.trust_share is None
    if kind is not None and measured and config.data.benign is None:
        raise ConfigError(
            "data.benign: missing; the point 'trust' lies as far on the way to the safe model as benign prompts allow. "
            "Give benign prompts, the share itself (--set fisher.trust_share=0.4), or another point (--point merged)"
        )
