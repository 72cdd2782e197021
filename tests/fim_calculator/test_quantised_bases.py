"""Hooks on layers that keep codes in place of weights, against the same model of plain numbers in float64.

Tolerances: 4 bits compute with the rounded weights in float32 (1e-5); 8 bits of bitsandbytes also round every layer's
inputs to 8 bits, which the model of plain numbers does not (0.1); models in float16 round everything (0.02).
"""

import copy
import json
from importlib.util import find_spec
from pathlib import Path
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
        # First the pass without gradients, after which some kernels give none.
        with CoreModel(model, spaces) as attached:
            found = divergences(attached, [cores], {}, batches)
        fisher = compute_fim(model, spaces, batches, point=cores, structure="block", estimator="empirical")
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


def in_words(codes: Tensor, dim: int, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)) -> Tensor:
    """Eight codes of 4 bits along a dimension as one int32, the first of ``order`` lowest."""
    eights = codes.movedim(dim, -1).unflatten(-1, (-1, 8))[..., list(order)].long()
    return (eights << (4 * torch.arange(8))).sum(-1).to(torch.int32).movedim(-1, dim).contiguous()


def gptq_layer(weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """As the checkpoints of GPTQ: inputs in the order of their activations, zeros less by one."""
    groups = torch.arange(weight.shape[1]).flip(0) // 32
    codes, zeros, scales, numbers = rounded(weight, groups)
    return numbers, {
        "qweight": in_words(codes.T, 0),
        "qzeros": in_words(zeros.T - 1, 1),
        "scales": scales.T.contiguous(),
        "g_idx": groups.int(),
    }


def awq_layer(weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """As AutoAWQ's form ``gemm``."""
    codes, zeros, scales, numbers = rounded(weight, torch.arange(weight.shape[1]) // 32)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    packed = {"qweight": in_words(codes.T, 1, order), "qzeros": in_words(zeros.T, 1, order)}
    return numbers, packed | {"scales": scales.T.contiguous()}


def rounded(weight: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (d_out, d_in), zeros and scales (d_out, groups), and the numbers they stand for."""
    inside = torch.stack([weight[:, groups == g] for g in range(int(groups.max()) + 1)], 1)
    low, high = inside.amin(-1).clamp(max=0), inside.amax(-1).clamp(min=0)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(1, 15).long()
    codes = (weight / scales.float()[:, groups]).round().long().add(zeros[:, groups]).clamp(0, 15)
    return codes, zeros, scales, (codes - zeros[:, groups]).half() * scales[:, groups]


def packed_layer(weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """As llm-compressor's form ``pack-quantized``."""
    scales = (weight.unflatten(1, (-1, 32)).abs().amax(-1) / 7).half()
    each = scales.repeat_interleave(32, 1)
    codes = (weight / each.float()).round().clamp(-8, 7)
    packed = {"weight_packed": in_words(codes + 8, 1), "weight_shape": torch.tensor(weight.shape)}
    return codes.half() * each, packed | {"weight_scale": scales}


def rounding_layer(weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """As its form ``int-quantized``, whose layers round their inputs."""
    scales = (weight.abs().amax(1, keepdim=True) / 127).half()
    codes = (weight / scales.float()).round().clamp(-127, 127)
    return codes.half() * scales, {"weight": codes.to(torch.int8), "weight_scale": scales}


def compressed(form: str, bits: int, inputs: Any = None, **more: Any) -> dict[str, Any]:
    """The ``quantization_config`` of compressed-tensors."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True, **more}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
    told = {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed"}
    return {**told, "ignore": ["lm_head"], "config_groups": {"group_0": group}}


TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
FORMS = {
    "gptq": (gptq_layer, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}),
    "awq": (awq_layer, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    "compressed-tensors, 4 bits": (packed_layer, compressed("pack-quantized", 4, strategy="group", group_size=32)),
    "compressed-tensors, 8 bits": (rounding_layer, compressed("int-quantized", 8, TOKENS, strategy="channel")),
}


def checkpoint(model: Any, folder: Path, form: str) -> Any:
    """Write a Llama in a form as others store it; returns it with the numbers that the files stand for."""
    from safetensors.torch import save_file

    pack, config = FORMS[form]
    model.save_pretrained(folder)
    plain, tensors = copy.deepcopy(model), {}
    for name, parameter in plain.named_parameters():
        if name.endswith("_proj.weight"):
            numbers, packed = pack(parameter.data)
            parameter.data = numbers.float()
            tensors |= {f"{name.removesuffix('weight')}{key}": tensor for key, tensor in packed.items()}
        else:
            parameter.data = parameter.data.half().float()
            tensors[name] = parameter.data.half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"dtype": "float16", "quantization_config": config}))
    return plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow(5)
@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_of_other_forms(form: str, measured: Any, build: Any, relative_error: Any, tmp_path: Path) -> None:
    """Oracle: the weights by the form's definition, in float16 as the packages compute them, in a plain model."""
    packages = ["compressed_tensors"] if form.startswith("compressed") else ["gptqmodel"]
    packages += ["optimum"] if form == "gptq" else []
    if missing := [name for name in packages if find_spec(name) is None]:
        pytest.skip(f"{form}: not installed: {' and '.join(missing)}")
    hooked, naive = measured
    plain = checkpoint(build.model_of_blocks(), tmp_path / "base", form)
    expected = naive(plain.double())
    for dtype, tolerance in (("float32", 1e-5), ("auto", 0.02)):
        model = load_base_model(str(tmp_path / "base"), dtype=dtype, modules=LAYERS)
        assert model.dtype == (torch.float16 if dtype == "auto" else torch.float32)
        assert BaseModelIndex.of(model).modules == BaseModelIndex.of(plain).modules
        found = hooked(model)
        assert all(relative_error(found[name], figure) < tolerance for name, figure in expected.items()), dtype


class _Coded(nn.Module):
    """A layer as GPTQ's and AWQ's are: no ``nn.Linear``, no ``weight``, codes of another shape.

    As some of their kernels do, it decides at its first call, and for good, whether it has gradients.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.register_buffer("qweight", layer.weight.detach().T.contiguous().view(torch.int32)[::2])
        self._weight, self.has_gradients, self.rounds = (layer.weight.detach(),), None, False

    def forward(self, x: Tensor) -> Tensor:
        if self.has_gradients is None:
            self.has_gradients = x.requires_grad
        if self.rounds:
            scale = x.abs().amax(-1, keepdim=True) / 127
            x = (x / scale).round() * scale
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
    for field, value, said in (("has_gradients", False, "its kernel gives no"), ("rounds", True, "are not those of")):
        faulty = copy.deepcopy(coded)
        faulty.set_submodule(other, _Coded(nn.Linear(64, 32, bias=False)))
        setattr(faulty.get_submodule(other), field, value)
        with pytest.raises(BaseModelError, match=rf"model\.layers\.1\.mlp\.down_proj \(_Coded\): .*{said}"):
            CoreModel(faulty, {}).__enter__()
        # What takes no gradients may go on.
        with torch.no_grad(), CoreModel(faulty, {}):
            pass
