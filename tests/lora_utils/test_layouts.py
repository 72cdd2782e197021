"""Kinds of layer, the one of docs/extending/layer.md included, against PEFT and dense matrices."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from sst_merge import merge
from sst_merge.core_space import CoreSpace
from sst_merge.data_loader.batch import Batch
from sst_merge.errors import AdapterError, BaseModelError, FisherError
from sst_merge.fim_calculator import CoreModel
from sst_merge.lora_utils import (
    Adapter,
    BaseModelIndex,
    BaseWeights,
    Conv1DKind,
    EmbeddingKind,
    LinearKind,
    LoraFactors,
    ModuleKind,
    ModuleShape,
    check_against_base,
    layer_kind,
    layer_kinds,
    layouts,
)

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "layer.md"


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_kinds", list(layouts._kinds))


@pytest.fixture
def pointwise(own_registry: None) -> type[ModuleKind]:
    """The page's class, made known for one test."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    scope: dict[str, Any] = {"__name__": "page"}
    exec(code, scope)
    return scope["PointwiseKind"]


class Picture(nn.Module):
    """Ids → vectors → a convolution over a one-pixel-high picture → logits; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.conv = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 11)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        picture = self.embed(input_ids).movedim(-1, 1)[:, :, None]
        return SimpleNamespace(logits=self.head(torch.tanh(self.conv(picture))[:, :, 0].movedim(1, -1)))


def picture() -> Picture:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Picture().double().eval()


def trained(build: Any, folder: Path, seed: int, rank: int, **options: Any) -> tuple[Path, dict[str, Tensor]]:
    """PEFT's own adapter of the convolution and the head, and its dense updates as the base stores them."""
    config = LoraConfig(target_modules=["conv", "head"], r=rank, lora_alpha=5, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(picture(), config).eval()
    build.randomise(adapted, seed=seed, only="lora_")
    adapted.save_pretrained(folder, save_embedding_layers=False)
    inner = adapted.get_base_model()
    return folder, {name: inner.get_submodule(name).get_delta_weight("default").detach() for name in ("conv", "head")}


IDS = torch.arange(10).reshape(2, 5)


@pytest.mark.usefixtures("pointwise")
def test_a_new_kind_is_read_merged_and_written(build: Any, relative_error: Any, tmp_path: Path) -> None:
    one, first = trained(build, tmp_path / "one", seed=0, rank=2)
    two, second = trained(build, tmp_path / "two", seed=1, rank=3, use_rslora=True)
    adapters = [Adapter.load(one, weight=0.7), Adapter.load(two, weight=-0.4)]
    index = BaseModelIndex.of(picture())
    for adapter, dense in zip(adapters, (first, second), strict=True):
        check_against_base(adapter, index)
        assert adapter.shape("conv") == (8, 6)
        assert str(adapter.kind("conv")) == "pointwise"
        assert adapter.with_kinds(index.kinds).kind("conv") == adapter.kind("conv")
        assert relative_error(adapter.delta("conv"), dense["conv"][:, :, 0, 0]) <= 1e-12
        assert relative_error(adapter.factors("conv").stored_delta(), dense["conv"]) <= 1e-12
    result = merge(adapters, method="task_arithmetic", compute_dtype=torch.float64)
    folder = result.save(tmp_path / "merged")
    changed = picture()
    with torch.no_grad():
        for name in first:
            changed.get_submodule(name).weight += 0.7 * first[name] - 0.4 * second[name]
    loaded = PeftModel.from_pretrained(picture(), str(folder)).eval()
    assert relative_error(loaded(IDS).logits, changed(IDS).logits) <= 1e-12
    # Reading what was written gives the same update again.
    assert relative_error(Adapter.load(folder).delta("conv"), result.adapter.delta("conv")) <= 1e-12


@pytest.mark.usefixtures("pointwise")
def test_a_new_kind_with_a_bias(build: Any, relative_error: Any, tmp_path: Path) -> None:
    folder, _ = trained(build, tmp_path / "one", seed=0, rank=2, lora_bias=True)
    written = merge([Adapter.load(folder)], method="task_arithmetic", compute_dtype=torch.float64).save(
        tmp_path / "out"
    )
    theirs, ours = (PeftModel.from_pretrained(picture(), str(place)).eval() for place in (folder, written))
    assert relative_error(ours(IDS).logits, theirs(IDS).logits) <= 1e-12


@pytest.mark.usefixtures("pointwise")
def test_a_model_runs_at_a_point_of_a_new_kind(relative_error: Any) -> None:
    model = picture()
    generator = torch.Generator().manual_seed(0)
    spaces, cores, changed = {}, {}, picture()
    for name, bias in (("conv", True), ("head", False)):
        shape = BaseModelIndex.of(model).modules[name]
        b = torch.randn(shape.d_out, 2, generator=generator, dtype=torch.float64)
        a = torch.randn(2, shape.d_in + bias, generator=generator, dtype=torch.float64)
        factors = LoraFactors(b, a, shape.kind, bias)
        spaces[name] = CoreSpace.spanned_by([factors])
        cores[name] = spaces[name].coordinates(factors).requires_grad_(True)
        with torch.no_grad():
            layer = changed.get_submodule(name)
            layer.weight += (b @ a[:, : shape.d_in]).reshape(layer.weight.shape)
            layer.bias += b @ a[:, -1] if bias else 0.0
    batch = Batch(IDS, torch.ones_like(IDS), IDS)
    target = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64)
    with CoreModel(model, spaces) as attached:
        attached.set_point(cores)
        logits = attached.logits(batch)
        assert relative_error(logits.detach(), changed(IDS).logits.detach()) <= 1e-12
        (gradient,) = torch.autograd.grad((logits * target).sum(), [cores["conv"]])
        # Its positions are no tokens, so that there is no gradient per sample and token; the module is named.
        with attached.recording(lambda *_: None), pytest.raises(FisherError, match="module conv: activations"):
            attached.backward((attached.logits(batch) * target).sum())
    (changed(IDS).logits * target).sum().backward()
    weight = torch.cat([changed.conv.weight.grad[:, :, 0, 0], changed.conv.bias.grad[:, None]], dim=1)
    assert relative_error(gradient, spaces["conv"].left.T @ weight @ spaces["conv"].right) <= 1e-12


