"""What merging and Fishers cost as their inputs grow, each beside its law, and what breaks first on paper.

    python studies/scale/measure.py --out studies/scale
    python studies/scale/measure.py --out out/scale --smallest
    python studies/scale/measure.py --out studies/scale --page-only

Everything is synthetic: random adapters, random tokens, random Llamas of one thread, in one process. Rounds visit all
sizes in random order, so that whatever else the machine does falls on all of them; seconds are CPU seconds. Two parts
have processes of their own: Fishers shared by 1, 2 and 4 processes (forks, gloo), and the peak memory of merges at
70B shapes (``studies/merging/merging_children.py``). About three CPU minutes.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "merging"))

from merging_inputs import module_shapes, write_adapters
from scale_laws import slope
from scale_models import Shape, random_adapter, random_batches, random_model
from scale_page import page
from scale_sweeps import Sweep, all_sweeps
from study import interval, study_options, timed, versions, write_page

from sst_merge import processes
from sst_merge.fim_calculator import build_spaces, compute_fim, point_cores

STUDIES = Path(__file__).resolve().parents[1]
_HIDDEN_70B, _INNER_70B = 8192, 28672


def parse() -> argparse.Namespace:
    """Command-line options."""
    parser = study_options(__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="6 are the fewest with a 95 %% interval of the median")
    parser.add_argument("--seed", type=int, default=0, help="of the order inside a round")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4], help="none leaves this part out")
    parser.add_argument("--layers-70b", type=int, nargs="*", default=[1, 4], help="of 80; none leaves this part out")
    parser.add_argument(
        "--one-module", nargs="*", default=["tsv_m", "ties"], help="methods on one module of 70B shapes"
    )
    parser.add_argument("--smallest", action="store_true", help="two sizes a sweep, one round, no other process: a try")
    parser.add_argument("--page-only", action="store_true", help="write the page anew from --out's figures.json")
    given = parser.parse_args()
    if given.smallest:
        given.rounds, given.processes, given.layers_70b, given.one_module = 1, [], [], []
    return given


def swept(sweeps: list[Sweep], rounds: int, seed: int) -> list[dict[str, Any]]:
    """Seconds of every point in every round, and exponents."""
    tasks = [(i, j) for i, sweep in enumerate(sweeps) for j in range(len(sweep.points))]
    seconds: dict[tuple[int, int], list[float]] = {task: [] for task in tasks}
    beside: dict[tuple[int, int], list[float]] = {task: [] for task in tasks}
    for i, j in tasks:  # makes inputs, and touches the code
        point = sweeps[i].points[j]
        point.task()
        if point.beside is not None:
            point.beside()
    shuffler = random.Random(seed)
    for _ in range(rounds):
        for i, j in shuffler.sample(tasks, len(tasks)):
            point = sweeps[i].points[j]
            seconds[i, j].append(timed(point.task))
            if point.beside is not None:
                beside[i, j].append(timed(point.beside))
    found = []
    for i, sweep in enumerate(sweeps):
        at = [point.x for point in sweep.points]
        runs = [seconds[i, j] for j in range(len(at))]
        plain = [beside[i, j] for j in range(len(at))]
        found.append({
            "of": sweep.of,
            "varied": sweep.varied,
            "held": sweep.held,
            "law": sweep.law,
            "at": at,
            "operations": [point.operations for point in sweep.points],
            "counted": slope(at, [point.operations for point in sweep.points]),
            "seconds": runs,
            "exponent": interval([slope(at, list(column)) for column in zip(*runs, strict=True)]),
            "ratio": interval([last / first for first, last in zip(runs[0], runs[-1], strict=True)]),
            "plain_seconds": plain if plain[0] else None,
        })
        print(f"{sweep.of}, {sweep.varied}: {found[-1]['exponent'][0]:.2f}", file=sys.stderr, flush=True)
    return found


def shared(counts: list[int], rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of a Fisher in every process, for several numbers of processes."""
    shape = Shape("", 128, 344, 2, 4, 4, 4096)
    model, text = random_model(shape), random_batches(4096, samples=64, tokens=64, batch=4)
    adapters = [random_adapter(shape.modules, 4, seed=seed) for seed in range(2)]
    spaces = build_spaces(adapters)
    point = point_cores(adapters, spaces)

    def work() -> list[float]:
        with processes.joined():
            return [
                timed(lambda: compute_fim(model, spaces, text, point=point, structure="kronecker"))
                for _ in range(rounds + 1)
            ][1:]  # the first one touches the code

    return [{"processes": count, "seconds": launched(count, work)} for count in counts]


def launched(count: int, work: Any) -> list[list[float]]:
    """What every fork of this process returns, which see each other as a launcher's processes do."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                os.environ |= {name: str(value) for name, value in names.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.write(writing, json.dumps(work()).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        children.append((child, reading))
    results = []
    for child, reading in children:
        with os.fdopen(reading) as pipe:
            results.append(pipe.read())
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit(f"one of {count} processes failed; what it said stands above")
    return [json.loads(result) for result in results]


def merged_apart(folder: Path, method: str, rank: int | None) -> dict[str, Any]:
    """Figures of a merge from disk to disk in a new process."""
    command = [sys.executable, str(STUDIES / "merging" / "merging_children.py"), "ours", str(folder)]
    command += [
        "--methods",
        method,
        "--repeats",
        "0",
        "--budget",
        "0",
        *([] if rank is None else ["--rank", str(rank)]),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])[method]
    return {"method": method, "rank": rank, **figures}


def at_70b_shapes(layers: list[int], methods: list[str]) -> list[dict[str, Any]]:
    """Peak memory of merging four adapters of rank 16, written module by module."""
    rows = []
    made = [(count, module_shapes(_HIDDEN_70B, _INNER_70B, count), ["task_arithmetic"]) for count in layers]
    if methods:
        made.append((0, {"model.layers.0.mlp.down_proj": (_HIDDEN_70B, _INNER_70B)}, methods))
    for count, shapes, wanted in made:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_adapters(folder, shapes, count=4, rank=16, base="70b-shapes", dtype=torch.bfloat16)
            for method in wanted:
                exact = method == "task_arithmetic"
                rows.append({"layers": count, **merged_apart(folder, method, None if exact else 16)})
                print(f"70B, {count} layers, {method}: {rows[-1]['peak_gib']:.2f} GiB", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure and write the page."""
    given = parse()
    if given.page_only:
        found = json.loads((given.out / "figures.json").read_text(encoding="utf-8"))
        write_page(given.out, page(found), found)
        return
    torch.set_num_threads(1)
    began, load = time.process_time(), [round(os.getloadavg()[0], 1)]
    found = {"rounds": given.rounds, "versions": versions()}
    found["sweeps"] = swept(all_sweeps(given.smallest), given.rounds, given.seed)
    found["processes"] = shared(given.processes, given.rounds)
    found["memory"] = at_70b_shapes(given.layers_70b, given.one_module)
    children = os.times()
    found["cpu_seconds"] = time.process_time() - began + children.children_user + children.children_system
    found["load_average"] = [*load, round(os.getloadavg()[0], 1)]
    write_page(given.out, page(found), found)


if __name__ == "__main__":
    main()
