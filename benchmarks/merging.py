"""Time and memory of merging.

(a) Two r = 16 adapters of a Llama with hidden size 1024 and 16 layers, all linear layers: ``merge`` against
    PEFT's ``add_weighted_adapter(combination_type="svd")`` in the same run, both with the adapters in memory; ``merge``
    also from folders on disk, with its checks and hashes. The results are compared on every module.
(b) Twenty r = 16 adapters at Llama-2-7B shapes in bfloat16, merged exactly (rank 320) by ``merge_to_folder`` in a
    process of its own, whose peak resident memory is reported.

    python benchmarks/merging.py --out results/merging [--parts ab] [--device cpu]
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from sst_merge.lora_utils import Adapter, LoraFactors, write_adapter
from sst_merge.merging import MergeResult, merge, merge_to_folder

__all__ = ["against_peft", "at_7b_shapes"]

_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def against_peft(*, hidden: int, layers: int, rank: int, repeats: int, device: str, folder: Path) -> dict[str, object]:
    """Part (a).

    Args:
        hidden: size of the Llama.
        layers: its layers.
        rank: of both adapters.
        repeats: runs of ours before PEFT's one run, and again after it.
        device: where ours computes.
        folder: for the two adapters.

    Returns:
        Seconds, ratio and the largest relative difference of ΔW.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
    )
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_LINEARS), init_lora_weights=False)
    peft = get_peft_model(LlamaForCausalLM(config), lora, adapter_name="one")
    assert isinstance(peft, PeftModel)
    peft.add_adapter("two", lora)
    peft.save_pretrained(folder)
    adapters = [Adapter.load(folder / name, weight=weight) for name, weight in (("one", 0.7), ("two", 0.4))]
    in_memory = [
        Adapter.from_factors({m: a.factors(m) for m in a.modules}, name=a.name, weight=a.weight) for a in adapters
    ]
    disk: list[float] = []
    memory: list[float] = []

    def run_ours(times: int) -> MergeResult:
        for _ in range(times):
            for inputs, seconds in ((adapters, disk), (in_memory, memory)):
                began = time.perf_counter()
                result = merge(inputs, device=device)
                seconds.append(time.perf_counter() - began)
        return result

    # Before and after PEFT's minutes, so that whatever else the machine does falls on both.
    run_ours(repeats)
    began = time.perf_counter()
    peft.add_weighted_adapter(["one", "two"], [0.7, 0.4], "both", combination_type="svd", svd_rank=2 * rank)
    theirs = time.perf_counter() - began
    result = run_ours(repeats)
    worst = 0.0
    for module in result.adapter.modules:
        expected = peft.base_model.model.get_submodule(module).get_delta_weight("both").double()
        found = result.adapter.delta(module, dtype=torch.float64)
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    return {
        "modules": len(result.adapter.modules),
        "peft_svd_seconds": theirs,
        "memory_seconds": median(memory),
        "memory_seconds_all": memory,
        "memory_ratio": theirs / median(memory),
        "disk_seconds": median(disk),
        "disk_seconds_all": disk,
        "disk_ratio": theirs / median(disk),
        "largest_relative_difference": worst,
    }


def at_7b_shapes(*, adapters: int, rank: int, layers: int, device: str, folder: Path) -> dict[str, object]:
    """Part (b).

    Args:
        adapters: how many.
        rank: of each.
        layers: 32 for Llama-2-7B.
        device: where the algebra runs.
        folder: for inputs and output.

    Returns:
        Seconds, peak resident memory and sizes.
    """
    for index in range(adapters):
        write_adapter(
            folder / f"adapter{index:02d}",
            _random_modules(index, rank, layers),
            base_model="llama-2-7b-shapes",
            task_type="CAUSAL_LM",
            dtype=torch.bfloat16,
        )
    size = sum(file.stat().st_size for file in folder.glob("adapter*/adapter_model.safetensors"))
    command = [sys.executable, __file__, "--child", str(folder), "--device", device]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {"adapters": adapters, "rank": rank, "layers": layers, "input_gib": size / 2**30, **figures}


