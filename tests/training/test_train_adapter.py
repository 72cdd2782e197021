"""Training itself, against autograd on the full logits, torch's own AdamW, and PEFT's loading."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import ARCHITECTURES, add_deltas, logits
from tests.conftest import error_of as relative_error
from tests.training.conftest import WORDS, recipe, rows, tokenizer, write_base
from torch.nn.functional import cross_entropy

from sst_merge.data_loader import Row, load_base_model
from sst_merge.errors import BaseModelError, ConfigError, DataError, OutputExistsError, TrainingError
from sst_merge.files import file_sha256
from sst_merge.lora_utils import Adapter
from sst_merge.training import TrainingRecipe, plan_training, train_adapter
from sst_merge.training.train import training_dtype

FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "training_report.json"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def trained(base: Path, out: Path, *, seed: int = 0, how: TrainingRecipe | None = None, **options: Any) -> Any:
    return train_adapter(base, options.pop("data", rows()), out, recipe=how or recipe(), seed=seed, **options)


def alike(begin: int = 40) -> list[Row]:
    """Rows of two tasks: each task's prompts begin with the same words."""
    words = [" ".join(WORDS[(3 * i + k) % 30] for i in range(begin)) for k in (0, 7)]
    return [Row(f"{words[i % 2]} {row.prompt}", row.response) for i, row in enumerate(rows())]


