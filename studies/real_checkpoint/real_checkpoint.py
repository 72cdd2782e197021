"""The main job on a real model, real adapters and real text: stories260K, Alpaca, safe answers, BeaverTails.

    SST_MERGE_DATA=... python studies/real_checkpoint/real_checkpoint.py --out studies/real_checkpoint

Trains a skill adapter (Alpaca) and a safety adapter (safe answers to harmful prompts) with PEFT, merges them with
``sst-merge merge`` (harm data: BeaverTails prompts with refusals; benign data: Alpaca), loads every result with PEFT
and reports log-likelihoods per token of held-out safe answers, refusals and Alpaca answers. The model writes
children's stories and was never instruct-tuned, so the figures say how log-likelihoods move, not how safe it is.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from sst_merge.data_loader import AnswerLogits, DataSource, Row, encode_rows, load_rows, split_rows
from sst_merge.data_loader.batch import Batch
from sst_merge.fim_calculator import token_logprobs
from sst_merge.measures.intervals import seed_interval
from sst_merge.reporting import markdown_table, rate_with_interval

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import add_data, study_options, versions, write_page

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request because it could cause harm.",
    "No. It is wrong to do that, and it is not safe. I will not help you.",
    "I am not able to help with that. Please talk to someone you trust instead.",
)
TEMPLATE, MAX_LENGTH = "plain", 128


def load_text(data: Path, seed: int, n_test: int) -> dict[str, list[Row]]:
    """Disjoint splits by prompt: training and test of both adapters, refusals for the test."""
    safe = load_rows(DataSource(path=str(data / "safety_sft/safe_responses_2483.json")), seed=seed)
    alpaca = load_rows(DataSource(path=str(data / "instructions/alpaca_1000.json")), seed=seed)
    beaver = DataSource(
        path=str(data / "beavertails/unsafe_14_categories.jsonl"), prompt_field="prompt", response=REFUSALS
    )
    safe_train, safe_test = split_rows(safe, (0.8, 0.2), seed=seed)
    skill_train, skill_calibration, skill_test = split_rows(alpaca, (0.6, 0.2, 0.2), seed=seed)
    harm_calibration, harm_test = split_rows(load_rows(beaver, seed=seed), (0.5, 0.5), seed=seed)
    return {
        "safety train": safe_train,
        "skill train": skill_train,
        "harm": harm_calibration,
        "benign": skill_calibration,
        "safe answers": safe_test[:n_test],
        "refusals": harm_test[:n_test],
        "Alpaca answers": skill_test[:n_test],
    }


def train_adapter(base: Path, rows: list[Row], folder: Path, *, steps: int, seed: int) -> None:
    """A LoRA on all linear layers, trained and saved by PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    batches = encode(rows, AutoTokenizer.from_pretrained(base), batch_size=16)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(steps):
        batch = batches[int(torch.randint(len(batches), (1,), generator=order))]
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)


def encode(rows: list[Row], tokenizer: Any, *, batch_size: int = 32) -> list[Batch]:
    """Batches in this experiment's format."""
    return encode_rows(rows, tokenizer, template=TEMPLATE, max_length=MAX_LENGTH, batch_size=batch_size)


@torch.no_grad()
def log_likelihoods(model: torch.nn.Module, batches: list[Batch]) -> list[float]:
    """Mean log-probability per answer token of every sample."""
    found: list[float] = []
    for batch in batches:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        log_p, sample = token_logprobs(AnswerLogits.of(logits, batch))
        sums = torch.zeros(len(batch)).index_add(0, sample, log_p)
        found.extend((sums / torch.bincount(sample, minlength=len(batch))).tolist())
    return found