def _random_modules(seed: int, rank: int, layers: int) -> Iterator[tuple[str, LoraFactors]]:
    hidden, inner = 4096, 11008
    shapes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (hidden, hidden))
    shapes |= {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    generator = torch.Generator().manual_seed(seed)
    for layer in range(layers):
        for name, (d_out, d_in) in shapes.items():
            block = "self_attn" if name in {"q_proj", "k_proj", "v_proj", "o_proj"} else "mlp"
            b = torch.randn(d_out, rank, generator=generator) * 0.01
            a = torch.randn(rank, d_in, generator=generator) * 0.01
            yield f"model.layers.{layer}.{block}.{name}", LoraFactors(b, a)


def _child(folder: Path, device: str) -> None:
    """Merge what lies in a folder and print this process's own figures."""
    began = time.perf_counter()
    inputs = [Adapter.load(path) for path in sorted(folder.glob("adapter*"))]
    report = merge_to_folder(inputs, folder / "merged", dtype=torch.bfloat16, device=device)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    written = (folder / "merged" / "adapter_model.safetensors").stat().st_size
    figures = {
        "seconds": seconds,
        "peak_rss_gib": peak / 2**30,
        "output_gib": written / 2**30,
        "output_rank": report.output["rank"],
        "modules": len(report.modules),
        "peak_gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None,
    }
    print(json.dumps(figures))


def _markdown(results: dict[str, dict[str, object]]) -> str:
    lines = ["| figure | value | target |", "| --- | ---: | ---: |"]

    def row(name: str, value: object, target: str = "") -> None:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"| {name} | {shown} | {target} |")

    if part := results.get("a"):
        row("(a) PEFT svd, adapters in memory, seconds", part["peft_svd_seconds"])
        row("(a) ours, adapters in memory, seconds", part["memory_seconds"])
        row("(a) ratio, both in memory", part["memory_ratio"], "≥ 100")
        row("(a) ours, from disk with checks and hashes, seconds", part["disk_seconds"])
        row("(a) ratio, ours from disk", part["disk_ratio"])
        row("(a) largest relative difference of ΔW", part["largest_relative_difference"], "≤ 1e-5")
    if part := results.get("b"):
        row("(b) adapters at Llama-2-7B shapes", part["adapters"])
        row("(b) seconds", part["seconds"])
        row("(b) peak resident memory, GiB", part["peak_rss_gib"], "≤ 4")
        row("(b) inputs, GiB", part["input_gib"])
        row("(b) output, GiB", part["output_gib"])
        row("(b) output rank", part["output_rank"])
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts asked for and write ``merging.md`` and ``merging.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="ab", help="which of a and b")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16, help="layers in part (a)")
    parser.add_argument("--layers-7b", type=int, default=32, help="layers in part (b)")
    parser.add_argument("--adapters", type=int, default=20, help="adapters in part (b)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5, help="runs of ours before and after PEFT's in part (a)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="folder for merging.md and merging.json")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child is not None:
        _child(arguments.child, arguments.device)
        return
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if "a" in arguments.parts:
            results["a"] = against_peft(
                hidden=arguments.hidden,
                layers=arguments.layers,
                rank=arguments.rank,
                repeats=arguments.repeats,
                device=arguments.device,
                folder=Path(temporary) / "a",
            )
        if "b" in arguments.parts:
            results["b"] = at_7b_shapes(
                adapters=arguments.adapters,
                rank=arguments.rank,
                layers=arguments.layers_7b,
                device=arguments.device,
                folder=Path(temporary) / "b",
            )
    table = _markdown(results)
    print(table)
    if arguments.out is not None:
        machine = {"python": platform.python_version(), "torch": str(torch.__version__), "machine": platform.machine()}
        machine |= {"threads": str(arguments.threads), "device": arguments.device}
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "merging.md").write_text(table, encoding="utf-8")
        text = json.dumps({"machine": machine, **results}, indent=2)
        (arguments.out / "merging.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
