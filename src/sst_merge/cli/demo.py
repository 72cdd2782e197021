"""``sst-merge demo``: the lab's demo, or that of a language model."""

from pathlib import Path

import click

from .console import finish
from .voice import voice

__all__ = ["demo"]


@click.command(help="Merge skill and safety, evaluate on test prompts, and report; by default in the lab.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="folder"
)
@click.option("--seed", default=0, show_default=True, help="of every random choice")
@click.option("--quick", is_flag=True, help="fewer prompts and strengths (lab)")
@click.option(
    "--world",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="YAML file of a language model with its adapters and prompts, such as examples/smollm2/world.yaml",
)
def demo(out: Path, seed: int, quick: bool, world: Path | None) -> None:
    """Run the demo."""
    if world is not None:
        from ..experiments.text_demo import run_text_demo

        run_text_demo(world, out, seed, bars=not voice().quiet)
    else:
        from ..experiments.demo import run_demo

        run_demo(out, seed, quick, bars=not voice().quiet)
    from ..reporting import YOUR_OWN

    finish({"out": str(out), "page": str(out / "index.html")}, then=YOUR_OWN)
