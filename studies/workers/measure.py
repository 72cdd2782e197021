"""One merge by one thread and by several, from disk to disk, beside the time to read its inputs and write its output.

    python studies/workers/measure.py --out studies/workers
    python studies/workers/measure.py --out out/workers --merges task_arithmetic:2 --rounds 1

Twenty adapters of rank 16 at Llama-2-7B shapes by default: the exact weighted sum of all linear layers, and methods
that compute, cut to rank 16, of fewer. Every merge runs in a new Python process, in turn, and its clock starts when
everything is imported. These are seconds of the wall's clock, so the machine should have nothing else to do: the page
names its load. The last rows have company: a program that multiplies matrices on one core all the time. Needs space for
three times the output (32 layers: 10 GB) where temporary files go (TMPDIR).
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from sst_merge.lora_utils import Adapter
from sst_merge.machine import usable_cores
from sst_merge.merging import MergeSettings, merge_to_folder, plan_merge
from sst_merge.reporting import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "merging"))

from merging_inputs import module_shapes, write_adapters
from study import interval, study_options, versions, write_page

MERGES = ["task_arithmetic:32", "tsv_m:2", "ties:1"]
EXACT = {"task_arithmetic"}
CUT = 16  # rank of what is not exact
BESIDE = 8  # layers of the exact sum beside another program


def merge_once(folder: Path, method: str, layers: int, workers: int, output: Path) -> dict[str, object]:
    """One merge in this process: seconds of the wall's clock, and the digest of what was written."""
    adapters = [Adapter.load(path, name=path.name) for path in sorted(folder.glob("adapter*"))]
    began = time.perf_counter()
    whole = plan_merge(adapters, method, settings=MergeSettings(rank=None if method in EXACT else CUT))
    names = sorted({module.name.split(".layers.")[1].split(".")[0] for module in whole.modules}, key=int)[:layers]
    modules = tuple(m for m in whole.modules if m.name.split(".layers.")[1].split(".")[0] in names)
    merge_to_folder(replace(whole, modules=modules), output, force=True, workers=workers)
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


def in_new_process(folder: Path, merge: str, workers: int, output: Path) -> dict[str, object]:
    """Figures of :func:`merge_once` in a process of its own."""
    command = [sys.executable, __file__, "--out", str(output), "--child", str(folder), "--merges", merge]
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{merge} by {workers} threads failed:\n{done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def company(wanted: bool) -> Iterator[None]:
    """A program that keeps one core busy while the block runs."""
    if not wanted:
        yield
        return
    words = "import torch; torch.set_num_threads(1); a = torch.ones(512, 512)\nwhile True: a @ a"
    busy = subprocess.Popen([sys.executable, "-c", words])
    try:
        time.sleep(5)  # until it multiplies
        yield
    finally:
        busy.kill()
        busy.wait()


@dataclass
class Measured:
    """One merge's rounds.

    Attributes:
        merge: method and layers.
        beside: whether another program ran.
        seconds: number of threads → of every round.
        floor: seconds of reading and writing, of every round; of the exact sum alone.
        digests: of what was written.
        size: of it, in bytes.
    """

    merge: str
    beside: bool
    seconds: dict[int, list[float]] = field(default_factory=dict)
    floor: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    size: int = 0

    def round(self, folder: Path, workers: list[int], *, whole: bool) -> None:
        """Every number of threads once."""
        for count in workers:
            found = in_new_process(folder, self.merge, count, folder / "merged")
            self.seconds.setdefault(count, []).append(float(str(found["seconds"])))
            self.digests.add(str(found["sha256"]))
            self.size = int(str(found["bytes"]))
            print(f"{self.merge}, {count} threads: {self.seconds[count][-1]:.1f} s", file=sys.stderr, flush=True)
        if whole:
            self.floor.append(read_and_write(folder, folder / "copy", self.size))

    def rows(self) -> list[list[str]]:
        """Of the page's table."""
        method, layers = self.merge.split(":")
        rows = []
        for count, runs in self.seconds.items():
            ratio, low, high = interval([one / own for one, own in zip(self.seconds[1], runs, strict=True)])
            above = [own / copy for own, copy in zip(runs, self.floor, strict=False)]
            rows.append([
                method,
                layers,
                "yes" if self.beside else "no",
                str(count),
                f"{median(runs):.1f}",
                f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
                f"{median(above):.1f}" if above else "–",
            ])
        return rows


def parse() -> argparse.Namespace:
    """Command-line options."""
    parser = study_options(__doc__)
    for name, default in (("hidden", 4096), ("inner", 11008), ("adapters", 20), ("rank", 16), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--merges", nargs="+", default=MERGES, help="method:layers; the first one has most layers")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.workers[0] != 1 and given.child is None:
        parser.error("--workers begins with 1, which the others are compared with")
    return given


def main() -> None:
    """Merge in turn, compare bytes and seconds, and write the page."""
    given = parse()
    if given.child is not None:
        method, count = given.merges[0].split(":")
        print(json.dumps(merge_once(given.child, method, int(count), given.workers[0], given.out)))
        return
    load = [round(os.getloadavg()[0], 1)]
    layers = int(given.merges[0].split(":")[1])
    first = given.merges[0]
    measured = [Measured(merge, beside=False) for merge in given.merges]
    measured.append(Measured(f"{first.split(':')[0]}:{min(layers, BESIDE)}", beside=True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shapes = module_shapes(given.hidden, given.inner, layers)
        write_adapters(folder, shapes, count=given.adapters, rank=given.rank, base="random", dtype=torch.bfloat16)
        for one in measured:
            with company(one.beside):
                for _ in range(given.rounds):
                    one.round(folder, given.workers, whole=one.merge == first and not one.beside)
    load.append(round(os.getloadavg()[0], 1))
    if wrong := [one.merge for one in measured if len(one.digests) > 1]:
        raise SystemExit(f"the merges wrote different bytes: {wrong}")
    exact, size = first.split(":")[0], f"{measured[0].size / 1e9:.2f} GB"
    shape = f"{given.adapters} adapters of rank {given.rank}, bfloat16 on disk, layers of a Llama with hidden size"
    head = (
        f"# One merge by several threads\n\n{shape} {given.hidden} and inner size\n{given.inner}, seven modules each. "
        f"`{exact}` is exact, to a file of {size}; the others are cut to rank {CUT}.\nSeconds of the wall's clock from "
        f"disk to disk with all checks and hashes; median of {given.rounds} rounds in turn, ratios inside\na round "
        "with their 95 % interval (below six rounds their range). All numbers of threads wrote the same bytes.\n"
        f"*Beside*: another program multiplied matrices on one core. {usable_cores()} cores, load average {load[0]} "
        f"before and {load[1]} after;\n{versions()}. Made by `studies/workers/measure.py`.\n\n"
    )
    columns = ["method", "layers", "beside", "threads", "seconds", "times as fast as one"]
    rows = [row for one in measured for row in one.rows()]
    figures = {
        "merges": [
            {"merge": one.merge, "beside": one.beside, "seconds": one.seconds, "read_and_write_seconds": one.floor}
            | {"output_bytes": one.size}
            for one in measured
        ],
        "load_average": load,
    }
    write_page(given.out, head + markdown_table(rows, [*columns, "× reading inputs and writing output"]), figures)


if __name__ == "__main__":
    main()
