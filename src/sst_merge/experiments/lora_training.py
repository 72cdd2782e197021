"""Train one LoRA adapter of a real model's configuration: ``python -m sst_merge.experiments.lora_training``."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data_loader import RowLike
    from .model_config import LoraTraining

__all__ = ["main", "train_lora"]


def train_lora(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: "Sequence[RowLike]",
    how: "LoraTraining",
    out: Path,
    *,
    seed: int,
    max_length: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """AdamW with linear warm-up and cosine decay on the answers' tokens; the adapter folder appears when complete.

    Args:
        model: the base, on its device; its weights are frozen.
        tokenizer: its tokenizer.
        rows: prompts and answers.
        how: all settings.
        out: PEFT folder to make.
        seed: of initialisation, dropout and order.
        max_length: longest sequence in tokens.
        progress: called with (steps done, all steps).

    Returns:
        Mean loss per answer token of every step.

    Raises:
        DataError: no rows.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from ..data_loader import encode_rows
    from ..files import atomic_folder

    if not rows:
        raise DataError("no rows to train on; check the adapter's data section")
    torch.manual_seed(seed)
    if how.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    adapted: Any = get_peft_model(model, LoraConfig(
        r=how.rank, lora_alpha=how.alpha, lora_dropout=how.dropout, target_modules=list(how.target_modules),
        task_type="CAUSAL_LM",
    ))  # fmt: skip
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=0.0)
    per_step = how.batch * how.accumulation
    steps = max(1, math.ceil(len(rows) * how.epochs / per_step))
    order, losses = _Order(len(rows), random.Random(seed)), list[float]()
    adapted.train()
    for step in range(steps):
        chosen = [rows[order.next()] for _ in range(min(per_step, len(rows)))]
        batches = encode_rows(chosen, tokenizer, batch_size=how.batch, max_length=max_length, device=model.device)
        tokens = sum(int((batch.labels[:, 1:] != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            logits = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
            (loss / tokens).backward()  # type: ignore[no-untyped-call]  # torch's own gap
            total += float(loss.detach())
        losses.append(total / tokens)
        for group in optimiser.param_groups:
            group["lr"] = how.learning_rate * _schedule(step, steps, math.ceil(how.warmup * steps))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1, steps)
    with atomic_folder(out, force=False) as folder:
        adapted.save_pretrained(folder, save_embedding_layers=False)
    return losses


class _Order:
    """Every row once in random order, then again in another one."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._count, self._rng, self._left = count, rng, list[int]()

    def next(self) -> int:
        if not self._left:
            self._left = list(range(self._count))
            self._rng.shuffle(self._left)
        return self._left.pop()


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@click.command(help="Train the adapter NAME of a real model's CONFIG.")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--device", default="auto", show_default=True)
def main(config: Path, name: str, seed: int, out: Path, device: str) -> None:
    """Load the model, train, write.

    Args:
        config: YAML file.
        name: of the adapter in it.
        seed: of the training.
        out: PEFT folder to make.
        device: where the model goes; auto takes a GPU where there is one.

    Raises:
        ConfigError: there is no such adapter.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..cli.console import progress_bars
    from ..data_loader import load_rows
    from .model_config import load_model_config

    settings = load_model_config(config)
    plan = next((adapter for adapter in settings.adapters if adapter.name == name), None)
    if plan is None:
        raise ConfigError(f"{config}: no adapter {name!r}; there are {', '.join(a.name for a in settings.adapters)}")
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    if settings.chat_template != "tokenizer":
        tokenizer.chat_template = settings.chat_template
    rows = load_rows(plan.data, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(settings.model, torch_dtype=getattr(torch, settings.dtype)).to(place)
    with progress_bars() as progress:
        losses = train_lora(
            model, tokenizer, rows, settings.training, out, seed=seed, max_length=plan.data.max_length,
            progress=lambda done, total: progress(f"training {name}", done, total),
        )  # fmt: skip
    click.echo(f"{out}  loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
