"""A step that learns from teachers with and without what its prompts begin with read once, at SmolLM2's shape.

Random weights and tokens; the log-probabilities of eight rows' answers and their gradient with respect to the cores of
three adapters. Time is CPU time of one thread, the two in turn; memory is the peak of the resident set of a fork above
what stood before.

    python studies/scale/beginnings.py --out studies/scale/beginnings
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from scale_models import random_adapter, random_model
from vocabulary import SMOLLM2, TINY

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import interval, peak_memory, study_options, timed, versions, write_page

from sst_merge.data_loader import Batch
from sst_merge.fim_calculator import CoreModel, build_spaces, point_cores, token_logprobs
from sst_merge.reporting import markdown_table

ROWS, ANSWER = 8, 8
SHARES = ((24, 56), (37, 70), (128, 160))
"""Tokens that all rows begin with, of so many: SmolLM2's system prompt, a task's wording after it, a long one."""
_HEADING = f"""# Beginnings that are read once

Forward and backward pass of {ROWS} rows with {ANSWER} answer tokens each, through random weights of SmolLM2-135M's
shape with the cores of three adapters of rank 16 (all linear layers): every row whole, and what all begin with read
once. Medians, ratios inside a round with their 95 % interval. Made by `studies/scale/beginnings.py`.
"""


def alike(common: int, tokens: int, vocabulary: int) -> Batch:
    """Rows that begin with the same tokens."""
    ids = torch.randint(0, vocabulary, (ROWS, tokens), generator=torch.Generator().manual_seed(0))
    ids[:, :common] = ids[:1, :common]
    labels = torch.where(torch.arange(tokens) < tokens - ANSWER, -100, ids)
    return Batch(ids, torch.ones_like(ids), labels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sizes", choices=["real", "tiny"], default="real")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # Beginnings are shared where the vocabulary is large.
    shape = SMOLLM2 if options.sizes == "real" else replace(TINY, vocabulary=4096)
    model = random_model(shape)
    adapters = [random_adapter(shape.modules, 16, seed=seed) for seed in range(3)]
    spaces = build_spaces(adapters)
    cores = {m: core.requires_grad_(True) for m, core in point_cores(adapters, spaces).items()}
    rows, figures = [], {}
    with CoreModel(model, spaces) as attached:
        attached.set_point(cores)
        for common, tokens in SHARES:
            batch = alike(common, tokens, shape.vocabulary)

            def step(batch: Batch, share: bool) -> Callable[[], None]:
                def run() -> None:
                    found, _ = token_logprobs(attached.answers(batch, share=share))
                    torch.autograd.grad(found.sum(), list(cores.values()))

                return run

            tasks = {share: step(batch, share) for share in (False, True)}
            memory = {share: peak_memory(task) for share, task in tasks.items()}
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for task in tasks.values():
                task()
            for _ in range(options.rounds):
                for share, task in tasks.items():
                    seconds[share].append(timed(task))
            ratio, low, high = interval([b / a for a, b in zip(seconds[False], seconds[True], strict=True)])
            read = (common + ROWS * (tokens - common)) / (ROWS * tokens)
            rows.append([
                f"{common} of {tokens}",
                f"{median(seconds[False]):.3g}",
                f"{median(seconds[True]):.3g}",
                f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
                f"{read:.2f}",
                f"{memory[True] / memory[False]:.2f}",
            ])
            figures[f"{common} of {tokens}"] = {
                "whole_seconds": seconds[False],
                "once_seconds": seconds[True],
                "whole_mib": memory[False],
                "once_mib": memory[True],
            }
    columns = ["common tokens", "whole, CPU s", "once, CPU s", "time", "tokens read", "memory"]
    text = (
        f"{_HEADING}\n{versions()}, one thread, float32; {options.rounds} rounds.\n\n{markdown_table(rows, columns)}\n"
    )
    write_page(options.out, text, figures)


if __name__ == "__main__":
    main()
