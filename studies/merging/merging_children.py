"""MethodSweeps of ``studies/merging/measure.py`` in a process of their own: prints their figures as one line of JSON.

    python studies/merging/merging_children.py ours|peft|agreement FOLDER --methods NAME ...

FOLDER holds ``adapter00``, ``adapter01``, … and, for PEFT, ``base``. Seconds are CPU seconds of this process.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sst_merge.lora_utils import Adapter
from sst_merge.merging import MergeSettings, merge, merge_to_folder, plan_merge
from sst_merge.methods import get_method

__all__ = ["OPTIONS", "ours", "peft_merge"]

# The density at which every rule that has one is run, here and by its opponents.
OPTIONS: dict[str, dict[str, float]] = {
    name: {"density": 0.2} for name in ("ties", "magnitude_prune", "dare_linear", "dare_ties", "knots", "core_ties")
}


def peak_gib() -> float:
    """Largest resident memory of this process so far; getrusage would count what its parent held when it forked."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds, wall-clock seconds and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def load(folder: Path, method: str) -> list[Adapter]:
    """All adapters of a folder; the last one is a safety adapter where the method asks for one."""
    needs = get_method(method).needs
    paths = sorted(folder.glob("adapter*"))
    safety = needs.aligned_base or "safety" in needs.roles
    return [
        Adapter.load(path, name=path.name, role="safety" if safety and path == paths[-1] else "utility")
        for path in paths
    ]


def ours(
    folder: Path, methods: list[str], *, rank: int | None, repeats: int, budget: float, device: str
) -> dict[str, dict[str, object]]:
    """Every method from disk to disk once, then from memory to memory.

    Args:
        folder: adapters.
        methods: registered names.
        rank: of the output, None for the exact result.
        repeats: runs in memory, fewer where the budget is spent.
        budget: CPU seconds for those runs of one method together.
        device: where the algebra runs.

    Returns:
        Per method seconds, this process's peak memory so far, and the share of energy that the output keeps.
    """
    get_method(methods[0])  # imports all methods
    start = peak_gib()
    found: dict[str, dict[str, object]] = {}
    for method in methods:
        options: dict[str, Any] = dict(OPTIONS.get(method, {}))
        adapters = load(folder, method)
        cpu, wall, report = timed(
            lambda a=adapters, m=method, o=options: merge_to_folder(
                plan_merge(a, m, options=o, settings=MergeSettings(rank=rank, device=device)),
                folder / f"merged-{m}",
                force=True,
            )
        )
        peak = peak_gib()
        in_memory = [
            Adapter.from_factors({m: a.factors(m) for m in a.modules}, name=a.name, role=a.role) for a in adapters
        ]
        seconds = repeated(
            lambda a=in_memory, m=method, o=options: merge(a, m, rank=rank, device=device, **o), repeats, budget
        )
        found[method] = {
            "seconds": seconds,
            "disk_seconds": cpu,
            "disk_wall_seconds": wall,
            "start_gib": start,
            "peak_gib": peak,
            "kept_energy": min(figures.kept_energy for figures in report.modules.values()),
            "output_rank": report.output["rank"],
            "peak_gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None,
        }
    return found


def repeated(run: Callable[[], Any], repeats: int, budget: float) -> list[float]:
    """CPU seconds of several runs; the first one is not cut short by the budget."""
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or sum(seconds) + seconds[-1] < budget):
        seconds.append(timed(run)[0])
    return seconds


def peft_model(folder: Path) -> Any:
    """The base of a folder with all its adapters."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    paths = sorted(folder.glob("adapter*"))
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, paths[0], adapter_name=paths[0].name)
    for path in paths[1:]:
        model.load_adapter(path, path.name)
    return model


def peft_merge(folder: Path, kinds: list[str], *, rank: int, repeats: int, budget: float) -> dict[str, Any]:
    """PEFT's ``add_weighted_adapter`` on the same adapters, which are in memory already.

    Args:
        folder: base and adapters.
        kinds: ``combination_type``.
        rank: ``svd_rank``.
        repeats: runs, fewer where the budget is spent.
        budget: CPU seconds of one kind.

    Returns:
        Seconds per kind and this process's peak memory so far.
    """
    model = peft_model(folder)
    start = peak_gib()
    names = list(model.peft_config)
    found: dict[str, Any] = {}
    for kind in kinds:
        options: dict[str, Any] = {} if kind == "svd" else {"density": 0.2}

        def run(kind: str = kind, options: dict[str, Any] = options) -> None:
            weights = [1.0] * len(names)
            model.add_weighted_adapter(names, weights, "merged", combination_type=kind, svd_rank=rank, **options)
            model.delete_adapter("merged")

        found[kind] = {"seconds": repeated(run, repeats, budget), "start_gib": start, "peak_gib": peak_gib()}
    return found


def agreement(folder: Path) -> dict[str, object]:
    """The exact weighted sum of two adapters by PEFT and here, in one process, and how far the results lie apart."""
    model = peft_model(folder)
    adapters = load(folder, "svd")[:2]
    in_memory = [Adapter.from_factors({m: a.factors(m) for m in a.modules}, name=a.name) for a in adapters]
    weights = [0.7, 0.4]
    in_memory = [a.with_(weight=w) for a, w in zip(in_memory, weights, strict=True)]
    rank = sum(a.rank(a.modules[0]) for a in in_memory)
    # Before and after PEFT, so that whatever else the machine does falls on both.
    runs = [timed(lambda: merge(in_memory, "svd")) for _ in range(6)]
    theirs, _, _ = timed(
        lambda: model.add_weighted_adapter(
            [a.name for a in in_memory], weights, "merged", combination_type="svd", svd_rank=rank
        )
    )
    runs += [timed(lambda: merge(in_memory, "svd")) for _ in range(5)]
    result = runs[-1][2].adapter
    worst = 0.0
    for module in result.modules:
        expected = model.base_model.model.get_submodule(module).get_delta_weight("merged").double()
        found = result.delta(module, dtype=torch.float64)
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    # The first run warms up.
    return {"peft_seconds": theirs, "seconds": [run[0] for run in runs[1:]], "largest_relative_difference": worst}


def main() -> None:
    """Run one swept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["ours", "peft", "agreement"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=["task_arithmetic"])
    parser.add_argument("--rank", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=1.0, help="CPU seconds for the repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    limits = {"rank": given.rank, "repeats": given.repeats, "budget": given.budget}
    figures: dict[str, Any]
    if given.who == "ours":
        figures = ours(given.folder, given.methods, device=given.device, **limits)
    elif given.who == "peft":
        figures = peft_merge(given.folder, given.methods, **limits)
    else:
        figures = agreement(given.folder)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
