"""A Kronecker Fisher beside a plain pass with the logits of every position, where vocabularies are large.

Random models of given shapes. Seven billion parameters do not fit here: their shapes are measured with one and with two
layers, and a line through both gives 32 layers. Time is CPU time of one thread, rounds interleaved in random order;
memory is the peak of the resident set of a fork above what stood before.

    python studies/scale/vocabulary.py --out studies/scale/vocabulary
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scale_models import Shape, plain, random_adapter, random_batches, random_model, training

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import interval, peak_memory, study_options, timed, versions, write_page

from sst_merge.fim_calculator import build_spaces, compute_fim, point_cores
from sst_merge.reporting import markdown_table

SMOLLM2 = Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 49152)
LLAMA_2 = Shape("7B, 32,000 tokens", 4096, 11008, 32, 32, 32, 32000)
LLAMA_3 = Shape("8B, 128,256 tokens", 4096, 14336, 32, 32, 8, 128256)
TINY = Shape("tiny", 32, 48, 2, 4, 2, 64)
PLAIN, FISHER, TWICE, PLAIN_TWICE = "plain", "Fisher", "Fisher, layers twice", "plain, layers twice"
TRAINING = "training"
_HEADING = """# A Fisher where vocabularies are large

A Kronecker Fisher at the merged point of three adapters of rank 16 (all linear layers), as a multiple of `plain`: a
forward pass with the logits of every position, and a backward pass to the embedding's output. The same random tokens,
of which the last quarter are answers; a Fisher computes logits there alone. *Layers twice*: gradient checkpointing.
`training` is what `loss.backward()` takes: backward to all weights as well, half as many products again.
Median over rounds with its 95 % interval (below six rounds their range). Made by `studies/scale/vocabulary.py`.
"""
_READING = """\
*Counted* are multiply-adds of matrix products, without attention itself: what a Fisher spares in the output layer
(three quarters of it), less what its cores cost. Measured and counted agree within the intervals, which other work on
the machine made wide. So how much is spared depends on the output layer's share of the model: 0.55 of an 8B shape with
two layers, 0.21 of SmolLM2, 0.07 of an 8B and 0.02 of a 7B shape with all 32.

**0.8 times the time.** Beside `training` it is kept at 7B and 8B shapes, and on SmolLM2 by the median. Beside `plain`,
whose backward pass goes through activations alone, as a Fisher's does, it is out of reach at full depth with a quarter
of answers: were cores free, SmolLM2 would have 0.84.