def test_weights_of_a_new_kind_are_read_as_a_matrix(pointwise: type[ModuleKind], tmp_path: Path) -> None:
    model = picture()
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    weights = BaseWeights.load(tmp_path)
    kind = pointwise()
    assert weights.shape("conv", kind=kind) == (8, 6)
    assert torch.equal(weights.weight("conv", kind=kind, dtype=torch.float64), model.conv.weight[:, :, 0, 0])
    with pytest.raises(BaseModelError, match=r"shape \(8, 6, 1, 1\); expected plain floats in 2 dimensions"):
        weights.shape("conv")


def test_without_the_kind_its_layers_are_refused(
    own_registry: None, build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(layouts, "_kinds", [kind for kind in layouts._kinds if kind.dimensions == 2])
    folder, _ = trained(build, tmp_path / "one", seed=0, rank=2)
    with pytest.raises(AdapterError, match="expected matrices or an ordinary convolution"):
        Adapter.load(folder)
    factors = LoraFactors(torch.ones(8, 1), torch.ones(1, 6))
    adapter = Adapter.from_factors({"conv": factors}, name="one")
    with pytest.raises(BaseModelError, match=r"is a Conv2d .* expected one of: a Conv1D, a linear layer, an embedding"):
        check_against_base(adapter, BaseModelIndex.of(picture()))


def test_a_linear_adapter_does_not_become_another_kind(pointwise: type[ModuleKind]) -> None:
    adapter = Adapter.from_factors({"conv": LoraFactors(torch.ones(8, 1), torch.ones(1, 6))}, name="one")
    with pytest.raises(BaseModelError, match="is of kind linear, the base model 'model' has pointwise"):
        check_against_base(adapter, BaseModelIndex.of(picture()))
    with pytest.raises(AdapterError, match="is linear in the adapter and pointwise in the base model"):
        adapter.with_kinds({"conv": pointwise()})


@pytest.mark.usefixtures("own_registry")
def test_a_kind_that_only_the_base_shows() -> None:
    """A linear layer stored the other way round: in a file it looks like any linear layer."""

    class Turned(nn.Linear):
        pass

    @layer_kind
    class TurnedKind(Conv1DKind):
        name = "turned"
        fan_in_fan_out = None

        @classmethod
        def of_layer(cls, layer: nn.Module) -> ModuleShape | None:
            return ModuleShape(cls(), layer.in_features, layer.out_features, False) if type(layer) is Turned else None

        @classmethod
        def of_file(cls, a: tuple[int, ...], b: tuple[int, ...], *, fan_in_fan_out: bool) -> None:
            return None

    index = BaseModelIndex.of(nn.ModuleDict({"turned": Turned(4, 6, bias=False), "plain": nn.Linear(4, 6)}))
    assert {name: str(shape.kind) for name, shape in index.modules.items()} == {"turned": "turned", "plain": "linear"}
    b, a = torch.randn(4, 2), torch.randn(2, 6)
    adapter = Adapter.from_factors({"turned": LoraFactors(b, a)}, name="one")
    check_against_base(adapter, index)
    known = adapter.with_kinds(index.kinds)
    assert torch.equal(known.factors("turned").stored_delta(), (b @ a).T)
    assert torch.equal(known.delta("turned"), b @ a)


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="a kind of layer is called 'linear' already"):
        layer_kind(LinearKind)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_layer_has_the_shape_and_orientation_that_its_kind_says(
    build: Any, relative_error: Any, architecture: str
) -> None:
    model = build.tiny_model(architecture)
    index = BaseModelIndex.of(model)
    for name, shape in index.modules.items():
        layer = model.get_submodule(name)
        assert shape.kind.stored_shape(shape.d_out, shape.d_in) == shape.kind.weight_shape(layer)
        assert shape.kind.matrix_shape(tuple(layer.weight.shape)) == (shape.d_out, shape.d_in)
        assert torch.equal(shape.kind.stored(shape.kind.matrix(layer.weight)), layer.weight)
        # Wx + b, or the row of a token, from the matrix form alone.
        matrix, bias = shape.kind.matrix(layer.weight), getattr(layer, "bias", None)
        if shape.kind == EmbeddingKind():
            assert torch.equal(layer(torch.arange(5)), matrix.T[:5])
        else:
            x = torch.randn(3, shape.d_in)
            assert relative_error(layer(x), x @ matrix.T + (0.0 if bias is None else bias)) <= 1e-5
    assert {type(shape.kind) for shape in index.modules.values()} <= set(layer_kinds())
