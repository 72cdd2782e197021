"""Speed of ``train_adapter`` beside TRL's SFTTrainer: the same base, rows and recipe, in turns, in one run.

Every turn trains with each trainer from the start on the same rows for one epoch. What is timed is the steps alone:
loading, tokenising and writing are not in it. Time is the processor's, because a machine is seldom alone; one thread.
The figure is tokens of rows a second, padding left out; the ratio is the geometric mean over turns with its 95 %
t-interval. ``--base`` is a folder of SmolLM2-135M-Instruct; without it a random
model of its shapes with a tokenizer of words is made. TRL is no dependency of the package: install it beside it.

    python -m pip install trl==1.16.0
    python studies/training/measure.py --base SmolLM2-135M-Instruct --data trec.train.jsonl --data alpaca_1000.json
"""

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from scipy.stats import t as student
from torch.nn.functional import cross_entropy

from sst_merge.data_loader import AnswerLogits, DataSource, Row, load_base_model, load_rows, load_tokenizer
from sst_merge.measures.figure import Figure
from sst_merge.reporting import markdown_table
from sst_merge.training import TrainingRecipe, plan_training, train, train_adapter

__all__ = ["compared"]

_BEGINNING = 40


def random_base(folder: Path) -> tuple[Path, dict[str, list[Row]]]:
    """A model of SmolLM2-135M's shapes with random weights, and rows of two tasks that begin with 40 words each.

    Args:
        folder: where the model goes.

    Returns:
        The folder, and rows by the name of their task.
    """
    import random

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(49152)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2").save_pretrained(folder)
    rng = random.Random(0)
    draw: Callable[[int], str] = lambda count: " ".join(f"w{rng.randrange(3, 49152)}" for _ in range(count))  # noqa: E731
    rows = {}
    for task in ("first", "second"):
        begin = draw(_BEGINNING)
        rows[task] = [Row(f"{begin} {draw(rng.randint(15, 60))}", draw(rng.randint(1, 12))) for _ in range(400)]
    return folder, rows


def ours(base: Path, rows: Sequence[Row], recipe: TrainingRecipe, seed: int, *, share: bool, full: bool) -> float:
    """Processor seconds of the steps of our training.

    Args:
        base: folder.
        rows: what is trained on.
        recipe: how.
        seed: of the order.
        share: read common beginnings once.
        full: compute the vocabulary at every token, as transformers does when it is asked for logits.
    """
    with tempfile.TemporaryDirectory() as place, _changed(share, full):
        return train_adapter(base, rows, Path(place) / "out", recipe=recipe, seed=seed, device="cpu").seconds


@contextmanager
def _changed(share: bool, full: bool) -> Iterator[None]:
    before = train.can_share_prefix, train.answer_logits, train.time
    train.time = SimpleNamespace(perf_counter=time.process_time)
    if not share:
        train.can_share_prefix = lambda _model: False
    if full:
        train.answer_logits = _full_logits
    try:
        yield
    finally:
        train.can_share_prefix, train.answer_logits, train.time = before


def _full_logits(model: Any, batch: Any, *, prefix: int) -> AnswerLogits:
    assert prefix == 0
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    labels = batch.labels[:, 1:].flatten()
    return AnswerLogits(logits[:, :-1].flatten(0, 1), labels, labels)


@contextmanager
def _ignoring_prompts() -> Iterator[None]:
    """The loop's loss has no ignored labels; full logits have."""
    before = train.cross_entropy
    train.cross_entropy = partial(cross_entropy, ignore_index=-100)
    try:
        yield
    finally:
        train.cross_entropy = before


