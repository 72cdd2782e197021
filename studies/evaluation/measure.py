"""Our runner against lm-evaluation-harness alone: the same task, model and batches, in the same run, turn by turn.

(a) One model that is in memory already: reading the task, building requests, answering and scoring. Ours also looks
    every answer up in, and writes it to, a file on disk. Ratio of times per turn; target ≤ 1.05.
(b) A base with several adapters: ours loads the base once and shares requests and tokens, lm-evaluation-harness loads
    base and adapter for each. How many times faster.

Option scoring is MMLU (5 examples) on stories260K where SST_MERGE_DATA names the data folder, and generation is the
lab's jailbreaks; both models are tiny, so that overhead weighs as much as it ever can. A third case is MMLU on a random
Llama of hidden size 256 with a vocabulary of 49,152 tokens, where ours computes logits at options alone.

    SST_MERGE_DATA=... python studies/evaluation/measure.py --out studies/evaluation
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import exp, log
from pathlib import Path
from typing import Any

import torch

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

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
    batch: int = BATCH


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
        (mmlu,) = get_suites(("mmlu",))
        found.append(Case("options, mmlu", str(base), mmlu, made, samples, False))
        large = large_vocabulary(work / "large")
        made = {f"random{seed}": random_adapter(large, work / f"large{seed}", seed) for seed in range(len(names))}
        # In batches of 16 the logits of lm-evaluation-harness would take 13 GB.
        found.append(Case("options, mmlu, 49,152 tokens", str(large), mmlu, made, samples, False, batch=4))
    return found


def large_vocabulary(folder: Path) -> Path:
    """A random Llama with the tokenizer of SmolLM2."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["SST_MERGE_DATA"]) / "tokenizers/smollm2_135m_instruct")
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
    served, loaded, found = ServedModel(models.lm, batch_size=case.batch, seed=0), load(case), []
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
    return HFLM(case.base, device="cpu", dtype="float32", batch_size=case.batch, **options)


def seconds(function: Callable[[], object]) -> float:
    """Processor time of a call: one thread computes, so on a machine of its own this is the wall time."""
    began = time.process_time()
    function()
    return time.process_time() - began


def measure(case: Case, repeats: int, folder: Path) -> dict[str, Any]:
    """Both parts of one case; who goes first changes from turn to turn."""
    settings = ModelSettings(device="cpu", dtype="float32", batch_size=case.batch)
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
    """Run all cases and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
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
    head = (
        f"Processor seconds, mean of {args.repeats} turns, and the geometric mean of the turns' ratios ours / "
        f"lm-evaluation-harness alone with its 95 % t-interval; {args.samples} samples, batches of {BATCH} (of 4 with "
        f"49,152 tokens), {args.threads} thread, a machine shared with other work (hence processor time). "
        f"{versions()}, lm_eval {version('lm_eval')}. Made by "
        "`studies/evaluation/measure.py`.\n\n"
        "“One model” is in memory before the clock starts, and ours writes every answer to disk as well; target "
        "≤ 1.05. With several adapters, ours loads the base once and shares requests and tokens; "
        "lm-evaluation-harness loads base and adapter for each, and both loads are in the time. The answers are the "
        "same bit for bit (`tests/evaluation/test_evaluation_harness.py`), those with 49,152 tokens up to rounding "
        "(`tests/evaluation/test_option_scoring.py`): there ours computes logits at options alone, and reads once what "
        "the questions of a batch begin with.\n\n"
    )
    text = "# Speed of the evaluation\n\n" + head + markdown_table(rows, ["task", "models", "ours", "alone", "ratio"])
    write_page(args.out, text, results)


if __name__ == "__main__":
    main()
