"""Fishers, merges, refinement and evaluation at 7B and 8B shapes on one card, as multiples of plain passes.

    python studies/scale/gpu.py --out studies/scale/gpu
    python studies/scale/gpu.py --out out/gpu --sizes tiny --device cpu --minutes 1

Random weights in bfloat16, and in 4 bits where bitsandbytes is installed: time and memory do not depend on what weights
say. Three adapters of rank 16 on all linear layers, one of them for safety. Beside them data-free methods on one layer:
on the card, on its CPU, and by PEFT on the same card. Seconds are those of the wall's clock with the card waited for,
so nothing else should run there. Every stage looks at the clock first, and is left out, with a message, where it no
longer fits into --minutes; one that fails is named on the page with its error. Needs no network and no file.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_clock import Card, Clock
from gpu_page import page
from gpu_stages import with_data, without_data
from scale_models import Shape, random_model
from study import study_options, versions, write_page

SIZES = {
    "tiny": Shape("tiny", 64, 172, 2, 4, 2, 4160),
    "7b": Shape("7B, 32k", 4096, 11008, 32, 32, 32, 32000),
    "8b": Shape("8B, 128k", 4096, 14336, 32, 32, 8, 128256),
}
_MADE = 2e8  # random weights a second that a card makes, at least


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command-line options."""
    parser = study_options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["7b", "8b"])
    parser.add_argument("--weights", nargs="+", choices=["bfloat16", "4-bit"], default=["bfloat16", "4-bit"])
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="what does not fit is left out")
    parser.add_argument("--rounds", type=int, default=3)
    for name, default in (("samples", 16), ("tokens", 256), ("batch", 4), ("rank", 16), ("adapters", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(arguments)
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: torch {torch.__version__} sees no card; try --sizes tiny --device cpu")
    return given


def in_four_bits(model: Any, device: str) -> Any:
    """The same model with the weights of its linear layers in NF4, but for the output layer."""
    import bitsandbytes

    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            packed = bitsandbytes.nn.Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            packed.weight = bitsandbytes.nn.Params4bit(layer.weight.cpu(), requires_grad=False, quant_type="nf4")
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed.to(device))
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages that fit, and write the page."""
    given = parse(arguments)
    began = time.perf_counter()
    card, clock = Card(given.device, given.rounds), Clock(began + 60 * given.minutes)
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    found: dict[str, Any] = {"card": card.name, "versions": versions(), "settings": settings, "models": []}
    found["without_data"] = {"size": SIZES[given.sizes[0]].name, "rows": []}
    text = {name: settings[name] for name in ("samples", "tokens", "batch")}
    kinds = list(given.weights)
    if "4-bit" in kinds and (not card.is_one or find_spec("bitsandbytes") is None):
        clock.leave_out("4-bit weights: " + ("bitsandbytes is not installed" if card.is_one else "they need a card"))
        kinds.remove("4-bit")

    def on_one_model(shape: Shape, kind: str) -> None:
        row: dict[str, Any] = {"size": shape.name, "weights": kind, "stages": {}}
        found["models"].append(row)
        model = random_model(shape, device=given.device, dtype=torch.bfloat16)
        model = in_four_bits(model, given.device) if kind == "4-bit" else model
        row["model_gib"] = card.allocated()
        with_data(model, shape, f"{shape.name}, {kind}", row, card, clock, rank=given.rank, **text)

    def merges() -> None:
        rows = found["without_data"]["rows"]
        without_data(SIZES[given.sizes[0]], rows, card, clock, rank=given.rank, adapters=given.adapters)

    for kind in kinds:
        for shape in (SIZES[name] for name in given.sizes):
            clock.stage(f"{shape.name}, {kind}", shape.parameters / _MADE, partial(on_one_model, shape, kind))
            gc.collect()  # a failed stage's model hangs in its traceback
        if kind == kinds[0]:
            clock.stage("data-free merges", 10.0, merges)
    found |= {"left_out": clock.left_out, "minutes": (time.perf_counter() - began) / 60, "cores": os.cpu_count()}
    write_page(given.out, page(found), found)


if __name__ == "__main__":
    main()
