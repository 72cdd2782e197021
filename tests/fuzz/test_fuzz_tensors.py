"""Files of tensors that are almost right: adapters, base weights, statistics."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from tests.fuzz.almost_right import TYPES, VALUE, damaged, document, fuzz, put, refused_or_read, written

from sst_merge.fim_calculator import Fisher
from sst_merge.fim_calculator.structures import (
    BlockFisher,
    DiagonalFisher,
    KroneckerFisher,
    LayerFisher,
    SampleGradients,
)
from sst_merge.lora_utils import Adapter, BaseWeights

PREFIX = "base_model.model."
SHAPES = st.sampled_from([(2, 6), (5, 2), (2, 5), (0, 6), (2,), (), (1, 1, 1)])
KEYS = st.sampled_from([
    f"{PREFIX}model.layers.0.q_proj.lora_A.weight",
    f"{PREFIX}model.layers.0.q_proj.lora_B.weight",
    f"{PREFIX}x.lora_A.default.weight",
    f"{PREFIX}x.lora_B.default.weight",
    f"{PREFIX}x.lora_embedding_A",
    f"{PREFIX}x.lora_B.bias",
    f"{PREFIX}lm_head.weight",
    "lora_A",
    "",
    f"{PREFIX}x.lora_magnitude_vector",
    f"{PREFIX}x.base_layer.weight",
    f"{PREFIX}{'y' * 300}.lora_A.weight",
    f"{PREFIX}.lora_A.weight",
])
ADAPTER_CONFIG = document({
    "peft_type": st.just("LORA"),
    "r": st.just(2),
    "lora_alpha": st.integers(1, 9),
    "rank_pattern": st.sampled_from([{"q_proj": 2}, {"(.*)*x": 2}, {"(?=q).*": 2}]),
    "alpha_pattern": st.just({"(q|k)_proj": 4.0}),
    "target_modules": st.just(["q_proj"]),
    "use_rslora": st.booleans(),
    "fan_in_fan_out": st.booleans(),
    "lora_bias": st.booleans(),
    "modules_to_save": st.just(["lm_head"]),
    "bias": st.just("none"),
    "base_model_name_or_path": st.text(max_size=5),
    "task_type": st.just("CAUSAL_LM"),
    "init_lora_weights": st.just(True),
})
RIGHT = {f"{PREFIX}model.layers.0.q_proj.lora_A.weight": (2, 6), f"{PREFIX}model.layers.0.q_proj.lora_B.weight": (5, 2)}


def packed(drawn: tuple[dict[str, tuple[tuple[int, ...], torch.dtype]], bool]) -> bytes:
    tensors = {key: torch.ones(shape).to(dtype) for key, (shape, dtype) in drawn[0].items()}
    if drawn[1]:
        tensors |= {key: torch.ones(shape) for key, shape in RIGHT.items()}
    return save(tensors, metadata={"format": "pt"})


WEIGHTS = damaged(st.tuples(st.dictionaries(KEYS, st.tuples(SHAPES, TYPES), max_size=3), st.booleans()).map(packed))


@fuzz(0.22)
@given(config=damaged(ADAPTER_CONFIG.map(written)), weights=WEIGHTS, drop=st.booleans())
def test_adapter_folders(config: bytes, weights: bytes, drop: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    put(folder, "adapter_config.json", config)
    put(folder, "adapter_model.safetensors", weights)

    def read() -> None:
        adapter = Adapter.load(folder, drop_modules_to_save=drop)
        adapter.check_values()
        for module in adapter.modules:
            adapter.factors(module)

    refused_or_read(read)


@fuzz(0.04)
@given(
    index=damaged(document({"weight_map": st.just({"a.weight": "model.safetensors"})}).map(written)), weights=WEIGHTS
)
def test_folders_of_base_weights(index: bytes, weights: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    put(folder, "model.safetensors.index.json", index)
    put(folder, "model.safetensors", weights)
    refused_or_read(lambda: BaseWeights.load(folder).weight("a"))


TENSOR = st.tuples(
    st.sampled_from([(4, 4), (2, 2), (3, 2, 2), (2, 3), (0, 0), ()]),
    st.sampled_from([1.0, float("nan"), -1.0, 1e308]),
    TYPES,
)


def statistics() -> dict[str, LayerFisher]:
    """A right file of every structure."""
    eye = torch.eye(2, dtype=torch.float64)
    return {
        "block": BlockFisher(samples=3, outer=torch.eye(4, dtype=torch.float64), core_shape=(2, 2)),
        "diagonal": DiagonalFisher(samples=3, gradient_sum=eye, square_sum=eye + 1),
        "kronecker": KroneckerFisher(samples=3, tokens=5, gradient_outer=eye, input_outer=2 * eye),
        "lowrank": SampleGradients(samples=3, rows=torch.ones(3, 2, 2)),
    }


@fuzz(0.12)
@given(
    structure=st.sampled_from(["block", "diagonal", "kronecker", "lowrank"]),
    header=document({
        "samples": st.just(3),
        "fingerprint": st.just("f"),
        "settings": st.just({"share": 0.5}),
        "origin": st.just("e@p"),
    }),
    entry=document({"weight": st.just(1.0)}),
    counts=st.none() | VALUE,
    tensor=st.none() | TENSOR,
    hurt=st.booleans(),
    data=st.data(),
)
def test_statistics(
    structure: str,
    header: Any,
    entry: Any,
    counts: Any,
    tensor: Any,
    hurt: bool,
    data: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.getbasetemp() / "f.safetensors"
    Fisher(structure, {"m": statistics()[structure]}, 3, "f", "e@p", {"share": 0.5}).save(file)
    with safe_open(file, framework="pt") as stream:
        kept = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        right = json.loads(stream.metadata()["sst_merge"])
    right |= header
    if isinstance(right.get("layers"), dict):
        right["layers"]["m"] |= entry | ({} if counts is None else {"counts": counts})
    if tensor is not None:
        shape, value, dtype = tensor
        kept[next(iter(kept))] = torch.full(shape, value, dtype=torch.float64).to(dtype)
    whole = save(kept, metadata={"sst_merge": json.dumps(right)})
    file.write_bytes(data.draw(damaged(st.just(whole))) if hurt else whole)
    refused_or_read(lambda: Fisher.load(file).matvec({}))
