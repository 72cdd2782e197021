"""Time and memory of ``inspect`` at the shapes of Llama-2-7B.

Adapters with random factors on all linear layers, saved in bfloat16; each way to inspect them runs in a process of its
own, from the folders, and reports that process's time and peak resident memory (Python and torch alone take 0.2 GiB).

    python studies/inspecting/measure.py --out results/inspecting [--adapters 2] [--rank 16] [--layers 32]
"""

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from sst_merge import inspect_adapters
from sst_merge.lora_utils import Adapter, LoraFactors, write_adapter
from sst_merge.reporting import markdown_table

__all__ = ["measured"]

_HIDDEN, _INNER = 4096, 11008
_ATTENTION = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (_HIDDEN, _HIDDEN))
_MLP = {"gate_proj": (_INNER, _HIDDEN), "up_proj": (_INNER, _HIDDEN), "down_proj": (_HIDDEN, _INNER)}


def _modules(seed: int, rank: int, layers: int) -> Iterator[tuple[str, LoraFactors]]:
    generator = torch.Generator().manual_seed(seed)
    for layer in range(layers):
        for block, shapes in (("self_attn", _ATTENTION), ("mlp", _MLP)):
            for name, (d_out, d_in) in shapes.items():
                b, a = torch.randn(d_out, rank, generator=generator), torch.randn(rank, d_in, generator=generator)
                yield f"model.layers.{layer}.{block}.{name}", LoraFactors(b * 0.01, a * 0.01)


def measured(folder: Path, *, signs: bool, threads: int) -> tuple[float, float, float]:
    """Inspect all adapters in a folder; meant for a process that does nothing else.

    Args:
        folder: holds the adapters.
        signs: compare signs.
        threads: of torch.

    Returns:
        Seconds by the clock and of the CPU, and the process's peak resident memory in GiB.
    """
    torch.set_num_threads(threads)
    began, busy = time.perf_counter(), time.process_time()
    inspect_adapters([Adapter.load(path) for path in sorted(folder.iterdir())], signs=signs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return time.perf_counter() - began, time.process_time() - busy, peak


def main() -> None:
    """Measure with and without signs, and print or write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="folder for the page, README.md")
    options = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for index in range(options.adapters):
            modules = _modules(index, options.rank, options.layers)
            write_adapter(
                folder / f"a{index:02d}", modules, base_model="7b", task_type="CAUSAL_LM", dtype=torch.bfloat16
            )
        for signs in (True, False):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds, busy, peak = pool.submit(measured, folder, signs=signs, threads=options.threads).result()
            name = "with signs" if signs else "without (--no-signs)"
            rows.append((name, round(seconds, 1), round(busy, 1), round(peak, 2)))
    text = (
        f"`inspect` of {options.adapters} adapters of rank {options.rank} on all linear layers at Llama-2-7B's shapes "
        f"({options.layers} layers), from disk.\n{options.threads} torch thread(s) of a {platform.machine()} CPU that "
        f"other jobs may share, torch {torch.__version__}, Python {platform.python_version()}; one run.\n"
        f"Made by `studies/inspecting/measure.py`.\n\n"
    )
    text += markdown_table(rows, ("signs", "seconds", "CPU seconds", "peak resident memory, GiB"))
    if options.out is None:
        print(text, end="")
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
