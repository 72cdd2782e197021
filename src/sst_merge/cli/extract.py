"""``sst-merge extract``: a fine-tuned model and its base in, a LoRA adapter out."""

from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import OutputExistsError
from .console import finish, print_table, progress_bars, say, shell, warn

__all__ = ["extract"]

_TYPES = ("float32", "float16", "bfloat16")
_SHOWN = 8  # modules in the table of losses
_BESIDE = 0.01  # share of the difference without an update that is worth a warning
_ROUNDING = 1e-12  # share of the energy: the last digits of float64, other ones on every kind of processor


@click.command(
    help="Make a LoRA adapter of what a fine-tuned model and its base differ in, one layer in memory at a time.",
    epilog="Example: sst-merge extract --base models/base --model models/tuned --rank 32 -o adapters/tuned",
)
@click.option("--base", metavar="FOLDER", required=True, help="the base, with safetensors")
@click.option("--model", metavar="FOLDER", required=True, help="the fine-tuned model, with safetensors")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="folder to make")
@click.option("--rank", type=click.IntRange(min=1), help="of every module, at most")
@click.option("--energy", type=click.FloatRange(0.0, 1.0, min_open=True), help="share of every module's energy to keep")
@click.option("--dtype", type=click.Choice(_TYPES), default="float32", show_default=True, help="type to write")
@click.option("--leave-out", multiple=True, metavar="MODULE", help="a module to leave out, such as lm_head; repeatable")
@click.option("--trust-remote-code", is_flag=True, help="run Python files that the model brings")
@click.option("--force", is_flag=True, help="replace an existing output")
def extract(
    base: str,
    model: str,
    output: Path,
    rank: int | None,
    energy: float | None,
    dtype: str,
    leave_out: Sequence[str],
    trust_remote_code: bool,
    force: bool,
) -> None:
    """Subtract, cut, write.

    Raises:
        OutputExistsError: the output is there and ``--force`` is not given.
    """
    if output.exists() and not force:
        raise OutputExistsError(f"{output} exists already; choose another -o, or replace it with --force")
    from ..conversion import extract_adapter
    from ..data_loader import BaseAccess, torch_type

    with progress_bars() as progress:
        found = extract_adapter(
            base,
            model,
            output,
            rank=rank,
            energy=energy,
            dtype=torch_type(dtype),
            leave_out=leave_out,
            force=force,
            access=BaseAccess(trust_remote_code=trust_remote_code),
            progress=progress,
        )
    cut = [(module, figures) for module, figures in found.modules.items() if figures.lost > _ROUNDING]
    lost = f"{100 * found.lost:.3g} % of the energy is lost" if cut else "nothing but rounding is lost"
    say(f"{len(found.modules)} modules, {found.same} more are the base's own; {lost}")
    if cut:
        worst = sorted(cut, key=lambda item: -item[1].lost)[:_SHOWN]
        rows = [(module, str(figures.rank), f"{100 * figures.lost:.3g} %") for module, figures in worst]
        print_table("Largest losses", ("module", "rank", "lost"), rows)
    if found.elsewhere_share > _BESIDE:
        largest = max(found.elsewhere, key=lambda name: found.elsewhere[name])
        warn(
            f"{100 * found.elsewhere_share:.3g} % of the whole difference is in {len(found.elsewhere)} tensors that "
            f"this adapter has no update for, such as {largest}"
        )
    say(output)
    modules = {module: {"rank": figures.rank, "lost": figures.lost} for module, figures in found.modules.items()}
    told = {"output": str(output), "lost": found.lost, "elsewhere_share": found.elsewhere_share, "modules": modules}
    finish(told, then=shell("sst-merge", "merge", "--skill", output, "--skill", "ANOTHER", "-o", "out/merged"))
