"""LoRA of convolutions, and of the multimodal models that have them: data-free merges against PEFT, in float64."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sst_merge import merge
from sst_merge.core_space import CoreSpace
from sst_merge.errors import AdapterError, BaseModelError, FisherError
from sst_merge.fim_calculator import CoreModel
from sst_merge.lora_utils import Adapter, BaseModelIndex, Conv2dLayerKind, LoraFactors, check_against_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Convolutions(nn.Module):
    """One of each kind, with kernels, strides and paddings that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 4, 3, stride=2, padding=1)
        self.plane = nn.Conv2d(3, 5, (2, 3), padding=(0, 1))
        self.patch = nn.Conv3d(2, 6, (2, 2, 1), stride=(2, 2, 1), bias=False)
        self.grouped = nn.Conv2d(4, 4, 2, groups=2)
        self.head = nn.Linear(4, 3)


@pytest.fixture(scope="module")
def model() -> Convolutions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Convolutions().double().eval()


CASES = {
    "plain": {"r": 2, "lora_alpha": 3},
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True, "rank_pattern": {"plane": 1}},
}


def merged_is_the_sum(
    build: Any, error: Any, model: nn.Module, targets: Sequence[str], folder: Path, base: Path | None = None
) -> set[str]:
    """Two adapters by PEFT, merged here, loaded by PEFT: ΔW of every layer is the weighted sum. Returns the layers."""
    from peft import PeftModel

    deltas: list[dict[str, torch.Tensor]] = []
    for seed, options in enumerate(CASES.values()):
        adapted = build.peft_model(model, seed=seed, targets=targets, **options)
        adapted.save_pretrained(folder / str(seed), save_embedding_layers=False)
        inner = adapted.get_base_model()
        names = [name for name, layer in inner.named_modules() if hasattr(layer, "get_delta_weight")]
        deltas.append({name: inner.get_submodule(name).get_delta_weight("default").detach() for name in names})
    adapters = [Adapter.load(folder / "0", weight=0.7), Adapter.load(folder / "1", weight=-0.4)]
    modules = {module for adapter in adapters for module in adapter.modules}
    index = BaseModelIndex.of(model) if base is None else BaseModelIndex.load(base, modules=modules)
    result = merge(adapters, method="task_arithmetic", compute_dtype=torch.float64, base=index)
    result.save(folder / "merged")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), folder / "merged").get_base_model()
    assert set(result.adapter.modules) == set(deltas[0]) == set(deltas[1])
    for name in deltas[0]:
        expected = 0.7 * deltas[0][name] - 0.4 * deltas[1][name]
        assert error(loaded.get_submodule(name).get_delta_weight("default"), expected) <= 1e-12
        assert error(result.adapter.factors(name).stored_delta(), expected) <= 1e-12
        assert error(adapters[0].factors(name).stored_delta(), deltas[0][name]) <= 1e-12
    return set(deltas[0])


def test_convolutions_merge_as_peft_has_them(
    build: Any, relative_error: Any, model: Convolutions, tmp_path: Path
) -> None:
    layers = ["line", "plane", "patch", "head"]
    assert merged_is_the_sum(build, relative_error, model, layers, tmp_path) == set(layers)


def test_a_bias_of_a_convolution(build: Any, relative_error: Any, model: Convolutions, tmp_path: Path) -> None:
    from peft import PeftModel

    build.adapter_folder(model, tmp_path / "one", targets=["line", "plane"], lora_bias=True)
    merge([Adapter.load(tmp_path / "one")], compute_dtype=torch.float64).save(tmp_path / "out")
    theirs, ours = (
        PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / name).merge_and_unload() for name in ("one", "out")
    )
    for name, parameter in theirs.named_parameters():
        assert relative_error(ours.get_parameter(name), parameter) <= 1e-12


def test_groups_are_refused(build: Any, model: Convolutions, tmp_path: Path) -> None:
    build.adapter_folder(model, tmp_path, targets=["grouped", "head"])
    with pytest.raises(AdapterError, match=r"'grouped' .* in groups are not supported.*--leave-out grouped"):
        Adapter.load(tmp_path)
    assert Adapter.load(tmp_path, leave_out=["grouped"]).modules == ("head",)


def test_a_dora_is_refused_and_can_be_left_out(build: Any, model: Convolutions, tmp_path: Path) -> None:
    build.adapter_folder(model, tmp_path, targets=["plane", "head"], use_dora=True)
    with pytest.raises(AdapterError, match=r"'plane' is a convolution .* DoRA magnitude.*--leave-out plane"):
        Adapter.load(tmp_path)
    with pytest.raises(AdapterError, match="Name the base it was trained on"):
        Adapter.load(tmp_path, leave_out=["plane"])


def test_another_kernel_of_as_many_inputs_is_another_base(model: Convolutions) -> None:
    factors = LoraFactors(torch.ones(5, 1), torch.ones(1, 18), Conv2dLayerKind((3, 2)))
    adapter = Adapter.from_factors({"plane": factors}, name="one")
    with pytest.raises(BaseModelError, match=r"is of kind convolution 2d 3 × 2.*has convolution 2d 2 × 3"):
        check_against_base(adapter, BaseModelIndex.of(model))


def test_calibration_data_refuse_a_convolution_in_one_sentence(model: Convolutions) -> None:
    factors = LoraFactors(torch.ones(5, 1), torch.ones(1, 18), Conv2dLayerKind((2, 3)))
    with pytest.raises(FisherError, match=r"module plane: a convolution .*positions are no tokens.*--leave-out"):
        CoreModel(model, {"plane": CoreSpace.spanned_by([factors])}).__enter__()


def whisper() -> tuple[nn.Module, list[str]]:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=31,
        num_mel_bins=4,
        d_model=8,
        encoder_layers=1,
        encoder_attention_heads=2,
        decoder_layers=1,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        max_source_positions=6,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return WhisperForConditionalGeneration(config), ["conv1", "conv2", "q_proj", "v_proj", "fc1"]


def qwen_vl() -> tuple[nn.Module, list[str]]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
    }
    vision = {"depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision)
    return Qwen2VLForConditionalGeneration(config), ["patch_embed.proj", "qkv", "q_proj", "down_proj", "mlp.0"]


def llava() -> tuple[nn.Module, list[str]]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=39)
    return LlavaForConditionalGeneration(config), ["patch_embedding", "q_proj", "linear_1", "up_proj", "fc2"]


@pytest.mark.parametrize(
    ("made", "some"),
    [
        (whisper, {"model.encoder.conv1", "model.encoder.conv2", "model.decoder.layers.0.encoder_attn.q_proj"}),
        (qwen_vl, {"model.visual.patch_embed.proj", "model.language_model.layers.0.self_attn.q_proj"}),
        (llava, {"model.vision_tower.embeddings.patch_embedding", "model.multi_modal_projector.linear_1"}),
    ],
)
def test_multimodal_models_merge_without_data(
    build: Any, relative_error: Any, tmp_path: Path, made: Callable[[], tuple[nn.Module, list[str]]], some: set[str]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, targets = made()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path / "base")
    found = merged_is_the_sum(build, relative_error, model.double().eval(), targets, tmp_path, tmp_path / "base")
    assert some <= {name.replace("vision_model.", "") for name in found}
