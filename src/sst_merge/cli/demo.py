"""``sst-merge demo``: a thin wrapper around :mod:`sst_merge.experiments.demo`."""

from pathlib import Path

import click

__all__ = ["demo"]


@click.command(help="Merge skill and safety in the lab by three methods, evaluate on test prompts, plot, and report.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="folder")
@click.option("--seed", default=0, show_default=True, help="of every random choice")
@click.option("--quick", is_flag=True, help="fewer prompts and strengths")
def demo(out: Path, seed: int, quick: bool) -> None:
    """Run the demo."""
    from ..experiments.demo import run_demo

    run_demo(out, seed, quick)
