"""Our runner against lm-evaluation-harness alone: the same task, model and batches, in the same run, turn by turn.

(a) One model that is in memory already: reading the task, building requests, answering and scoring. Ours also looks
    every answer up in, and writes it to, a file on disk. Ratio of times per turn; target ≤ 1.05.
(b) A base with several adapters: ours loads the base once and shares requests and tokens, lm-evaluation-harness loads
    base and adapter for each. How many times faster.

Option scoring is MMLU (5 examples) on stories260K where SST_MERGE_DATA names the data folder, and generation is the
lab's jailbreaks; both models are tiny, so that overhead weighs as much as it ever can.

    SST_MERGE_DATA=... python studies/evaluation/measure.py --out studies/evaluation
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import torch

from sst_merge import __version__
from sst_merge.evaluation import ModelSettings, check_adapters
from sst_merge.evaluation.adapters import EvaluatedAdapter
from sst_merge.evaluation.answers import AnswerStore
from sst_merge.evaluation.hf import HuggingFaceModels
from sst_merge.evaluation.loading import LoadedSuite, load_suites
from sst_merge.evaluation.serving import ServedModel
from sst_merge.evaluation.silence_libraries import quiet_libraries
from sst_merge.lora_utils import BaseModelIndex
from sst_merge.measures.intervals import seed_interval
from sst_merge.reporting import markdown_table, rate_with_interval
from sst_merge.suites import Suite, get_suites
from sst_merge.worlds.lab import load_lab

BATCH = 16


@dataclass(frozen=True)
class Case:
    """What is timed: a suite, its model, adapters on it, how many samples."""

    name: str
    base: str
    suite: Suite
    adapters: dict[str, Path]
    samples: int
    chat_template: bool


def cases(samples: int, work: Path) -> list[Case]:
    """Generation on the lab, and option scoring on real questions where the data folder is at hand."""
    lab = load_lab(0)
    names = ("safety", "reverse", "double")
    adapters = {name: lab.adapter_path(name) for name in names}
    found = [
        Case(f"generation, {suite.name}", str(lab.base_path("unaligned")), suite, adapters, samples, True)
        for suite in get_suites(("lab_harmful_jailbreak",))
    ]
    if os.environ.get("SST_MERGE_DATA"):
        base = Path(os.environ["SST_MERGE_DATA"]) / "models/stories260K"
        made = {f"random{seed}": random_adapter(base, work / f"random{seed}", seed) for seed in range(len(names))}
        found.append(Case("options, mmlu", str(base), get_suites(("mmlu",))[0], made, samples, False))
    return found


def random_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA with random B on all linear layers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).save_pretrained(folder)
    return folder


def load(case: Case) -> LoadedSuite:
    """The suite, read anew."""
    (loaded,) = load_suites([case.suite], samples=case.samples, seed=0)
    return loaded


def ours(case: Case, models: HuggingFaceModels, adapters: Sequence[EvaluatedAdapter | None], folder: Path) -> list[Any]:
    """All answers by our runner."""
    served, loaded, found = ServedModel(models.lm, batch_size=BATCH, seed=0), load(case), []
    for number, adapter in enumerate(adapters):
        models.use(adapter)
        with AnswerStore(Path(tempfile.mkdtemp(dir=folder)) / f"{number}.jsonl", {}) as store:
            served.store = store
            found.append(loaded.ask(served, str(number), chat_template=case.chat_template, allow_code=False))
    return found


def alone(case: Case, lm: Any) -> Any:
    """All answers by lm-evaluation-harness."""
    from lm_eval.evaluator import evaluate

    # Not simple_evaluate, which first reads all of the harness's own task files and describes the machine.
    return evaluate(
        lm,
        {"tasks": load(case).tasks},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=case.chat_template,
    )


def new_model(case: Case, adapter: Path | None = None) -> Any:
    """lm-evaluation-harness's own model."""
    from lm_eval.models.huggingface import HFLM

    options = {} if adapter is None else {"peft": str(adapter)}
    return HFLM(case.base, device="cpu", dtype="float32", batch_size=BATCH, **options)


def seconds(function: Callable[[], object]) -> float:
    """Processor time of a call: one thread computes, so on a machine of its own this is the wall time."""
    began = time.process_time()
    function()
    return time.process_time() - began


def measure(case: Case, repeats: int, folder: Path) -> dict[str, Any]:
    """Both parts of one case; who goes first changes from turn to turn."""
    settings = ModelSettings(device="cpu", dtype="float32", batch_size=BATCH)
    checked = check_adapters(case.adapters, BaseModelIndex.load(case.base))
    models, theirs = HuggingFaceModels(case.base, settings), new_model(case)
    ours(case, models, [None], folder)
    alone(case, theirs)

    def ours_several() -> None:
        ours(case, HuggingFaceModels(case.base, settings), [None, *checked], folder)

    def alone_several() -> None:
        for path in (None, *case.adapters.values()):
            alone(case, new_model(case, path))

    parts = {
        "one model": (lambda: ours(case, models, [None], folder), lambda: alone(case, theirs), repeats),
        f"base and {len(checked)} adapters": (ours_several, alone_several, repeats),
    }
    found: dict[str, Any] = {}
    for name, (mine, other, turns) in parts.items():
        pairs = []
        for turn in range(turns):
            first, second = (mine, other) if turn % 2 == 0 else (other, mine)
            times = seconds(first), seconds(second)
            pairs.append(times if turn % 2 == 0 else times[::-1])
        ratio = seed_interval([log(a / b) for a, b in pairs])
        found[name] = {
            "ours_seconds": [a for a, _ in pairs],
            "alone_seconds": [b for _, b in pairs],
            "ratio": [exp(value) for value in (ratio.value, ratio.low, ratio.high)],
        }
    return found


def main() -> None:
    """Run all cases and write ``evaluation.md`` and ``evaluation.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as work, quiet_libraries():
        results = {case.name: measure(case, args.repeats, Path(work)) for case in cases(args.samples, Path(work))}
    rows = []
    for name, parts in results.items():
        for part, figures in parts.items():
            value, low, high = figures["ratio"]
            mean = [sum(figures[key]) / len(figures[key]) for key in ("ours_seconds", "alone_seconds")]
            rows.append([name, part, *(f"{m:.2f}" for m in mean), rate_with_interval(value, (low, high), digits=3)])
    from importlib.metadata import version

    head = (
        f"Processor seconds, mean of {args.repeats} turns, and the geometric mean of the turns' ratios ours / "
        f"lm-evaluation-harness alone with its 95 % t-interval; {args.samples} samples, batches of {BATCH}, "
        f"{args.threads} thread, {platform.machine()} CPU shared with other work (hence processor time). sst-merge "
        f"{__version__}, lm_eval {version('lm_eval')}, torch {torch.__version__}. Made by "
        "`studies/evaluation/measure.py`.\n\n"
        "“One model” is in memory before the clock starts, and ours writes every answer to disk as well; target "
        "≤ 1.05. With several adapters, ours loads the base once and shares requests and tokens; "
        "lm-evaluation-harness loads base and adapter for each, and both loads are in the time. The answers are the "
        "same bit for bit (`tests/test_evaluation_harness.py`).\n\n"
    )
    text = "# Speed of the evaluation\n\n" + head + markdown_table(rows, ["task", "models", "ours", "alone", "ratio"])
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "README.md").write_text(text, encoding="utf-8")
        (args.out / "figures.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
