"""DoRA is folded into its base and read as a LoRA: against PEFT's own merged weights."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sst_merge import merge
from sst_merge.cli.main import cli
from sst_merge.errors import AdapterError
from sst_merge.evaluation.adapters import adapted_modules
from sst_merge.lora_utils import Adapter, Conversion, read_stored_form
from sst_merge.lora_utils.nearest import nearest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Dora:
    """A model, its folder, PEFT's DoRA of it on disk, and the dense updates that PEFT makes of it."""

    def __init__(self, build: Any, folder: Path, architecture: str, dtype: torch.dtype) -> None:
        arch = build.ARCHITECTURES[architecture]
        self.model: nn.Module = build.tiny_model(architecture, dtype=dtype)
        self.base, self.folder = folder / "base", folder / "dora"
        self.model.save_pretrained(self.base)
        targets = [*arch.linears, arch.embedding.rpartition(".")[2]]
        fan = {"fan_in_fan_out": True} if arch.conv1d else {}
        adapted = build.peft_model(self.model, targets=targets, use_dora=True, use_rslora=True, **fan)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if ".lora_" in name and "magnitude" not in name:
                    parameter.mul_(0.2)
        build.randomise(adapted, seed=5, scale=0.05, only="magnitude")
        adapted.save_pretrained(self.folder, save_embedding_layers=False)
        merged = adapted.merge_and_unload()
        names = [name for name, module in self.model.named_modules() if name.endswith(tuple(targets))]
        self.deltas: dict[str, Tensor] = {
            name: (merged.get_submodule(name).weight - self.model.get_submodule(name).weight).detach() for name in names
        }

    def load(self, **options: Any) -> Adapter:
        return Adapter.load(self.folder, conversion=Conversion(self.base, **options))


