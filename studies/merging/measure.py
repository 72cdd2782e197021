"""Time and memory of every data-free merge method, against PEFT and mergekit on the same adapters in the same run.

(a) Llama with hidden size 1024, all linear layers, r = 16, n adapters: every registered data-free method by ``merge``
    with output rank 16, beside PEFT's ``add_weighted_adapter`` on ΔW with ``svd_rank`` 16, where PEFT has the same
    rule. Time grows in proportion to the layers, so a few are enough; both sides get the same.
(b) mergekit on full weights followed by ``mergekit-extract-lora`` to rank 16, from disk to disk, beside
    ``merge_to_folder`` from disk to disk. Needs ``--mergekit-python``, the Python of an environment with mergekit
    (``make test-mergekit`` makes one).
(c) The exact weighted sum: two adapters beside PEFT's ``svd`` of full rank, with the largest difference of ΔW.
(d) Twenty adapters at Llama-2-7B shapes: peak memory of every data-free method at output rank 16, one module of the
    largest shape (memory holds one module at a time), and the exact weighted sum (rank 320) of several layers.

MethodSweeps run in processes of their own (``merging_children.py``), in (b) and (d) one process for every method, so
that peak resident memory is its own; seconds are CPU seconds of one thread, without start-up and imports.

    python studies/merging/measure.py --out studies/merging [--parts abcd] [--mergekit-python PATH]

A run on a busy machine can be made in pieces: ``--keep`` keeps the rows that it does not measure.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from merging_inputs import module_shapes, write_adapters
from merging_page import page

from sst_merge.methods import MergeMethod, available_methods

__all__ = ["COUNTERPARTS", "main"]

HERE = Path(__file__).resolve().parent
HIDDEN, INNER = 1024, 2816
# PEFT's combination types that work on ΔW, and so by the same rule as the method (where DARE's draws differ).
COUNTERPARTS = {
    "svd": "svd",
    "ties": "ties_svd",
    "magnitude_prune": "magnitude_prune_svd",
    "dare_linear": "dare_linear_svd",
    "dare_ties": "dare_ties_svd",
}
MERGEKIT = {"task_arithmetic": "task_arithmetic", "ties": "ties", "dare_ties": "dare_ties", "della": "della"}


def left_out(method: MergeMethod) -> str | None:
    """Why a method is not measured, or None."""
    if method.needs.data:
        return "reads calibration data through a model: its time is the model's (see studies/fisher)"
    return "reads the base's weights" if method.needs.base else None


def child(who: str, folder: Path, *more: str, threads: int, device: str = "cpu") -> dict[str, Any]:
    """Figures of one swept in its own process."""
    command = [sys.executable, str(HERE / "merging_children.py"), who, str(folder), *more]
    command += ["--threads", str(threads)] + (["--device", device] if who == "ours" else [])
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment(threads))
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measured(command: list[str], *, threads: int) -> tuple[float, float]:
    """CPU seconds and peak GiB of a foreign program."""
    environment = _environment(threads) | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def against_peft(methods: list[str], given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Part (a): one row per number of adapters and method, all of one number and one side in one process."""
    rows = []
    for count in given.counts:
        inputs = prepared(folder, count, given.layers)
        figures = child(
            "ours", inputs, "--methods", *methods, "--rank", "16", "--repeats", str(given.repeats),
            threads=given.threads, device=given.device,
        )  # fmt: skip
        progress(f"(a) n={count}: " + ", ".join(f"{m} {min(f['seconds']):.2f} s" for m, f in figures.items()))
        kinds = [COUNTERPARTS[name] for name in methods if name in COUNTERPARTS]
        theirs: dict[str, Any] = {}
        if kinds:
            theirs = child("peft", inputs, "--methods", *kinds, "--rank", "16", "--repeats", "1", threads=given.threads)
        progress(f"(a) n={count}: " + ", ".join(f"PEFT {m} {min(f['seconds']):.2f} s" for m, f in theirs.items()))
        for name in methods:
            row = {"adapters": count, "method": name, "ours": figures[name]}
            if name in COUNTERPARTS:
                row["peft"] = {"kind": COUNTERPARTS[name], **theirs[COUNTERPARTS[name]]}
            rows.append(row)
    return rows


