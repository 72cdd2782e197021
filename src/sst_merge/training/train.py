"""One LoRA adapter from a base and rows: PEFT's layers, accelerate's precision and device, written as one folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch

from .. import processes
from ..data_loader import (
    PLAIN,
    BaseAccess,
    Row,
    base_fingerprint,
    can_share_prefix,
    load_base_model,
    load_tokenizer,
    multiplies,
    resolve_device,
    torch_type,
)
from ..errors import OutputExistsError
from ..files import atomic_folder, file_sha256
from ..lora_utils import check_opens
from ..progress import Progress
from .checkpoint import Checkpoint
from .loop import Loop
from .plan import plan_training
from .recipe import ALL_LINEAR, TrainingRecipe
from .report import TrainingReport, deciding_versions, write_report
from .targets import check_targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["train_adapter", "training_dtype"]

_CONFIG_NAME = "adapter_config.json"


def train_adapter(
    base: str | Path,
    rows: Sequence[Row],
    out: str | Path,
    *,
    recipe: TrainingRecipe,
    seed: int,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    progress: Progress | None = None,
    device: str = "auto",
    force: bool = False,
    role: Literal["utility", "safety"] | None = None,
    sources: Mapping[str, int] = MappingProxyType({}),
    checkpoint_seconds: float = 300.0,
    access: BaseAccess = PLAIN,
) -> TrainingReport:
    """Train one LoRA adapter on the answers of rows, and write it as a PEFT folder.

    A run that was killed goes on where its last checkpoint was, if base, rows, recipe, seed and versions are the same.
    The same call on the same machine with the same number of threads gives the same weights, bit by bit on one thread.
    Inside :func:`~sst_merge.processes.joined` the rows of every step are shared by the processes.

    Args:
        base: folder or hub id of a causal language model.
        rows: prompts and answers.
        out: folder to make: adapter_config.json, adapter_model.safetensors, training_report.json, README.md.
        recipe: how.
        seed: of the initial A and of the order of rows.
        tokenizer: the base's own by default.
        progress: called with (stage, steps done, steps in all).
        device: ``cpu``, ``cuda``, ...; ``auto`` takes a GPU where there is one.
        force: replace an existing folder.
        role: what the adapter brings, for its report.
        sources: where the rows came from → how many, for its report.
        checkpoint_seconds: time between two checkpoints, which lie beside `out` while the training runs.
        access: what may be read of the base.

    Returns:
        What was done.

    Raises:
        OutputExistsError: `out` exists and `force` is off.
    """
    out = Path(out)
    if out.exists() and not force:
        raise OutputExistsError(f"{out} exists already; choose another output, or replace it with force (--force)")
    check_targets(base, recipe, access=access)
    tokenizer = load_tokenizer(str(base), access=access) if tokenizer is None else tokenizer
    plan = plan_training(rows, tokenizer, recipe, seed=seed)
    place = resolve_device(device)
    dtype = training_dtype(recipe.dtype, place)
    model = _adapted_model(str(base), recipe, seed=seed, dtype=dtype, device=place, access=access)
    plan = replace(plan, share=plan.share and can_share_prefix(model))
    fingerprint = base_fingerprint(str(base), getattr(model.config, "_commit_hash", None))
    job = {
        "base": fingerprint,
        "tokens": hashlib.sha256(json.dumps(plan.rows).encode()).hexdigest(),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "dtype": dtype,
        "versions": deciding_versions(),
    }
    if processes.count() > 1:
        job["processes"] = processes.count()
    checkpoint = Checkpoint.of(out, job, every=checkpoint_seconds)
    loop = Loop(model, plan, tokenizer, recipe, place, dtype)
    state = loop.run(checkpoint, progress, f"training {out.name}")

    def write() -> TrainingReport:
        with atomic_folder(out, force=force) as folder:
            _write_adapter(loop.model, folder, access.repo(base), recipe)
            report = TrainingReport(
                base=fingerprint,
                role=role,
                sources=dict(sources),
                recipe=recipe.model_dump(mode="json"),
                seed=seed,
                dtype=dtype,
                device=place,
                threads=torch.get_num_threads(),
                rows=len(rows),
                rows_sha256=plan.sha256,
                cut=plan.cut,
                parameters=sum(parameter.numel() for parameter in loop.parameters),
                steps=len(plan.steps),
                tokens=plan.tokens,
                computed_tokens=plan.computed_tokens,
                answer_tokens=plan.answer_tokens,
                losses=tuple(state.losses),
                seconds=state.seconds,
                versions=deciding_versions(),
                files={file.name: file_sha256(file) for file in sorted(folder.iterdir())},
            )
            write_report(report, folder, access.repo(base))
        checkpoint.remove()
        return report

    return processes.once("the adapter is written", write)


def training_dtype(name: str, device: str) -> str:
    """The type that the base is trained on in.

    Args:
        name: ``float32``, ``bfloat16`` or ``auto``.
        device: as :func:`~sst_merge.data_loader.resolve_device` gives it.

    Returns:
        ``bfloat16`` for ``auto`` where the processor multiplies it (emulated, it is slower), else ``float32``.
    """
    if name != "auto":
        return name
    known = device == "cpu" or device.startswith("cuda")
    return "bfloat16" if known and multiplies("bfloat16", device) else "float32"


def _adapted_model(base: str, recipe: TrainingRecipe, *, seed: int, dtype: str, device: str, access: BaseAccess) -> Any:
    """The base with a fresh adapter, whose A the seed decides whatever the device is."""
    from peft import LoraConfig, get_peft_model

    model = load_base_model(base, dtype=dtype, access=access)
    model.config.use_cache = False
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=recipe.targets if recipe.targets == ALL_LINEAR else list(recipe.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config).to(device)
    # Evaluation mode throughout: a base's own dropout would draw random numbers, and PEFT's is off.
    adapted.eval()
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = True  # of this module alone: transformers asks it before it saves memory
    return adapted


def _write_adapter(model: Any, folder: Path, base: str, recipe: TrainingRecipe) -> None:
    """PEFT's folder, the same bytes for the same weights: PEFT writes sets in an order that changes between runs."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch_type(recipe.output_dtype))
    model.save_pretrained(folder, save_embedding_layers=False)
    file = folder / _CONFIG_NAME
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    check_opens(folder)
