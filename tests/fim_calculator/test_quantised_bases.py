"""Hooks on layers that keep codes in place of weights, against the same model of plain numbers in float64.

Tolerances: 4 bits compute with the rounded weights in float32 (1e-5); 8 bits also round every layer's inputs to 8 bits,
which the model of plain numbers does not (0.1).
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sst_merge.core_space import CoreSpace
from sst_merge.data_loader import BaseAccess, load_base_model
from sst_merge.errors import BaseModelError
from sst_merge.fim_calculator import CoreModel, build_spaces, compute_fim, divergences
from sst_merge.lora_utils import BaseModelIndex

LAYERS = {
    "model.layers.0.self_attn.q_proj": (32, 32),
    "model.layers.0.mlp.down_proj": (32, 64),
    "model.layers.1.self_attn.v_proj": (16, 32),
    "model.layers.1.mlp.gate_proj": (64, 32),
}


@pytest.fixture(scope="module")
def stored(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("base")
    build.model_of_blocks().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def measured(build: Any, oracle: Any) -> Any:
    """Fisher, divergence and layers of a model, and the same figures the naive way of another one."""
    adapter = build.random_adapter(LAYERS, name="skill", rank=2, seed=1)
    samples = oracle.random_samples(4)

    def spaces_and_point(dtype: torch.dtype) -> tuple[dict[str, CoreSpace], dict[str, Tensor]]:
        spaces = build_spaces([adapter], dtype=dtype)
        return spaces, {m: 0.1 * space.coordinates(adapter.factors(m, dtype=dtype)) for m, space in spaces.items()}

    def hooked(model: Any) -> dict[str, Tensor]:
        spaces, cores = spaces_and_point(torch.float32)
        batches = oracle.batched(samples, 3)
        fisher = compute_fim(model, spaces, batches, point=cores, structure="block", estimator="empirical")
        with CoreModel(model, spaces) as attached:
            found = divergences(attached, [cores], {}, batches)
        return {m: layer.dense() for m, layer in fisher.layers.items()} | {"divergence": torch.tensor(found)}

    def naive(plain: Any) -> dict[str, Tensor]:
        spaces, cores = spaces_and_point(torch.float64)
        rows = oracle.sample_gradients(plain, spaces, samples, cores)
        found = {m: oracle.dense_fisher(gradients) for m, gradients in rows.items()}
        moved, total, tokens = oracle.with_update(plain, spaces, cores), torch.zeros(()), 0
        for ids, prompt in samples:
            with torch.no_grad():
                p, q = (model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for model in (plain, moved))
            total = total + (p.exp() * (p - q))[prompt - 1 : -1].sum()
            tokens += len(ids) - prompt
        return found | {"divergence": (total / tokens)[None]}

    return hooked, naive


def unpacked(model: Any, plain: Any) -> Any:
    """A float64 copy of ``plain`` with the weights that bitsandbytes' codes stand for, by its format's definition."""
    plain = copy.deepcopy(plain).double()
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            state = layer.weight.quant_state
            pairs = layer.weight.data.view(torch.uint8).flatten()
            codes = torch.stack([pairs >> 4, pairs & 15], dim=1).flatten().long()
            numbers = state.code.double()[codes] * state.absmax.double().repeat_interleave(state.blocksize)
        elif type(layer).__name__ == "Linear8bitLt":
            numbers = layer.weight.data.double() * layer.weight.SCB.double()[:, None] / 127
        else:
            continue
        plain.get_submodule(name).weight.data = numbers.reshape(layer.out_features, layer.in_features)
    return plain


@pytest.mark.parametrize(
    ("quantization", "tolerance"),
    [
        ("4bit", 1e-5),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "float32"}, 1e-5),
        ("8bit", 0.1),
    ],
    ids=["4bit", "codes in float32", "8bit"],
)
def test_bitsandbytes(stored: Any, measured: Any, build: Any, relative_error: Any, quantization: Any, tolerance: float):
    pytest.importorskip("bitsandbytes", reason="quantised layers are those of bitsandbytes (sst-merge[bnb])")
    hooked, naive = measured
    model = load_base_model(str(stored), access=BaseAccess(quantization=quantization), modules=LAYERS)
    plain = build.model_of_blocks()
    assert BaseModelIndex.of(model).modules == BaseModelIndex.of(plain).modules
    expected = naive(unpacked(model, plain))
    found = hooked(model)
    for name, figure in expected.items():
        assert relative_error(found[name], figure) < tolerance, name
    # The codes differ from the weights by far more than that, so the right ones were compared.
    rounded = naive(plain.double())
    assert all(relative_error(rounded[m], expected[m]) > (10 if tolerance < 0.01 else 0) * tolerance for m in LAYERS)


class _Coded(nn.Module):
    """A layer as GPTQ's and AWQ's are: no ``nn.Linear``, no ``weight``, codes of another shape."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.register_buffer("qweight", layer.weight.detach().T.contiguous().view(torch.int32)[::2])
        self._weight, self.has_gradients = (layer.weight.detach(),), True

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.has_gradients and torch.is_grad_enabled()):
            return nn.functional.linear(x, self._weight[0], self.bias)


def test_layers_without_a_weight(build: Any, measured: Any, relative_error: Any) -> None:
    hooked, naive = measured
    plain = build.model_of_blocks()
    coded = copy.deepcopy(plain)
    for name in LAYERS:
        coded.set_submodule(name, _Coded(coded.get_submodule(name)))
    assert BaseModelIndex.of(coded).modules == BaseModelIndex.of(plain).modules
    found, expected = hooked(coded), naive(plain.double())
    assert all(relative_error(found[name], figure) < 1e-5 for name, figure in expected.items())
    # A kernel without a way back would leave a part of the gradients out; also where its layer is not looked at.
    other = "model.layers.1.mlp.down_proj"
    coded.set_submodule(other, _Coded(coded.get_submodule(other)))
    coded.get_submodule(other).has_gradients = False
    with pytest.raises(
        BaseModelError, match=r"model\.layers\.1\.mlp\.down_proj \(_Coded\): its kernel gives no gradients"
    ):
        hooked(coded)