**A third of the memory.** Beside `training` it is kept at 7B and 8B shapes with two layers, where gradients of the
weights are most of it, and nearly on SmolLM2 with layers computed twice. Beside `plain` it is not: activations for the
way back are the rest. A line says nothing about memory: with few layers the logits are the peak, with many the
activations.
"""


def measured(shape: Shape, options: Any) -> dict[str, Any]:
    """Seconds of every round and peak memory of each pass.

    Args:
        shape: of the model, all its layers are made.
        options: of the command line.

    Returns:
        Pass → seconds; pass → MiB.
    """
    model = random_model(shape)
    adapters = [random_adapter(shape.modules, options.rank, seed=seed) for seed in range(3)]
    spaces = build_spaces(adapters)
    point = point_cores(adapters, spaces)
    del adapters
    batches = random_batches(shape.vocabulary, samples=options.samples, tokens=options.tokens, batch=options.samples)

    def fisher() -> None:
        compute_fim(model, spaces, batches, point=point, structure="kronecker", estimator="empirical")

    def plainly() -> None:
        plain(model, batches)

    def twice(task: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
            try:
                task()
            finally:
                model.gradient_checkpointing_disable()
                model.eval()

        return run

    tasks = {PLAIN: plainly, TRAINING: lambda: training(model, batches), FISHER: fisher}
    tasks |= {PLAIN_TWICE: twice(plainly), TWICE: twice(fisher)}
    memory = {name: peak_memory(task) for name, task in tasks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    order = random.Random(0)
    for _ in range(options.rounds):
        for name in order.sample(list(tasks), len(tasks)):
            seconds[name].append(timed(tasks[name]))
    return {"seconds": seconds, "mib": memory}


def at_layers(one: Sequence[float], two: Sequence[float], layers: int) -> list[float]:
    """What a line through one and two layers comes to, round by round."""
    return [a + (layers - 1) * (b - a) for a, b in zip(one, two, strict=True)]


def counted(shape: Shape, core: int, answers: float) -> float:
    """The Fisher's multiply-adds a token beside the plain pass's: without attention itself, sums of p² and q² included.

    Forward and backward cost d_out d_in each; a core adds (d_in q + p q + d_out p) both ways, and its factors p² + q².

    Args:
        shape: of the model.
        core: p = q.
        answers: share of the positions.

    Returns:
        The quotient.
    """
    layers = sum(2 * out * into for out, into in shape.modules.values())
    head = 2 * shape.vocabulary * shape.hidden
    own = sum(2 * core * (out + into + core) + 2 * core * core for out, into in shape.modules.values())
    return (layers + own + answers * head) / (layers + head)


def rows_of(shape: Shape, seconds: dict[str, list[float]], mib: dict[str, float] | None, rank: int) -> list[list[str]]:
    """The page's rows of one shape; memory is left out where it is not known."""
    rows = []
    core = 3 * rank
    for name in (FISHER, TRAINING, PLAIN_TWICE, TWICE):
        ratio, low, high = interval([a / b for a, b in zip(seconds[name], seconds[PLAIN], strict=True)])
        trained = interval([a / b for a, b in zip(seconds[name], seconds[TRAINING], strict=True)])
        expected = f"{counted(shape, core, 0.25):.2f}" if name == FISHER else ""
        rows.append([
            shape.name,
            name,
            f"{median(seconds[name]):.3g}",
            f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
            expected,
            "" if name == TRAINING else "{:.2f} [{:.2f}, {:.2f}]".format(*trained),
            "" if mib is None else f"{mib[name]:.0f}",
            "" if mib is None else f"{mib[name] / mib[PLAIN]:.2f}",
            "" if mib is None or name == TRAINING else f"{mib[name] / mib[TRAINING]:.2f}",
        ])
    return rows


def page(figures: dict[str, Any]) -> str:
    """The published page.

    Args:
        figures: of :func:`main`.

    Returns:
        Markdown.
    """
    rows = []
    for shape in (SMOLLM2, LLAMA_2, LLAMA_3, TINY):
        if shape.name in figures["whole"]:
            found = figures["whole"][shape.name]
            rows += rows_of(shape, found["seconds"], found["mib"], figures["rank"])
        if shape.name in figures["two_layers"]:
            one, two = figures["two_layers"][shape.name]
            few = replace(shape, name=f"{shape.name}, 2 layers", layers=2)
            rows += rows_of(few, two["seconds"], two["mib"], figures["rank"])
            many = replace(shape, name=f"{shape.name}, {shape.layers} layers (by the line)")
            seconds = {k: at_layers(one["seconds"][k], two["seconds"][k], shape.layers) for k in two["seconds"]}
            rows += rows_of(many, seconds, None, figures["rank"])
    columns = ["model", "pass", "CPU seconds", "× plain", "counted", "× training", "MiB", "× plain's", "× training's"]
    return (
        f"{_HEADING}\n{figures['versions']}, one thread, float32; {figures['samples']} samples of {figures['tokens']} "
        f"tokens, {figures['rounds']} rounds.\n\n{markdown_table(rows, columns)}\n\n{_READING}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every shape and write the page."""
    parser = study_options(__doc__)
    for name, default in (("samples", 4), ("tokens", 128), ("rounds", 7), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sizes", choices=["real", "tiny"], default="real")
    parser.add_argument("--only-page", action="store_true", help="from the figures that are there")
    options = parser.parse_args(arguments)
    if options.only_page:
        figures = json.loads((options.out / "figures.json").read_text(encoding="utf-8"))
        write_page(options.out, page(figures), figures)
        return
    torch.set_num_threads(1)
    real = options.sizes == "real"
    figures = {name: getattr(options, name) for name in ("samples", "tokens", "rounds", "rank")}
    figures |= {"versions": versions(), "whole": {}, "two_layers": {}}
    for shape in (SMOLLM2,) if real else (TINY,):
        figures["whole"][shape.name] = measured(shape, options)
    for shape in (LLAMA_2, LLAMA_3) if real else (TINY,):
        figures["two_layers"][shape.name] = [measured(replace(shape, layers=n), options) for n in (1, 2)]
    write_page(options.out, page(figures), figures)


if __name__ == "__main__":
    main()