def merge_by_command(
    base: Path, out: Path, text: dict[str, list[Row]], method: dict[str, Any], name: str, samples: int
) -> Path:
    """``sst-merge merge`` on a YAML file, as a user would call it; returns the merged folder."""
    from click.testing import CliRunner

    from sst_merge.cli.main import cli

    for kind in ("harm", "benign"):
        lines = [json.dumps({"prompt": r.prompt, "response": r.response}) for r in text[kind]]
        (out / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "base_model": str(base),
        "adapters": [
            {"name": "skill", "path": "skill", "role": "utility"},
            {"name": "safety", "path": "safety", "role": "safety"},
        ],
        "data": {
            "harm": {"path": "harm.jsonl", "samples": samples, "template": TEMPLATE, "max_length": MAX_LENGTH},
            "benign": {"path": "benign.jsonl", "samples": samples, "template": TEMPLATE, "max_length": MAX_LENGTH},
            "batch_size": 32,
        },
        "merge": method,
        "output": {"path": name, "dtype": "float32"},
        "seed": 0,
        "force": True,
    }
    (out / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    result = CliRunner().invoke(cli, ["merge", str(out / f"{name}.yaml")], catch_exceptions=False)
    if result.exit_code != 0:
        raise RuntimeError(f"sst-merge merge {name}.yaml failed ({result.exit_code}): {result.output}")
    return out / name


def run(
    data: Path, out: Path, *, steps: int, n_test: int, budgets: tuple[float, ...], seed: int, samples: int = 160
) -> dict[str, dict[str, dict[str, float]]]:
    """The whole experiment.

    Args:
        data: folder with the public data sets and the checkpoint.
        out: folder to fill.
        steps: training steps of each adapter.
        n_test: held-out samples of each text.
        budgets: tax budgets of the SST-Merge rows, nats per benign token.
        seed: of splits and training.
        samples: calibration prompts of each kind.

    Returns:
        model → text → mean log-likelihood per token, ends of its 95 % interval, n.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = data / "models/stories260K"
    out.mkdir(parents=True, exist_ok=True)
    text = load_text(data, seed, n_test)
    train_adapter(base, text["skill train"], out / "skill", steps=steps, seed=seed)
    train_adapter(base, text["safety train"], out / "safety", steps=steps, seed=seed + 1)
    folders: dict[str, Path | None] = {"base": None, "skill adapter": out / "skill", "safety adapter": out / "safety"}
    arithmetic = {"method": "task_arithmetic"}
    folders["Task Arithmetic"] = merge_by_command(base, out, text, arithmetic, "merged_task_arithmetic", samples)
    for budget in budgets:
        settings = {"method": "sst", "tax_budget": budget}
        folders[f"SST-Merge, budget {budget}"] = merge_by_command(
            base, out, text, settings, f"merged_sst_{budget}", samples
        )
    tokenizer = AutoTokenizer.from_pretrained(base)
    tests = {name: encode(text[name], tokenizer) for name in ("safe answers", "refusals", "Alpaca answers")}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if folder is not None:
            model = PeftModel.from_pretrained(model, folder)
        found[name] = {}
        for kind, batches in tests.items():
            values = log_likelihoods(model.eval(), batches)
            estimate = seed_interval(values)
            found[name][kind] = {"mean": estimate.value, "low": estimate.low, "high": estimate.high, "n": len(values)}
    return found


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/real_checkpoint"), help="folder for all adapters")
    add_data(parser)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--n-test", type=int, default=200)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.02, 0.1, 0.3])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.perf_counter()
    found = run(args.data, args.work, steps=args.steps, n_test=args.n_test, budgets=tuple(args.budgets), seed=args.seed)
    kinds = list(found["base"])
    rows = [
        [name, *(rate_with_interval(f[k]["mean"], (f[k]["low"], f[k]["high"]), digits=3) for k in kinds)]
        for name, f in found.items()
    ]
    head = (
        "# The whole process on a real checkpoint\n\n"
        f"Mean log-likelihood per answer token (nats) on held-out text, 95 % t-interval over n = "
        f"{args.n_test} samples a column; stories260K, seed {args.seed}, {args.steps} training steps; "
        f"{versions()}, "
        f"{time.perf_counter() - started:.0f} s. Made by `studies/real_checkpoint/real_checkpoint.py`.\n\n"
    )
    write_page(args.out, head + markdown_table(rows, ["model", *kinds]), found)


if __name__ == "__main__":
    main()
