"""What PEFT can put into an adapter."""

from typing import Any

import pytest

VARIANTS = [
    "plain",
    "rslora",
    "rank_pattern",
    "alpha_pattern",
    "patterns_rslora",
    "embedding",
    "embedding_rank_pattern",
    "lora_bias",
    "orthogonal",
    "mica",
]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, build: Any, architecture: str) -> dict[str, Any]:
    """Options of ``build.peft_model`` for each variant of LoRA in turn."""
    arch = build.ARCHITECTURES[architecture]
    fan = {"fan_in_fan_out": True} if arch.conv1d else {}
    first = arch.linears[0]
    options: dict[str, dict[str, Any]] = {
        "plain": {"targets": arch.linears, **fan},
        "rslora": {"targets": arch.linears, "use_rslora": True, "r": 3, "lora_alpha": 5, **fan},
        "rank_pattern": {
            "targets": arch.linears,
            "rank_pattern": dict(sorted({arch.first_layer: 2, first: 7}.items())),
            **fan,
        },
        "alpha_pattern": {"targets": arch.linears, "alpha_pattern": {first: 11, arch.first_layer: 1}, **fan},
        "patterns_rslora": {
            "targets": arch.linears,
            "use_rslora": True,
            "rank_pattern": {first: 2},
            "alpha_pattern": {f"^{arch.embedding}": 9, arch.first_layer: 3},
            **fan,
        },
        "embedding": {"targets": [*arch.linears, arch.embedding.rpartition(".")[2]], **fan},
        "embedding_rank_pattern": {"targets": [arch.embedding, arch.head], "rank_pattern": {arch.embedding: 2}},
        "lora_bias": {"targets": arch.linears, "lora_bias": True, "use_rslora": True, **fan},
        "orthogonal": {"targets": arch.linears, "init_lora_weights": "orthogonal", **fan},
        "mica": {"targets": arch.linears, "init_lora_weights": "mica", **fan},
    }
    if request.param == "mica":
        build.skip_below("peft", "0.21", "it does not know MiCA")
    return options[request.param]
