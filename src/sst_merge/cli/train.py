"""``sst-merge train``: a base and rows in, one LoRA adapter of a role out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputExistsError
from ..texts import duration
from ..training.config import TrainConfig
from .console import finish, near, progress_bars, say, shell, warn
from .flags import read_config, with_flags
from .sections import SectionedCommand
from .tracks import tracked, with_track
from .voice import words_without

if TYPE_CHECKING:
    from ..lora_utils import BaseModelIndex
    from ..training import Mixture

__all__ = ["train"]


@click.command(
    help="Train one LoRA adapter on prompts and answers. CONFIG is a YAML file; flags say the same, or win over it. A "
    "run that was stopped goes on where it was when the same command is given again.",
    epilog="Example: sst-merge train --base HuggingFaceTB/SmolLM2-135M-Instruct --data refusals.jsonl "
    "--data instructions.jsonl:0.33 --role safety --output adapters/safety",
    cls=SectionedCommand,
    first=("base", "data", "role", "output", "dry_run"),
    subjects={"recipe__": "Recipe"},
)
@with_flags(TrainConfig)
@with_track
@click.option("--dry-run", is_flag=True, help="check everything, print rows, tokens, steps and time, and write nothing")
def train(config: Path | None, dry_run: bool, **values: Any) -> None:
    """Check, read, train, write.

    Args:
        config: YAML file.
        dry_run: stop before the base is loaded.
        values: the configuration's flags.

    Raises:
        OutputExistsError: the output is there and ``--force`` is not given.
    """
    checked = read_config(TrainConfig, config, values)
    if checked.output.exists() and not checked.force:
        raise OutputExistsError(f"{checked.output} exists already; choose another --output, or replace it with --force")
    from ..training import check_targets, read_mixture, train_adapter
    from .provenance import unused_revision

    for warning in unused_revision(checked.base, checked.base_revision):
        warn(warning)
    index = check_targets(checked.base, checked.recipe, access=checked.access)
    mixture = read_mixture(checked.data, seed=checked.seed)
    if mixture.shared:
        warn(f"{mixture.shared} prompts are in more than one source; if their answers differ, they undo each other")
    if dry_run:
        _describe(checked, index, mixture)
        return
    with progress_bars() as progress, tracked(checked, checked.output):
        report = train_adapter(
            checked.base,
            mixture.rows,
            checked.output,
            recipe=checked.recipe,
            seed=checked.seed,
            progress=progress,
            device=checked.device,
            force=checked.force,
            role=checked.role,
            sources=mixture.counts,
            checkpoint_seconds=60 * checked.checkpoint_minutes,
            access=checked.access,
        )
    say(
        f"trained on {report.rows} rows in {report.steps} steps and {duration(report.seconds)} "
        f"({report.tokens_per_second:.0f} tokens/s): loss {report.losses[0]:.3f} -> {report.final_loss:.3f}"
    )
    output = near(checked.output)
    say(output)
    flag, other = ("--safety", "--skill") if checked.role == "safety" else ("--skill", "--safety")
    result = {"output": str(checked.output), "role": checked.role, "rows": report.rows, "steps": report.steps}
    result |= {"seconds": report.seconds, "first_loss": report.losses[0], "final_loss": report.final_loss}
    words = ["--base", near(checked.base), other, "ADAPTER", flag, output, "--calibration", "builtin"]
    finish(result, then=shell("sst-merge", "merge", *words, "-o", "out/merged"))


def _describe(config: TrainConfig, index: "BaseModelIndex", mixture: "Mixture") -> None:
    from ..data_loader import load_tokenizer, resolve_device
    from ..training import plan_training
    from ..training.cost import estimated_seconds
    from ..training.train import training_dtype

    plan = plan_training(
        mixture.rows, load_tokenizer(config.base, access=config.access), config.recipe, seed=config.seed
    )
    device = resolve_device(config.device)
    dtype = training_dtype(config.recipe.dtype, device)
    seconds = estimated_seconds(plan, index, dtype=dtype, device=device)
    for name, count in mixture.counts.items():
        say(f"data     {name}: {count} rows")
    say(f"rows     {len(plan.rows)}, of which {plan.cut} are cut at {config.recipe.max_length} tokens")
    say(f"steps    {len(plan.steps)} of {config.recipe.batch_size} rows")
    say(
        f"tokens   {plan.tokens} in all steps, {plan.answer_tokens} of them answers; {plan.computed_tokens} are "
        "computed (padding, and beginnings that rows share once)"
    )
    say(f"time     about {duration(seconds)} in {dtype} on {device}, within a factor of two")
    say(f"nothing written; without --dry-run the {config.role} adapter goes to {near(config.output)}")
    result = {"dry_run": True, "output": str(config.output), "data": dict(mixture.counts), "rows": len(plan.rows)}
    result |= {"cut": plan.cut, "steps": len(plan.steps), "tokens": plan.tokens, "answer_tokens": plan.answer_tokens}
    result |= {"computed_tokens": plan.computed_tokens, "seconds": seconds, "dtype": dtype, "device": str(device)}
    finish(result, then=shell(*words_without("--dry-run")))
