"""The stages of ``studies/scale/gpu.py``: what reads text on one model, and data-free merges of one layer."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from gpu_clock import Card, Clock
from scale_models import Shape, forward, plain, random_adapter, random_batches, random_model

from sst_merge.fim_calculator import CoreModel, build_spaces, compute_fim, point_cores, token_logprobs
from sst_merge.lora_utils import Adapter
from sst_merge.merging import merge

__all__ = ["METHODS", "NEW_TOKENS", "REFINED", "STREAMS", "with_data", "without_data"]

# Ours → PEFT's combination type by the same rule on ΔW, and the density of both.
METHODS: dict[str, tuple[str | None, dict[str, float]]] = {
    "task_arithmetic": ("svd", {}),
    "tsv_m": (None, {}),
    "ties": ("ties_svd", {"density": 0.2}),
    "magnitude_prune": ("magnitude_prune_svd", {"density": 0.2}),
    "dare_linear": ("dare_linear_svd", {"density": 0.2}),
    "dare_ties": ("dare_ties_svd", {"density": 0.2}),
}
NEW_TOKENS = 16
REFINED = 4
STREAMS = 4
_ALGEBRA = 0.2  # seconds a module at most, for QR, eigenproblems and lifts of a merge


def with_data(
    model: Any, shape: Shape, label: str, found: dict[str, Any], card: Card, clock: Clock, *, rank: int, **text: int
) -> None:
    """Plain passes, and what they are compared with.

    Args:
        model: of random weights.
        shape: its sizes.
        label: of model and weights, for messages.
        found: figures go here, under ``stages``.
        card: where it lies.
        clock: says what still fits.
        rank: of the adapters.
        text: ``samples``, ``tokens`` and ``batch`` of harmful and of benign text.
    """
    stages: dict[str, Any] = found["stages"]
    adapters = [
        random_adapter(shape.modules, rank, seed=seed, role=role, device=card.device)
        for seed, role in enumerate(("utility", "utility", "safety"))
    ]
    harm, benign = (random_batches(shape.vocabulary, seed=seed, **text) for seed in range(2))
    spaces = build_spaces(adapters, device=card.device)
    point = point_cores(adapters, spaces)
    stages["plain pass"] = card.measured(lambda: plain(model, harm))
    stages["plain forward"] = card.measured(lambda: forward(model, harm))
    each, runs = max(stages["plain pass"]["seconds"]), card.rounds + 1

    def fisher() -> None:
        stages["Fisher"] = card.measured(
            lambda: compute_fim(model, spaces, harm, point=point, structure="kronecker", estimator="log_odds")
        )

    def scoring() -> None:
        with CoreModel(model, spaces) as merged, torch.no_grad():
            merged.set_point(point)
            stages["scoring"] = card.measured(
                lambda: [float(token_logprobs(merged.answers(batch))[0].sum()) for batch in harm]
            )

    def writing() -> None:
        prompts = harm[0].to(card.device).input_ids[:, : text["tokens"] // 2]
        options = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}

        def answers() -> None:
            model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)

        with torch.no_grad():
            stages["plain generation"] = card.measured(answers, rounds=1)
            with CoreModel(model, spaces) as merged:
                merged.set_point(point)
                stages["writing"] = card.measured(answers, rounds=1)

    def whole() -> None:
        spent: dict[str, float] = {}
        before = time.perf_counter()

        def tick(stage: str, done: int, total: int) -> None:
            nonlocal before
            now = time.perf_counter()
            spent[stage], before = spent.get(stage, 0.0) + now - before, now

        def merged() -> None:
            options = {"model": model, "harm": harm, "benign": benign, "device": card.device, "refine": REFINED}
            merge(adapters, "sst", progress=tick, **options)

        stages["merge"] = card.measured(merged, rounds=0)
        found["merge_stages"] = spent

    clock.stage(f"{label}: Fisher", 3 * runs * each, fisher)
    clock.stage(f"{label}: scoring", 2 * runs * each, scoring)
    clock.stage(f"{label}: writing answers", NEW_TOKENS * each, writing)
    clock.stage(f"{label}: merge with refinement", 30 * each + _ALGEBRA * len(spaces), whole)


def without_data(
    shape: Shape, rows: list[dict[str, Any]], card: Card, clock: Clock, *, rank: int, adapters: int
) -> None:
    """Merges of one layer: on the card by one thread and by several, on the CPU, and by PEFT on the card.

    Args:
        shape: of the model.
        rows: figures go here, one a method.
        card: which.
        clock: says what still fits.
        rank: of the adapters and of the output.
        adapters: how many.
    """
    one = {name: size for name, size in shape.modules.items() if name.startswith("model.layers.0.")}
    inputs = [random_adapter(one, rank, seed=seed) for seed in range(adapters)]
    theirs = _peft_model(shape, inputs, rank, card.device)
    longest = 1.0
    for method, (kind, options) in METHODS.items():

        def measure(method: str = method, kind: str | None = kind, options: dict[str, Any] = options) -> None:
            row: dict[str, Any] = {"method": method, "kind": kind}
            for where in (card, Card("cpu", card.rounds)):
                task = _merging(inputs, method, rank, where.device, options)
                row["card" if where is card else "cpu"] = where.measured(task, rounds=1)
            streams = _merging(inputs, method, rank, card.device, options | {"workers": STREAMS})
            row["streams"] = card.measured(streams, rounds=1)
            if kind is not None:
                row["peft"] = card.measured(lambda: _peft_merge(theirs, kind, rank, options), rounds=1)
            rows.append(row)

        began = time.perf_counter()
        clock.stage(f"{shape.name}: data-free {method}", 2 * longest, measure)
        longest = max(longest, time.perf_counter() - began)


def _merging(adapters: list[Adapter], method: str, rank: int, device: str, options: dict[str, Any]) -> Any:
    return lambda: merge(adapters, method, rank=rank, device=device, **options)


def _peft_model(shape: Shape, adapters: Sequence[Adapter], rank: int, device: str) -> Any:
    """One layer of the shape with the same adapters, in float32."""
    from peft import LoraConfig, get_peft_model

    base = random_model(Shape("", shape.hidden, shape.inner, 1, shape.heads, shape.key_heads, 64), device=device)
    targets = sorted({name.rpartition(".")[2] for name in adapters[0].modules})
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(base, config, adapter_name=adapters[0].name)
    for adapter in adapters[1:]:
        model.add_adapter(adapter.name, config)
    with torch.no_grad():
        for adapter in adapters:
            for name in adapter.modules:
                layer, factors = model.base_model.model.get_submodule(name), adapter.factors(name)
                layer.lora_A[adapter.name].weight.copy_(factors.a)
                layer.lora_B[adapter.name].weight.copy_(factors.b)
    return model


def _peft_merge(model: Any, kind: str, rank: int, options: dict[str, Any]) -> None:
    names = list(model.peft_config)
    model.add_weighted_adapter(names, [1.0] * len(names), "merged", combination_type=kind, svd_rank=rank, **options)
    model.delete_adapter("merged")