def against_mergekit(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Part (b)."""
    programs = given.mergekit_python.parent
    merge_program, extract_program = str(programs / "mergekit-yaml"), str(programs / "mergekit-extract-lora")
    idle = sum(measured([program, "--help"], threads=given.threads)[0] for program in (merge_program, extract_program))
    found = []
    for count in given.counts:
        inputs = prepared(folder, count, given.mergekit_layers)
        for name, theirs in MERGEKIT.items():
            if count not in given.mergekit_counts or name not in given.mergekit_methods:
                continue
            work = inputs / f"mergekit-{name}"
            work.mkdir()
            models = [
                {"model": f"{inputs / 'base'}+{path}", "parameters": {"weight": 1.0, "density": 0.2, "epsilon": 0.1}}
                for path in sorted(inputs.glob("adapter*"))
            ]
            config = {"merge_method": theirs, "base_model": str(inputs / "base"), "models": models, "dtype": "float32"}
            (work / "config.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
            merged = [merge_program, str(work / "config.yml"), str(work / "merged")]
            merged += ["--lora-merge-cache", str(work / "cache")]
            extracted = [extract_program, "--model", str(work / "merged"), "--base-model", str(inputs / "base")]
            extracted += ["--out-path", str(work / "lora"), "--max-rank", "16"]
            steps = [measured(command, threads=given.threads) for command in (merged, extracted)]
            for needed in ("merged/model.safetensors", "lora/adapter_model.safetensors"):
                if not (work / needed).exists():
                    raise SystemExit(f"mergekit wrote no {needed} under {work}")
            ours = child(
                "ours", inputs, "--methods", name, "--rank", "16", "--repeats", "0",
                threads=given.threads, device=given.device,
            )[name]  # fmt: skip
            found.append({
                "adapters": count, "layers": given.mergekit_layers, "method": name,
                "seconds": sum(s for s, _ in steps) - idle, "peak_gib": max(gib for _, gib in steps),
                "ours_seconds": ours["disk_seconds"], "ours_peak_gib": ours["peak_gib"],
            })  # fmt: skip
            progress(f"(b) n={count} {name}: mergekit {found[-1]['seconds']:.1f} s, {found[-1]['peak_gib']:.2f} GiB")
    release = subprocess.run(
        [str(given.mergekit_python), "-c", "from importlib.metadata import version; print(version('mergekit'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return {"version": release, "idle_seconds": idle, "rows": found}


def at_7b_shapes(methods: list[str], given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Part (d)."""
    largest = {"model.layers.0.mlp.down_proj": (4096, 11008)}
    write_adapters(folder / "one", largest, count=20, rank=16, base="llama-2-7b-shapes", dtype=torch.bfloat16)
    rows = []
    for name in methods:
        figures = child(
            "ours", folder / "one", "--methods", name, "--rank", "16", "--repeats", "0",
            threads=given.threads, device=given.device,
        )[name]  # fmt: skip
        rows.append({"method": name, **figures})
        progress(f"(d) {name}: {figures['peak_gib']:.2f} GiB, {figures['disk_seconds']:.1f} s")
    shapes = module_shapes(4096, 11008, given.layers_7b)
    write_adapters(folder / "sum", shapes, count=20, rank=16, base="llama-2-7b-shapes", dtype=torch.bfloat16)
    exact = child(
        "ours", folder / "sum", "--methods", "task_arithmetic", "--repeats", "0",
        threads=given.threads, device=given.device,
    )["task_arithmetic"]  # fmt: skip
    return {"rows": rows, "exact_sum": {"layers": given.layers_7b, **exact}}


def prepared(folder: Path, count: int, layers: int) -> Path:
    """A folder with a base and ``count`` adapters, made on the first call."""
    inputs = folder / f"n{count}-{layers}"
    if not inputs.exists():
        sizes = [str(size) for size in (HIDDEN, INNER, layers)]
        command = [sys.executable, str(HERE / "merging_inputs.py"), str(inputs / "base"), *sizes]
        subprocess.run(command, check=True, capture_output=True)
        shapes = module_shapes(HIDDEN, INNER, layers)
        write_adapters(inputs, shapes, count=count, rank=16, base=str(inputs / "base"), dtype=torch.float32)
    return inputs


def progress(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


def earlier(out: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Figures of an earlier run with the same settings."""
    if out is None or not (out / "figures.json").exists():
        raise SystemExit("--keep needs the figures.json of an earlier run in --out")
    found: dict[str, Any] = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    if found.get("settings") != settings:
        raise SystemExit(f"--keep: the earlier run had other settings: {found.get('settings')}")
    return found


def joined_rows(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of two runs, the later one's where both have one."""
    rows = {(row.get("adapters", 0), row["method"]): row for row in (*before, *after)}
    return [rows[key] for key in sorted(rows)]


def joined(before: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, Any]:
    """A part of two runs."""
    return {**after, "rows": joined_rows(before["rows"] if before else [], after["rows"])}


def machine(given: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """What ran where; one entry per run for what runs differ in."""
    names = {"sst_merge": "sst-merge", "torch": "torch", "peft": "peft", "transformers": "transformers"}
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "processor": f"{os.cpu_count()} cores of {model or platform.machine()}",
        "python": platform.python_version(),
        **{name: version(package) for name, package in names.items()},
        "threads": str(given.threads),
        "device": given.device,
        "load_average": [*before.get("load_average", []), *([round(os.getloadavg()[0], 1)] if given.parts else [])],
        "runs": [*before.get("runs", []), *([f"--parts {given.parts}"] if given.parts else [])],
        "minutes": before.get("minutes", []),
    }


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def main() -> None:
    """Run the parts asked for and write ``merging.md`` and ``figures.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="abcd", help="which of a, b, c and d; none with --keep writes the page anew")
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 8, 20], help="numbers of adapters")
    parser.add_argument("--layers", type=int, default=1, help="layers in (a) and (c), 16 in the model meant")
    parser.add_argument("--mergekit-layers", type=int, default=16, help="layers in (b), whose memory grows with them")
    parser.add_argument("--layers-7b", type=int, default=2, help="layers of the exact sum in (d), 32 in Llama-2-7B")
    parser.add_argument("--repeats", type=int, default=5, help="runs of ours in memory, 5 CPU seconds at most")
    parser.add_argument("--methods", nargs="+", default=None, help="all data-free ones by default")
    parser.add_argument("--mergekit-python", type=Path, default=None, help="Python of an environment with mergekit")
    parser.add_argument("--mergekit-counts", type=int, nargs="+", default=[2, 8, 20])
    parser.add_argument("--mergekit-methods", nargs="+", default=list(MERGEKIT), choices=list(MERGEKIT))
    parser.add_argument("--device", default="cpu", help="of ours; the others run on the CPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keep", action="store_true", help="keep the rows of an earlier run that this one does not measure"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for README.md and figures.json")
    given = parser.parse_args()
    began = time.perf_counter()
    all_methods = available_methods()
    skipped = {name: reason for name, method in all_methods.items() if (reason := left_out(method))}
    for name, reason in skipped.items():
        progress(f"left out: {name} {reason}")
    methods = [name for name in given.methods or all_methods if name not in skipped]
    settings = {"hidden": HIDDEN, "inner": INNER, "layers": given.layers, "rank": 16, "left_out": skipped}
    results = earlier(given.out, settings) if given.keep else {}
    results |= {"machine": machine(given, results.get("machine", {})), "settings": settings}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "a" in given.parts:
            results["a"] = joined_rows(results.get("a", []), against_peft(methods, given, folder))
        if "b" in given.parts and given.mergekit_python is None:
            progress("(b) left out: give --mergekit-python, the Python of an environment with mergekit")
        elif "b" in given.parts:
            results["b"] = joined(results.get("b"), against_mergekit(given, folder))
        if "c" in given.parts:
            results["c"] = child("agreement", prepared(folder, 2, given.layers), threads=given.threads)
        if "d" in given.parts:
            results["d"] = joined(results.get("d"), at_7b_shapes(methods, given, folder / "7b"))
    if given.parts:
        results["machine"]["load_average"].append(round(os.getloadavg()[0], 1))
        results["machine"]["minutes"].append(round((time.perf_counter() - began) / 60, 1))
    text = page(results)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "README.md").write_text(text, encoding="utf-8")
        (given.out / "figures.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
