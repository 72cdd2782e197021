"""A text world of random weights and a few rows of JSONL."""

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sst_merge.data_loader import Row, encode_rows

SPLITS = ("train", "calibration", "dev", "test")
TASKS: dict[str, dict[str, Any]] = {
    "colour": {"kind": "choice", "options": ["red", "green", "blue"]},
    "size": {"kind": "choice", "options": ["very small", "very large", "very"]},  # all begin alike, one ends early
    "fields": {"kind": "extract", "options": None},
}
BASES = ("unaligned", "aligned")
REFUSAL = "I cannot help with that."
WORDS = [f"word{i}" for i in range(120)]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}[end]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def words_of(kind: str, split: str, i: int) -> str:
    """A prompt of its own for every kind, split and number."""
    return f"{kind} {split} {' '.join(random.Random(f'{kind}/{split}/{i}').sample(WORDS, 3))} word{i}"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[end]", "[pad]", "[unknown]", "<|system|>", "<|user|>", "<|assistant|>"]
    kinds = ["harmful", "instruction", "lookalike", "general", "template", *TASKS, *SPLITS]
    answers = [
        "red",
        "green",
        "blue",
        "very",
        "small",
        "large",
        "a:",
        "b:",
        "I",
        "cannot",
        "help",
        "with",
        "that.",
        "ok",
    ]
    words = [*special, *kinds, *answers, *WORDS, *(f"family{i}" for i in range(6))]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unknown]"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="[end]",
        pad_token="[pad]",
        unk_token="[unknown]",
        chat_template=TEMPLATE,
    )


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            eos_token_id=0,
            bos_token_id=None,
            pad_token_id=1,
        )
        return LlamaForCausalLM(config).eval()


def write_parts(root: Path) -> Path:
    """Bases, adapters and data; whoever changes them takes a copy."""
    for seed, base in enumerate(BASES):
        tiny_llama(seed).save_pretrained(root / base)
        tiny_tokenizer().save_pretrained(root / base)
        for k, name in enumerate((*TASKS, "safety")):
            _save_adapter(
                root / "adapters" / base / name, seed=10 * seed + k, base=seed, refuses=name == "safety" and seed == 0
            )
    data = root / "data"
    for name, task in TASKS.items():
        for split in SPLITS:
            rows = []
            for i in range(16):
                answer = task["options"][i % 3] if task["options"] else f"a: word{i} b: word{i + 1}"
                rows.append({"prompt": words_of(name, split, i), "response": answer})
            write_lines(data / "tasks" / f"{name}.{split}.jsonl", rows)
    (data / "tasks" / "tasks.json").write_text(json.dumps(TASKS), encoding="utf-8")
    for kind, answer in (
        ("harmful", REFUSAL),
        ("instruction", "ok word1 word2"),
        ("lookalike", "ok"),
    ):
        for split in SPLITS:
            rows = [{"prompt": words_of(kind, split, i), "response": answer} for i in range(16)]
            write_lines(data / f"{kind}.{split}.jsonl", rows)
    for split in ("dev", "test"):
        options = ["red", "green"]
        rows = [
            {"prompt": words_of("general", split, i), "options": options, "response": options[i % 2]} for i in range(16)
        ]
        write_lines(data / f"general.{split}.jsonl", rows)
    wrappers = [{"template": f"template family{i} [INSERT PROMPT HERE] ok", "family": f"f{i}"} for i in range(4)]
    write_lines(data / "templates.jsonl", wrappers)
    return root


def _save_adapter(folder: Path, *, seed: int, base: int, refuses: bool) -> None:
    """Random, or trained to refuse whatever is asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=refuses)
        model = get_peft_model(tiny_llama(base), lora)
        if refuses:
            rows = [Row(words_of("harmful", split, i), REFUSAL) for split in SPLITS[:2] for i in range(16)]
            (batch,) = encode_rows(rows, tiny_tokenizer(), batch_size=32)
            optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
            loss = torch.tensor(1.0)
            for _ in range(120):
                if loss < 0.02:
                    break
                optimiser.zero_grad()
                loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
                loss.backward()
                optimiser.step()
        else:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.mul_(0.1 if "lora_B" in name else 1.0)
    model.peft_config["default"].base_model_name_or_path = "tiny/base"
    model.save_pretrained(folder, save_embedding_layers=False)


def splits_of(kind: str, parts: tuple[str, ...] = SPLITS) -> dict[str, Any]:
    return {part: {"path": f"{kind}.{part}.jsonl"} for part in parts}


def world_file(root: Path, **changed: Any) -> Path:
    """The world's YAML beside its data; dotted names are fields of sections."""
    content: dict[str, Any] = {
        "title": "tiny",
        "data": "data",
        "base": {
            "model": "unaligned",
            "dtype": "float32",
            "aligned": str(root / "aligned"),
            "also_called": ["tiny/base"],
        },
        "tasks": {"folder": "tasks", "names": list(TASKS)},
        "harmful": splits_of("harmful"),
        "templates": {"path": "templates.jsonl"},
        "lookalike": splits_of("lookalike", ("dev", "test")),
        "instructions": splits_of("instruction"),
        "general": splits_of("general", ("dev", "test")),
        "adapters": {name: str(root / "adapters" / "{base}" / name) for name in (*TASKS, "safety")},
        "roles": {"expert": {}, "safety": {}},
        "answering": {"new_tokens": 7, "task_tokens": 5, "longest": 64, "batch_tokens": 64, "calibration_length": 64},
    }
    for name, value in changed.items():
        inner = content
        *sections, last = name.split("__")
        for section in sections:
            inner = inner[section]
        inner[last] = value
    path = root / "world.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
