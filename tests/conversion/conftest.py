"""Bases and adapters as folders, as users have them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def tiny_base(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """A tiny random model and its folder; with ``tied``, its output layer is its embedding."""
    made: dict[tuple[str, bool, torch.dtype], tuple[Any, Path]] = {}

    def base(architecture: str, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Any, Path]:
        key = (architecture, tied, dtype)
        if key not in made:
            model = build.tiny_model(architecture, dtype=dtype)
            if tied:
                model.config.tie_word_embeddings = True
                model.tie_weights()
            folder = tmp_path_factory.mktemp("base") / f"{architecture}-{tied}"
            model.save_pretrained(folder)
            made[key] = model, folder
        model, folder = made[key]
        return copy.deepcopy(model), folder

    return base


@pytest.fixture(scope="session")
def peft_deltas() -> Callable[[Any], dict[str, Tensor]]:
    """Module → ΔW (d_out, d_in) in float64, as PEFT computes it."""

    def deltas(adapted: Any) -> dict[str, Tensor]:
        found = {}
        for name, layer in copy.deepcopy(adapted).double().named_modules():
            if hasattr(layer, "get_delta_weight") and hasattr(layer, "base_layer"):
                delta = layer.get_delta_weight("default").detach()
                if type(layer.base_layer).__name__ in {"Conv1D", "Embedding"}:
                    delta = delta.T
                found[name.removeprefix("base_model.model.")] = delta
        return found

    return deltas
