"""From a real model's configuration to what is to be run: training, merges, evaluations, and whether they fit a GPU."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..data_loader import DataSource
from ..errors import ConfigError
from ..files import atomic_file
from ..merging.config import MergeConfig
from ..yaml_config import validated
from .model_config import AdapterPlan, MethodPlan, ModelConfig, load_model_config

__all__ = ["estimated_costs", "merge_files", "write_model_plan"]

_GIB = 2**30
_SAMPLES = 384  # of an adapter's own data, for methods that look at it
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Activations that one token of a training or calibration pass keeps, in hidden states per layer: about 34 without
# checkpoints (Korthikanti et al., arXiv:2205.05198), 2 with them.
_KEPT_STATES = {True: 2, False: 34}
_TRAINING_COST = 4.0  # of a forward pass: forward, backward without weight gradients, forward again from checkpoints


def estimated_costs(config: ModelConfig) -> dict[str, float]:
    """GPU memory and time, before anything is loaded.

    Args:
        config: of the model.

    Returns:
        ``memory_gib`` of training (the largest stage: weights, adapters with AdamW's states, activations), and hours of
        ``training``, ``evaluation`` and all together.
    """
    weights = config.parameters * 1e9 * _BYTES[config.dtype]
    t = config.training
    # Every target is taken as square: an upper bound for attention, a lower one for the MLP's, which are wider.
    lora = 2 * t.rank * config.hidden * len(t.target_modules) * config.layers
    states = lora * (4 + 4 + 8)
    length = max(adapter.data.max_length for adapter in config.adapters)
    activations = (
        t.batch * length * config.hidden * config.layers * _KEPT_STATES[t.gradient_checkpointing] * _BYTES[config.dtype]
    )
    read = sum(adapter.tokens for adapter in config.adapters) * t.epochs * _TRAINING_COST
    models = 1 + len(config.adapters) + sum(len(method.values) for method in config.methods)
    training = len(config.seeds) * read / config.budget.tokens_per_second / 3600
    evaluation = len(config.seeds) * models * config.evaluation_tokens / config.budget.tokens_per_second / 3600
    return {
        "memory_gib": (weights + states + activations) / _GIB, "training": training, "evaluation": evaluation,
        "hours": training + evaluation,
    }  # fmt: skip


def write_model_plan(path: Path, out: Path) -> list[Path]:
    """Write one merge configuration per method, strength and seed, and a script that runs everything in order.

    Args:
        path: configuration of the model.
        out: folder to write into.

    Returns:
        The files, the script first.

    Raises:
        ConfigError: the configuration is wrong, or what it asks for does not fit its budget.
    """
    config = load_model_config(path)
    costs = estimated_costs(config)
    for name, unit, found, allowed in (
        ("gpu_memory_gib", "GiB", costs["memory_gib"], config.budget.gpu_memory_gib),
        ("hours", "hours", costs["hours"], config.budget.hours),
    ):
        if found > allowed:
            raise ConfigError(
                f"{path}: budget.{name} is {allowed:g}, the plan needs about {found:.1f} {unit}; ask for less (shorter "
                "sequences, smaller batches, fewer seeds, methods or strengths), or raise the budget"
            )
    written = []
    for name, merge in merge_files(config, path):
        target = out / "merges" / name
        with atomic_file(target) as aside:
            aside.write_text(yaml.safe_dump(merge, sort_keys=False), encoding="utf-8")
        validated(MergeConfig, merge, source=str(target), folder=target.parent)
        written.append(target)
    script = out / "run.sh"
    with atomic_file(script) as aside:
        aside.write_text("\n".join(_script(config, path.resolve(), costs)) + "\n", encoding="utf-8")
    script.chmod(0o755)
    return [script, *written]


def merge_files(config: ModelConfig, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Merge configurations.

    Args:
        config: of the model.
        path: where it was read; hub data sets keep their ids, files are named from the root.

    Yields:
        File name, and contents for ``sst-merge merge``.
    """
    for seed in config.seeds:
        for method in config.methods:
            for index, value in enumerate(method.values):
                yield f"{_name(method, index, seed)}.yaml", _merge(config, method, value, index, seed)


def _name(method: MethodPlan, index: int, seed: int) -> str:
    return f"seed{seed}_{method.method}_{index}"


def _merge(config: ModelConfig, method: MethodPlan, value: float, index: int, seed: int) -> dict[str, Any]:
    by_weight = method.knob == "safety_weight"
    adapters = [
        {
            "name": adapter.name,
            "path": f"../adapters/seed{seed}/{adapter.name}",
            "role": adapter.role,
            "weight": value if by_weight and adapter.role == "safety" else 1.0,
            **({"data": _data(adapter.data) | {"samples": config.benign.samples or _SAMPLES}}
               if adapter.role == "utility" else {}),
        }
        for adapter in config.adapters
    ]  # fmt: skip
    chosen = {"method": method.method, **method.options, **({} if by_weight else {method.knob: value})}
    return {
        "base_model": config.model,
        "adapters": adapters,
        "data": {"harm": _data(config.harm), "benign": _data(config.benign), "batch_size": 4},
        "merge": chosen,
        "output": {"path": f"../merged/{_name(method, index, seed)}", "dtype": config.dtype},
        "seed": seed,
        "model_dtype": config.dtype,
    }  # fmt: skip


def _data(data: DataSource) -> dict[str, Any]:
    fields: Mapping[str, Any] = data.model_dump(mode="json", exclude_defaults=True)
    found = dict(fields)
    if data.path is not None:
        found["path"] = str(data.path.resolve())
    return found


def _script(config: ModelConfig, path: Path, costs: Mapping[str, float]) -> Iterator[str]:
    yield "#!/usr/bin/env bash"
    memory, training, evaluation = (costs[name] for name in ("memory_gib", "training", "evaluation"))
    yield f"# Estimated: {memory:.0f} GiB of GPU memory, {training:.1f} hours to train, {evaluation:.1f} to evaluate."
    yield "# Finished adapters, merges and answers are kept: run it again where it stopped."
    yield "set -euo pipefail"
    yield 'cd "$(dirname "$0")"'
    for seed in config.seeds:
        for adapter in config.adapters:
            yield _training(adapter, path, seed)
    for seed in config.seeds:
        for method in config.methods:
            for index in range(len(method.values)):
                name = _name(method, index, seed)
                yield f"[ -d merged/{name} ] || sst-merge merge merges/{name}.yaml"
    suites = " ".join(f"--suite {suite}" for suite in config.suites)
    for seed in config.seeds:
        yield (
            f"sst-merge evaluate --base {shlex.quote(config.model)} --adapters-dir adapters/seed{seed} "
            f"--adapters-dir merged {suites} --dtype {config.dtype} --seed {seed} --cache answers "
            f"--out evaluation/seed{seed} --force"
        )


def _training(adapter: AdapterPlan, path: Path, seed: int) -> str:
    target = f"adapters/seed{seed}/{adapter.name}"
    return (
        f"[ -d {target} ] || python -m sst_merge.experiments.lora_training {shlex.quote(str(path))} {adapter.name} "
        f"--seed {seed} --out {target}"
    )