@pytest.fixture(scope="module")
def dora(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Dora:
    return Dora(build, tmp_path_factory.mktemp("llama"), "llama", torch.float64)


@pytest.fixture(scope="module")
def half(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Dora:
    """Transposed weights and float32."""
    return Dora(build, tmp_path_factory.mktemp("gpt2"), "gpt2", torch.float32)


@pytest.mark.parametrize(("which", "error"), [("dora", 1e-13), ("half", 1e-6)])
def test_without_loss_it_is_pefts_own_update(
    request: pytest.FixtureRequest, relative_error: Any, which: str, error: float
) -> None:
    made: Dora = request.getfixturevalue(which)
    adapter = made.load(most_lost=0.0)
    assert set(adapter.modules) == made.deltas.keys()
    for module, delta in made.deltas.items():
        assert relative_error(adapter.factors(module).stored_delta(), delta) < error
    assert adapter.converted is not None and adapter.converted.lost < 1e-12
    assert read_stored_form(made.folder).variant[-1] == "dora"


@pytest.mark.parametrize("most", [0.01, 0.2])
def test_the_loss_is_what_it_says_and_within_the_limit(dora: Dora, most: float) -> None:
    adapter = dora.load(most_lost=most)
    assert adapter.converted is not None
    lost = 0.0
    for module, delta in dora.deltas.items():
        figures = adapter.converted.modules[module]
        missing = float((adapter.factors(module).stored_delta() - delta).square().sum())
        assert figures.energy == pytest.approx(float(delta.square().sum()))
        assert figures.lost * figures.energy == pytest.approx(missing, abs=1e-12) and figures.lost <= most
        # One direction less would lose more than it may, where the LoRA's own four are not kept anyway.
        left_out = torch.linalg.svdvals(delta)[figures.rank - 1 :].square().sum() / figures.energy
        assert figures.rank == 4 or float(left_out) > most
        lost += missing
    # A worker process reads the same file, and leaves it where it is.
    source, first = pickle.loads(pickle.dumps(adapter._source)), adapter.modules[0]
    for _ in range(2):
        assert torch.equal(source.read(first, None).a, adapter.factors(first).a)
        source = pickle.loads(pickle.dumps(source))
    total = sum(float(delta.square().sum()) for delta in dora.deltas.values())
    assert adapter.converted.lost == pytest.approx(lost / total)


def test_a_rank_is_kept_or_refused(dora: Dora) -> None:
    with pytest.raises(
        AdapterError, match=r"a LoRA of rank 3 leaves out 0\.\d+ of ‖ΔW‖², more than 0\.01.*--convert-l"
    ):
        dora.load(rank=3)
    adapter = dora.load(rank=3, most_lost=1.0)
    for module, delta in dora.deltas.items():
        assert adapter.rank(module) == 3
        best = torch.linalg.svdvals(delta)[3:].square().sum()
        missing = (adapter.factors(module).stored_delta() - delta).square().sum()
        assert float(missing) == pytest.approx(float(best))
    with pytest.raises(AdapterError, match=r"rank 0, most_lost 0\.01; expected"):
        Conversion(rank=0)


def test_one_alone_and_two_merged_load_in_peft(build: Any, relative_error: Any, dora: Dora, tmp_path: Path) -> None:
    adapter = dora.load(most_lost=0.0)
    lora = build.adapter_folder(dora.model, tmp_path / "lora", seed=9, targets=["q_proj", "up_proj"])
    for others in ([], [Adapter.load(lora, weight=0.5)]):
        result = merge([adapter, *others], compute_dtype=torch.float64)
        written = result.save(tmp_path / f"out{len(others)}")
        expected = copy.deepcopy(dora.model)
        with torch.no_grad():
            for name, delta in dora.deltas.items():
                expected.get_submodule(name).weight += delta
            for other in others:
                for name in other.modules:
                    expected.get_submodule(name).weight += 0.5 * other.delta(name, dtype=torch.float64)
        found = PeftModel.from_pretrained(copy.deepcopy(dora.model), written).eval()
        assert relative_error(build.logits(found), build.logits(expected)) < 1e-12


def test_what_is_refused(dora: Dora, half: Dora, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"use_dora is True.*names no base\. Name the base.*--base-model"):
        Adapter.load(dora.folder)
    with pytest.raises(AdapterError, match=r"is \(\d+, \d+\) \(d_out, d_in\) in the adapter, its weight in the base"):
        wrong = tmp_path / "wrong"
        model = copy.deepcopy(dora.model)
        model.model.embed_tokens = nn.Embedding(38, 16)
        model.config.vocab_size = 38
        model.lm_head = nn.Linear(16, 38, bias=False)
        model.save_pretrained(wrong)
        Adapter.load(dora.folder, conversion=Conversion(wrong))

    def changed(name: str, fields: dict[str, Any] | None = None, **edits: Tensor | None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads((dora.folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | (fields or {})))
        tensors = load_file(dora.folder / "adapter_model.safetensors")
        key = next(key for key in tensors if key.endswith("q_proj.lora_magnitude_vector"))
        for part, tensor in edits.items():
            here = key.replace("lora_magnitude_vector", part)
            tensors = {k: v for k, v in tensors.items() if k != here} | ({here: tensor} if tensor is not None else {})
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    base = Conversion(dora.base)
    for folder, said in (
        (changed("off", {"use_dora": False}), "a DoRA magnitude, and use_dora of the configuration is off"),
        (changed("missing", lora_magnitude_vector=None), r"q_proj' has no lora_magnitude_vector"),
        (changed("short", lora_magnitude_vector=torch.ones(3)), r"shape \[3\], expected plain floats of shape \[16\]"),
        (changed("nan", lora_magnitude_vector=torch.full((16,), torch.nan)), "holds NaN or Inf"),
    ):
        with pytest.raises(AdapterError, match=said):
            Adapter.load(folder, conversion=base)
    own = changed("own", {"base_model_name_or_path": str(dora.base)})
    with pytest.raises(AdapterError, match=r"a DoRA; an evaluation holds.*sst-merge export"):
        adapted_modules({"own": own})


def test_every_command_reads_it(dora: Dora, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        outcome = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    base = ("--base", dora.base, "--convert-lost", 0.05)
    assert "DoRA, read as a LoRA of rank" in run("inspect", dora.folder, *base, "--no-signs")
    said = run("merge", "--skill", dora.folder, *base, "--method", "task_arithmetic", "-o", tmp_path / "out")
    assert "DoRA, read as a LoRA" in said
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    found = report["provenance"]["converted"]["dora"]
    assert found["kind"] == "DoRA" and found["base"] == "base" and 0.0 < found["lost"] <= 0.05
    run("export", dora.folder, *base, "--to", "peft", "-o", tmp_path / "plain")
    record = json.loads((tmp_path / "plain" / "export_report.json").read_text())
    assert record["converted"] == found
    assert Adapter.load(tmp_path / "plain").converted is None
    outcome = CliRunner().invoke(cli, ["inspect", str(dora.folder)])
    assert outcome.exit_code != 0 and "--base-model" in outcome.output


@pytest.mark.parametrize("shape", [(390, 410), (410, 390)])
def test_a_wide_matrix_is_cut_as_well_as_by_all_singular_values(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(shape[0], 40, generator=generator), torch.randn(40, shape[1], generator=generator)
    delta = left * 0.8 ** torch.arange(40) @ right + 0.001 * torch.randn(shape, generator=generator)
    values = torch.linalg.svdvals(delta.double()).square()
    for rank, most in ((None, 0.01), (12, 1.0), (None, 1e-6)):
        found = nearest(delta, rank=rank, most_lost=most)
        kept = found.b.shape[1]
        lost = float((found.b @ found.a - delta).double().square().sum() / delta.double().square().sum())
        assert found.lost == pytest.approx(lost, rel=1e-3, abs=1e-9)
        assert found.lost <= 1.001 * float(values[kept:].sum() / values.sum())
        assert kept == rank if rank is not None else float(values[kept - 1 :].sum() / values.sum()) > most