def by_hand(base: Path, data: list[Row], how: TrainingRecipe, seed: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same training, written the slow way: full logits, transformers' shift, mean over all answers of the step."""
    from peft import LoraConfig, get_peft_model

    plan = plan_training(data, tokenizer(), how, seed=seed)
    torch.manual_seed(seed)
    targets = how.targets if isinstance(how.targets, str) else list(how.targets)
    config = LoraConfig(r=how.rank, lora_alpha=how.alpha, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(load_base_model(str(base), dtype="float32"), config).eval()
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(weights.values(), weight_decay=how.weight_decay)
    warm, losses = math.ceil(how.warmup * len(plan.steps)), []
    for number, step in enumerate(plan.steps):
        width = max(len(plan.rows[i].ids) for i in step)
        ids = torch.tensor([[*plan.rows[i].ids, *[0] * (width - len(plan.rows[i].ids))] for i in step])
        mask = torch.tensor([[1] * len(plan.rows[i].ids) + [0] * (width - len(plan.rows[i].ids)) for i in step])
        labels = ids.masked_fill(mask == 0, -100)
        for row, i in enumerate(step):
            labels[row, : plan.rows[i].asked] = -100
        shown = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        loss = cross_entropy(shown, labels[:, 1:].flatten(), ignore_index=-100)
        losses.append(float(loss.detach()))
        rise = (number + 1) / warm if number < warm else None
        fall = 0.5 * (1 + math.cos(math.pi * (number - warm) / (len(plan.steps) - warm)))
        optimiser.param_groups[0]["lr"] = how.learning_rate * (fall if rise is None else rise)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in weights.values()]).norm()
        for parameter in weights.values():
            parameter.grad *= min(1.0, how.clip / float(norm))
        optimiser.step()
    return {name.replace(".default", ""): p.detach() for name, p in weights.items()}, losses


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (rows(), recipe(epochs=2, warmup=0.5)),
        (rows(), recipe(epochs=2, clip=0.05, weight_decay=0.3, targets=["q_proj", "layers.1.mlp.down_proj"])),
        (rows(), recipe(epochs=2, batch_size=6, accumulation=4)),
        (rows(), recipe(epochs=2, gradient_checkpointing=True)),
        (alike(), recipe(epochs=2)),
        (alike(), recipe(epochs=2, gradient_checkpointing=True)),
    ],
    ids=["plain", "clipped", "accumulated", "checkpointed", "shared", "shared-checkpointed"],
)
def test_the_weights_are_those_of_a_training_on_full_logits(
    base: Path, tmp_path: Path, data: list[Row], how: TrainingRecipe
) -> None:
    report = trained(base, tmp_path / "out", how=how, seed=3, data=data)
    shared = data != rows() and not how.gradient_checkpointing
    assert (report.computed_tokens < 0.5 * report.tokens) == shared
    with torch.random.fork_rng():
        weights, losses = by_hand(base, data, how, seed=3)
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert found.keys() == weights.keys()
    for name, wanted in weights.items():
        assert relative_error(found[name], wanted) < 2e-4, name  # Adam divides by small numbers, so rounding grows
    assert list(report.losses) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_peft_loads_the_result_as_base_plus_update(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base = write_base(tmp_path / "base", architecture)
    how = recipe(learning_rate=0.05, targets=list(ARCHITECTURES[architecture].linears))
    report = trained(base, tmp_path / "out", how=how)
    assert report.losses[-1] < report.losses[0]
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    adapter = Adapter.load(tmp_path / "out")
    assert adapter.base_model == str(base)
    plain = load_base_model(str(base), dtype="float32")
    loaded = PeftModel.from_pretrained(load_base_model(str(base), dtype="float32"), tmp_path / "out").eval()
    assert relative_error(logits(loaded), logits(add_deltas(plain, adapter))) < 1e-5
    assert relative_error(logits(loaded), logits(plain)) > 1e-3


def test_a_base_with_dropout_is_trained_without(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "gpt2")
    assert json.loads((base / "config.json").read_text())["resid_pdrop"] == 0.1
    for checkpointing in (False, True):
        report = trained(base, tmp_path / f"out{checkpointing}", how=recipe(gradient_checkpointing=checkpointing))
        again = trained(base, tmp_path / f"again{checkpointing}", how=recipe(gradient_checkpointing=checkpointing))
        assert report.losses == again.losses


def test_same_seed_same_bytes(base: Path, tmp_path: Path) -> None:
    reports = [trained(base, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert reports[0].files == reports[1].files
    assert (tmp_path / "a" / "README.md").read_text() == (tmp_path / "b" / "README.md").read_text()


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("stop", [1, 4])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(base: Path, tmp_path: Path, stop: int) -> None:
    whole = trained(base, tmp_path / "whole", how=recipe(epochs=2))
    steps: list[int] = []

    def kill(_stage: str, done: int, total: int) -> None:
        steps.append(done)
        if steps == list(range(1, stop + 1)):
            raise _Killed

    options: dict[str, Any] = {"how": recipe(epochs=2), "progress": kill, "checkpoint_seconds": 0.0}
    with pytest.raises(_Killed):
        trained(base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.glob(".out.*.checkpoint")
    # Another seed to the same place does not go on from it.
    other = trained(base, tmp_path / "out", seed=7, how=recipe(epochs=2))
    assert set(other.losses).isdisjoint(whole.losses)
    assert left.exists()
    report = trained(base, tmp_path / "out", force=True, **options)
    assert steps == list(range(1, whole.steps + 1))
    assert report.losses == whole.losses
    assert report.files["adapter_model.safetensors"] == whole.files["adapter_model.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]


def test_the_report_holds_what_repeats_it(base: Path, tmp_path: Path) -> None:
    how = recipe(batch_size=5)
    report = trained(base, tmp_path / "out", how=how, role="safety", sources={"refusals.jsonl": 24})
    stored = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert stored["format"] == "sst_merge.training_report/1"
    assert TrainingRecipe(**stored["recipe"]) == how
    assert stored["base"]["files"]["model.safetensors"] == file_sha256(base / "model.safetensors")
    assert (stored["role"], stored["sources"], stored["seed"]) == ("safety", {"refusals.jsonl": 24}, 0)
    assert stored["rows"] == 24
    assert stored["steps"] == 5 == len(stored["losses"])
    assert stored["files"]["adapter_model.safetensors"] == file_sha256(tmp_path / "out" / "adapter_model.safetensors")
    assert stored["versions"]["torch"] == torch.__version__
    assert report.seconds > 0
    adapter = Adapter.load(tmp_path / "out")
    assert stored["parameters"] == sum(
        adapter.factors(m).a.numel() + adapter.factors(m).b.numel() for m in adapter.modules
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "safety adapter" in card
    assert "role=safety" in card
    assert str(tmp_path) not in card


def test_the_written_type(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "wide")
    trained(base, tmp_path / "narrow", how=recipe(output_dtype="bfloat16"))
    wide, narrow = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("wide", "narrow"))
    for name, weight in wide.items():
        assert weight.dtype == torch.float32
        assert torch.equal(narrow[name], weight.bfloat16())


def test_bfloat16_trains_the_adapter_in_float32(base: Path, tmp_path: Path) -> None:
    # Whoever used accelerate before in this process chose another precision.
    from accelerate import Accelerator

    assert Accelerator(cpu=True).mixed_precision == "no"
    exact, rough = trained(base, tmp_path / "a"), trained(base, tmp_path / "b", how=recipe(dtype="bfloat16"))
    assert rough.dtype == "bfloat16"
    assert list(rough.losses) == pytest.approx(list(exact.losses), rel=0.02)
    assert rough.losses != exact.losses
    adapter = Adapter.load(tmp_path / "b")
    assert adapter.factors(adapter.modules[0]).a.dtype == torch.float32


def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, expected in (
        ({"avx2": True, "avx512_f": True}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert training_dtype("auto", "cpu") == expected
    assert training_dtype("float32", "cpu") == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert training_dtype("auto", "cuda:1") == "bfloat16"


# --- refused before the base is loaded --------------------------------------------------------------------------------


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("sst_merge.training.train.load_base_model", load)


@pytest.mark.usefixtures("no_loading")
def test_faults_are_told_before_the_base_is_loaded(base: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputExistsError, match="there exists already"):
        trained(base, tmp_path / "there")
    with pytest.raises(BaseModelError, match=r"'q_prj' is no layer of .* did you mean 'q_proj'\? there are down_proj"):
        trained(base, tmp_path / "out", how=recipe(targets=["v_proj", "q_prj"]))
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        trained(tmp_path / "there", tmp_path / "out")
    with pytest.raises(DataError, match="no rows"):
        train_adapter(base, [], tmp_path / "out", recipe=recipe(), seed=0)
    with pytest.raises(DataError, match="no chat template"):
        trained(base, tmp_path / "out", how=recipe(template="chat"))
    with pytest.raises(ConfigError, match="device: 'warp' cannot be used here"):
        trained(base, tmp_path / "out", device="warp")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_a_loss_that_is_not_finite_stops_the_training(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training out: the loss of step \d+ is (nan|inf); lower learning_rate"):
        trained(base, tmp_path / "out", how=recipe(epochs=30, learning_rate=1e30, warmup=0.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": []}, "an empty list"),
        ({"accumulation": 9}, "at most one part a sequence"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"ranks": 8}, "Extra inputs are not permitted"),
    ],
)
def test_a_recipe_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("given", ["all-linear", ["all-linear"], ("all-linear",)])
def test_all_linear_however_it_is_written(given: Any) -> None:
    assert recipe(targets=given).targets == "all-linear"


def test_targets_apart_by_commas() -> None:
    assert recipe(targets="q_proj, v_proj").targets == ("q_proj", "v_proj")
