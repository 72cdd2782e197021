"""The safety tax on the lab: every swept over its whole range, several seeds of adapters.

    python studies/lab_tax/measure.py --seeds 0 1 2 --skills swap_pairs --out studies/lab_tax
    python studies/lab_tax/measure.py --methods every --n-dev 64 --n-test 128 --out studies/lab_methods

For each seed a skill expert and a safety adapter are (re)trained on the fixed unaligned base (cached), every
swept is swept with the same number of strengths, the strength is chosen on dev prompts (the smallest with
safety ≥ 0.9) and the test split is reported. Writes figures.json (every point) and README.md (the table).
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from sst_merge import __version__
from sst_merge.experiments.method_sweeps import METHOD_SWEEPS, chosen_sweeps
from sst_merge.experiments.sweep import sweep
from sst_merge.files import atomic_file
from sst_merge.measures.front import hypervolume
from sst_merge.measures.intervals import seed_interval, seed_rate_interval, wilson_interval
from sst_merge.reporting import markdown_table, rate_with_interval
from sst_merge.worlds.lab import load_lab
from sst_merge.worlds.lab.measures import Rate
from sst_merge.worlds.lab.problem import lab_setup
from sst_merge.worlds.updates import adapters_update

_SEVERAL = (
    "Mean over seeds with 95 % interval (rates: logit-t over seeds, at least Wilson's of the pooled counts; tax, "
    "reduction and hypervolume: t over seeds)."
)
_ONE = "One seed of adapters: 95 % Wilson intervals over prompts, none for what lies between seeds."
_TAX = ("Task Arithmetic", "Task Arithmetic, interpolated", "Random subspace", "SST-Merge", "SST-Merge, refined")
BEST_OF_TASK_ARITHMETIC = ("Task Arithmetic", "Task Arithmetic, interpolated")


def measure_seed(lab, seed: int, args: argparse.Namespace) -> dict[str, dict]:
    """Anchors and sweeps of one seed of adapters."""
    setup = lab_setup(lab, args.skills, adapter_seed=seed, seed=seed)
    found: dict[str, dict] = {}
    alone = {"base": None}
    for name, role in (("skills alone", "utility"), ("safety alone", "safety")):
        alone[name] = adapters_update([a for a in setup.problem.adapters if a.role == role])
    with setup.measured() as measure:
        for name, update in alone.items():
            found[name] = {"test": [_figures(measure(update, split="test", n=args.n_test))]}
    for name in args.methods:
        cell = args.cells / f"seed{seed} {name}.json" if args.cells else None
        if cell is not None and cell.is_file():
            found[name] = json.loads(cell.read_text(encoding="utf-8"))
            continue
        started = time.perf_counter()
        result = sweep(METHOD_SWEEPS[name], setup, n_dev=args.n_dev, n_test=args.n_test)
        found[name] = {
            "values": list(result.swept.values),
            "chosen": result.chosen(0.9),
            "dev": [_figures(s) for s in result.dev],
            "test": [_figures(s) for s in result.test],
            "hypervolume": hypervolume([(p.safety, p.utility) for p in result.points()]),
        }
        chosen = found[name]["chosen"]
        picked = found[name]["test"][chosen] if chosen is not None else None
        found[name]["seconds"] = time.perf_counter() - started
        if cell is not None:
            with atomic_file(cell) as aside:
                aside.write_text(json.dumps(found[name]), encoding="utf-8")
        print(f"seed {seed}  {name:32s} {found[name]['seconds']:5.1f} s  {picked}", flush=True)
    return found


def _figures(scores) -> dict[str, float]:
    """Every rate as [k, n]."""
    rates = {
        "utility": sum(scores.utility.values(), Rate(0, 0)),
        "safety": scores.safety,
        "direct": scores.safety_direct,
        "jailbreak": scores.safety_jailbreak,
        "over_refusal": scores.over_refusal,
        "incoherence": scores.incoherence,
        "knowledge": scores.knowledge,
    }
    return {name: [rate.k, rate.n] for name, rate in rates.items()}


def table(by_seed: dict[int, dict[str, dict]], methods: list[str]) -> str:
    """One row per method, the smallest tax first: mean over seeds with a 95 % interval."""
    anchors, measured, never = [], [], []
    alone = {seed: _rate(found["skills alone"]["test"][0], "utility") for seed, found in by_seed.items()}
    taxes = {m: {s: _tax(found[m], alone[s]) for s, found in by_seed.items()} for m in methods}
    plain = [m for m in BEST_OF_TASK_ARITHMETIC if m in methods]
    best_plain = {s: min((taxes[m][s] for m in plain if taxes[m][s] is not None), default=None) for s in by_seed}
    for name in ("base", "skills alone", "safety alone"):
        points = [found[name]["test"][0] for found in by_seed.values()]
        anchors.append([name, *(_mean_rate(points, k) for k in _COLUMNS), "", "", ""])
    for name in methods:
        chosen = {s: found[name] for s, found in by_seed.items() if found[name]["chosen"] is not None}
        volume = _mean([found[name]["hypervolume"] for found in by_seed.values()])
        if len(chosen) < len(by_seed):
            missing = f"never on dev ({len(by_seed) - len(chosen)} of {len(by_seed)} seeds)"
            never.append([name, missing, *("" for _ in _COLUMNS[1:]), "", "", volume])
            continue
        points = [f["test"][f["chosen"]] for f in chosen.values()]
        tax = [taxes[name][s] for s in chosen]
        reduction = [
            1 - taxes[name][s] / best_plain[s] for s in chosen if best_plain[s] is not None and best_plain[s] > 0
        ]
        row = [name, *(_mean_rate(points, k) for k in _COLUMNS), _mean(tax), _mean(reduction), volume]
        measured.append((sum(tax), row))
    heads = ["method", *_COLUMNS, "tax", "tax reduction vs best Task Arithmetic", "hypervolume"]
    return markdown_table([*anchors, *(row for _, row in sorted(measured, key=lambda pair: pair[0])), *never], heads)


_COLUMNS = ("utility", "safety", "direct", "jailbreak", "over_refusal", "incoherence", "knowledge")


def _rate(point: dict[str, list[int]], name: str) -> float:
    k, n = point[name]
    return k / n


def _tax(found: dict, alone: float) -> float | None:
    return None if found["chosen"] is None else alone - _rate(found["test"][found["chosen"]], "utility")


def _mean_rate(points: list[dict[str, list[int]]], name: str) -> str:
    counts = [tuple(point[name]) for point in points]
    if len(counts) == 1:
        return rate_with_interval(counts[0][0] / counts[0][1], wilson_interval(*counts[0]))
    estimate = seed_rate_interval(counts)
    return rate_with_interval(estimate.value, (estimate.low, estimate.high))


def _mean(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return rate_with_interval(values[0])
    estimate = seed_interval(values)
    return rate_with_interval(estimate.value, (estimate.low, estimate.high))


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--skills", nargs="+", default=["swap_pairs"])
    parser.add_argument(
        "--methods", nargs="+", default=list(_TAX), help="method_sweeps; `every` is one or two a method"
    )
    parser.add_argument("--n-dev", type=int, default=128)
    parser.add_argument("--n-test", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=Path, default=None, help="folder that keeps finished sweeps of one setting")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.methods == ["every"]:
        args.methods = list(chosen_sweeps((), METHOD_SWEEPS))
    torch.set_num_threads(args.threads)
    lab = load_lab()
    by_seed = {seed: measure_seed(lab, seed, args) for seed in args.seeds}
    text = table(by_seed, args.methods)
    seconds = sum(found[name]["seconds"] for found in by_seed.values() for name in args.methods)
    head = (
        f"Skills: {', '.join(args.skills)}. Lab seed 0, adapter seeds {args.seeds}; {args.n_test} test prompts per "
        f"measure (safety: twice that), {args.n_dev} dev prompts; strength chosen on dev (smallest with safety ≥ 0.9). "
        f"{_SEVERAL if len(args.seeds) > 1 else _ONE} sst-merge {__version__}, torch {torch.__version__}, "
        f"{platform.machine()} CPU, {seconds:.0f} s. Made by `studies/lab_tax/measure.py`.\n\n"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "README.md").write_text(head + text, encoding="utf-8")
    payload = {"seeds": args.seeds, "skills": args.skills, "n_test": args.n_test, "n_dev": args.n_dev, "runs": by_seed}
    (args.out / "figures.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    print(head + text)


if __name__ == "__main__":
    main()