def trl(base: Path, rows: Sequence[Row], recipe: TrainingRecipe, seed: int, *, sampling: str) -> float:
    """Processor seconds of the steps of TRL's training.

    Args:
        base: folder.
        rows: what is trained on.
        recipe: how.
        seed: of the order.
        sampling: TRL's ``random`` or ``group_by_length``.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(str(base))
    if getattr(tokenizer, "chat_template", None) is None:
        records = [{"prompt": f"{row.prompt}\n", "completion": row.response} for row in rows]
    else:
        records = [
            {
                "prompt": [{"role": "user", "content": row.prompt}],
                "completion": [{"role": "assistant", "content": row.response}],
            }
            for row in rows
        ]
    steps = math.ceil(len(rows) / recipe.batch_size)
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            moments.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.process_time())

    with tempfile.TemporaryDirectory() as place:
        config = SFTConfig(
            output_dir=place,
            per_device_train_batch_size=recipe.batch_size,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(recipe.warmup * steps),
            max_grad_norm=recipe.clip,
            max_length=recipe.max_length,
            train_sampling_strategy=sampling,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=seed,
        )
        trainer = SFTTrainer(
            model=load_base_model(str(base), dtype="float32"),
            args=config,
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=recipe.rank, lora_alpha=recipe.alpha, target_modules=recipe.targets, task_type="CAUSAL_LM"
            ),
            callbacks=[Clock()],
        )
        trainer.train()
    assert len(moments) == 1 + steps
    return moments[-1] - moments[0]


def compared(ratios: Sequence[float]) -> Figure:
    """Geometric mean of ratios with its 95 % t-interval.

    Args:
        ratios: one a turn, at least two.
    """
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = student.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Figure(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def _trainers() -> dict[str, Callable[..., float]]:
    def full(*arguments: Any) -> float:
        with _ignoring_prompts():
            return ours(*arguments, share=False, full=True)

    return {
        "train_adapter": partial(ours, share=True, full=False),
        "without shared beginnings": partial(ours, share=False, full=False),
        "and with the logits of all tokens": full,
        "TRL, grouped by length": partial(trl, sampling="group_by_length"),
        "TRL, random order": partial(trl, sampling="random"),
    }


def main() -> None:
    """Measure and write figures.json and README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=None, help="folder; a random model of SmolLM2's shapes by default")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="rows: the first file alone, then all mixed"
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument(
        "--out", type=Path, default=Path("results/training"), help="folder for the page and its figures"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as place:
        if options.base is None:
            base, sources = random_base(Path(place))
        else:
            base = options.base
            sources = {file.name: load_rows(DataSource(path=file), seed=0) for file in options.data}
        recipe = TrainingRecipe(epochs=1, dtype="float32")
        name, first = next(iter(sources.items()))
        jobs = {name: first[: options.rows]}
        if len(sources) > 1:
            share = options.rows // len(sources)
            jobs[", ".join(sources)] = [row for rows in sources.values() for row in rows[:share]]
        figures = {
            "machine": f"{platform.machine()}, 1 thread, load {os.getloadavg()[0]:.1f} at the start",
            "base": "random" if options.base is None else options.base.name,
            "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "trl")},
            "turns": options.turns,
            "jobs": {name: _measured(base, rows, recipe, options.turns) for name, rows in jobs.items()},
        }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "figures.json").write_text(
        json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    page = _page(figures)
    (options.out / "README.md").write_text(page, encoding="utf-8")
    print(page)


def _measured(base: Path, rows: Sequence[Row], recipe: TrainingRecipe, turns: int) -> dict[str, Any]:
    plan = plan_training(rows, load_tokenizer(str(base)), recipe, seed=0)
    seconds: dict[str, list[float]] = {name: [] for name in _trainers()}
    for turn in range(turns):
        order = list(_trainers().items())
        for name, run in order[turn % len(order) :] + order[: turn % len(order)]:
            seconds[name].append(run(base, rows, recipe, turn))
            print(f"turn {turn} {name}: {seconds[name][-1]:.1f} s", flush=True)
    return {
        "rows": len(rows),
        "tokens": plan.tokens,
        "answer_tokens": plan.answer_tokens,
        "computed_tokens": plan.computed_tokens,
        "seconds": seconds,
    }


def _page(figures: dict[str, Any]) -> str:
    cells = []
    for job, found in figures["jobs"].items():
        mine = found["seconds"]["train_adapter"]
        for name, seconds in found["seconds"].items():
            ratio = compared([other / own for other, own in zip(seconds, mine, strict=True)])
            shown = "1" if name == "train_adapter" else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            cells.append((job, name, f"{found['tokens'] * len(seconds) / sum(seconds):.0f}", shown))
    sizes = "; ".join(
        f"{job}: {found['rows']} rows, {found['tokens']} tokens, {found['answer_tokens']} of them answers, "
        f"{found['computed_tokens']} computed by `train_adapter`"
        for job, found in figures["jobs"].items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    return f"""# Speed of training

Tokens of rows a processor second (padding left out) of one LoRA training in float32, rank 8, all linear layers, 16 rows
a step; the steps alone. Time: how many times as long as `train_adapter`, geometric mean of {figures["turns"]} turns
with its 95 % t-interval. Base: {figures["base"]}; {figures["machine"]}; {versions}.
Made by `studies/training/measure.py`.

{markdown_table(cells, ("rows", "trainer", "tokens/s", "time"))}
{sizes}.
"""


if __name__ == "__main__":
    main()
