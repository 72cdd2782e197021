"""One merge by one process and by several, from disk to disk, beside the time to read its inputs and write its output.

    python studies/workers/measure.py --out studies/workers
    python studies/workers/measure.py --out out/workers --layers 2 --rounds 1

Twenty adapters of rank 16 at Llama-2-7B shapes by default, all linear layers, the exact weighted sum. Every merge runs
in a new Python process, in turn, and its clock starts when everything is imported; starting worker processes counts.
These are seconds of the wall's clock, so the machine should have nothing else to do: the page names its load. Needs
space for three times the output (32 layers: 10 GB) where temporary files go (TMPDIR).
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from sst_merge.lora_utils import Adapter
from sst_merge.machine import usable_cores
from sst_merge.merging import merge_to_folder, plan_merge
from sst_merge.reporting import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "merging"))

from merging_inputs import module_shapes, write_adapters
from study import interval, study_options, versions, write_page


def merge_once(folder: Path, method: str, workers: int, output: Path) -> dict[str, object]:
    """One merge in this process: seconds of the wall's clock, and the digest of what was written."""
    adapters = [Adapter.load(path, name=path.name) for path in sorted(folder.glob("adapter*"))]
    began = time.perf_counter()
    merge_to_folder(plan_merge(adapters, method), output, force=True, workers=workers)
    seconds = time.perf_counter() - began
    written = (output / "adapter_model.safetensors").read_bytes()
    return {"seconds": seconds, "bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}


def read_and_write(folder: Path, output: Path, size: int) -> float:
    """Seconds to read all inputs once, and to write as many bytes as the output has."""
    chunk = bytes(1 << 20)
    began = time.perf_counter()
    for file in folder.glob("adapter*/*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(1 << 20):
                pass
    with output.open("wb") as stream:
        for _ in range(size >> 20):
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - began
    output.unlink()
    return seconds


def in_new_process(folder: Path, method: str, workers: int, output: Path) -> dict[str, object]:
    """Figures of :func:`merge_once` in a process of its own."""
    command = [sys.executable, __file__, "--out", str(output), "--child", str(folder), "--method", method]
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the merge by {workers} processes failed:\n{done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def parse() -> argparse.Namespace:
    """Command-line options."""
    parser = study_options(__doc__)
    for name, default in (
        ("layers", 32),
        ("hidden", 4096),
        ("inner", 11008),
        ("adapters", 20),
        ("rank", 16),
        ("rounds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.workers[0] != 1 and given.child is None:
        parser.error("--workers begins with 1, which the others are compared with")
    return given


def main() -> None:
    """Merge in turn, compare bytes and seconds, and write the page."""
    given = parse()
    if given.child is not None:
        print(json.dumps(merge_once(given.child, given.method, given.workers[0], given.out)))
        return
    load = [round(os.getloadavg()[0], 1)]
    seconds: dict[int, list[float]] = {workers: [] for workers in given.workers}
    floor, digests, size = [], set(), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shapes = module_shapes(given.hidden, given.inner, given.layers)
        write_adapters(folder, shapes, count=given.adapters, rank=given.rank, base="random", dtype=torch.bfloat16)
        for _ in range(given.rounds):
            for workers in given.workers:
                found = in_new_process(folder, given.method, workers, folder / "merged")
                seconds[workers].append(float(str(found["seconds"])))
                digests.add(found["sha256"])
                size = int(str(found["bytes"]))
                print(f"{workers} processes: {seconds[workers][-1]:.1f} s", file=sys.stderr, flush=True)
            floor.append(read_and_write(folder, folder / "copy", size))
    load.append(round(os.getloadavg()[0], 1))
    if len(digests) > 1:
        raise SystemExit(f"the merges wrote different bytes: {digests}")
    rows = []
    for workers, runs in seconds.items():
        ratio, low, high = interval([one / own for one, own in zip(seconds[1], runs, strict=True)])
        above = median(own / copy for own, copy in zip(runs, floor, strict=True))
        rows.append([str(workers), f"{median(runs):.1f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]", f"{above:.1f}"])
    sizes = f"{given.layers} layers of a Llama with hidden size {given.hidden} and inner size {given.inner}"
    head = (
        "# One merge by several processes\n\n"
        f"`{given.method}` of {given.adapters} adapters of rank {given.rank}, bfloat16 on disk, {sizes}\n"
        f"({len(shapes)} modules), exact, to a file of {size / 1e9:.2f} GB. Seconds of the wall's clock from disk to "
        f"disk with all checks and\nhashes, new processes included; median of {given.rounds} rounds in turn, ratios "
        f"inside a round with their 95 % interval\n(below six rounds their range). All wrote the same bytes. "
        f"{usable_cores()} cores, load average {load[0]} before and {load[1]} after;\n{versions()}. Made by "
        f"`studies/workers/measure.py`.\n\n"
    )
    columns = ["processes", "seconds", "times as fast as one", "× reading the inputs and writing the output"]
    figures = {"seconds": seconds, "read_and_write_seconds": floor, "load_average": load, "output_bytes": size}
    write_page(given.out, head + markdown_table(rows, columns), figures)


if __name__ == "__main__":
    main()
