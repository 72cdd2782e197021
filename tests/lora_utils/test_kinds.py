"""Other kinds of PEFT's adapters, read as plain LoRA: against PEFT's own merge into the base, in float64."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sst_merge import merge
from sst_merge.errors import AdapterError
from sst_merge.evaluation.adapters import adapted_modules
from sst_merge.lora_utils import Adapter, Conversion
from sst_merge.lora_utils.kinds import lowering

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@dataclass(frozen=True)
class Case:
    """An adapter of another kind: PEFT's configuration class, its options, and what its arithmetic allows."""

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "distilbert"
    tolerance: float = 1e-10
    rank: int | None = None  # of the first module, where the theory says it
    targets: tuple[str, ...] | None = None


FLOAT32 = 1e-5  # PEFT computes these in float32, whatever it is given
CASES = {
    "loha": Case("LoHaConfig", {"r": 2, "alpha": 3, "init_weights": False}, rank=4),
    "loha_patterns": Case(
        "LoHaConfig", {"r": 2, "alpha": 3, "rank_pattern": {"q_lin": 3}, "alpha_pattern": {"lin1": 5}}
    ),
    "lokr": Case("LoKrConfig", {"r": 2, "alpha": 3, "init_weights": False}),
    "lokr_both": Case("LoKrConfig", {"r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4}, rank=1),
    "adalora": Case("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 9, "lora_alpha": 5}, rank=4),
    "adalora_gpt2": Case("AdaLoraConfig", {"init_r": 4, "total_step": 9, "fan_in_fan_out": True}, "gpt2"),
    "vera": Case("VeraConfig", {"r": 4}, rank=4),
    "vera_drawn_again": Case(
        "VeraConfig", {"r": 4, "save_projection": False, "projection_prng_key": 5}, tolerance=FLOAT32
    ),
    "vera_gpt2": Case("VeraConfig", {"r": 4, "fan_in_fan_out": True}, "gpt2"),
    "pvera": Case("PveraConfig", {"r": 4}, rank=4),
    "randlora": Case("RandLoraConfig", {"r": 4, "save_projection": True}, tolerance=FLOAT32),
    "vblora": Case("VBLoRAConfig", {"num_vectors": 8, "vector_length": 8, "r": 2}, rank=2),
    "fourierft": Case("FourierFTConfig", {"n_frequency": 9}, tolerance=FLOAT32),
    "waveft": Case("WaveFTConfig", {"n_frequency": 32}, tolerance=FLOAT32),
    "c3a": Case("C3AConfig", {"block_size": 8}, tolerance=FLOAT32),
    "gralora": Case("GraloraConfig", {"r": 4, "gralora_k": 2}, rank=8),
    "shira": Case("ShiraConfig", {"r": 2}),
    "delora": Case("DeloraConfig", {"r": 4}, rank=4),
    "miss": Case("MissConfig", {"r": 4}, rank=4),
    "miss_bat": Case("MissConfig", {"r": 4, "init_weights": "bat"}),
    "ia3": Case("IA3Config", {"feedforward_modules": ["lin1"]}),
    "ia3_gpt2": Case("IA3Config", {"feedforward_modules": ["c_fc"], "fan_in_fan_out": True}, "gpt2"),
    "oft": Case("OFTConfig", {"r": 0, "oft_block_size": 4}),
    "oft_exact_cayley": Case("OFTConfig", {"r": 0, "oft_block_size": 4, "use_cayley_neumann": False}),
    "boft": Case("BOFTConfig", {"boft_block_size": 4}),
    "hra": Case("HRAConfig", {"r": 4}, rank=4),
    "road": Case("RoadConfig", {"group_size": 8}),
    "hira": Case("HiraConfig", {"r": 4}),
}


@dataclass(frozen=True)
class Made:
    """An adapter's folder, its base's, and ΔW and the bias' update of every module by PEFT."""

    folder: Path
    base: Path
    deltas: Mapping[str, Tensor]
    bias_deltas: Mapping[str, Tensor]


@pytest.fixture(scope="session")
def make(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Made]:
    """Make an adapter with random values by PEFT, and save it."""
    bases: dict[str, Path] = {}

    def made(case: Case, **saved: Any) -> Made:
        import peft

        if not hasattr(peft, case.config):
            build.skip_below("peft", "0.21", f"it has no {case.config}")
        model = build.tiny_model(case.architecture, dtype=torch.float64)
        if case.architecture not in bases:
            bases[case.architecture] = tmp_path_factory.mktemp("base")
            model.save_pretrained(bases[case.architecture])
        targets = list(case.targets or build.ARCHITECTURES[case.architecture].linears)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = getattr(peft, case.config)(target_modules=targets, **case.options)
            adapted = peft.get_peft_model(copy.deepcopy(model), config).double()
        # AdaLoRA's number of ranks is not trained, nor saved.
        trained = {name for name, p in adapted.named_parameters() if p.requires_grad and "ranknum" not in name}
        for name in trained:
            build.randomise(adapted, seed=1, scale=0.1, only=name)
        folder = tmp_path_factory.mktemp("adapter") / "adapter"
        adapted.save_pretrained(folder)
        merged = dict(adapted.merge_and_unload().named_parameters())
        names = [n.removesuffix(".weight") for n, w in model.named_parameters() if not torch.equal(merged[n], w)]
        layers = {name: model.get_submodule(name) for name in names if not name.endswith(".bias")}
        deltas = {n: merged[f"{n}.weight"].detach() - layer.weight.detach() for n, layer in layers.items()}
        if build.ARCHITECTURES[case.architecture].conv1d:
            deltas = {name: delta.T for name, delta in deltas.items()}
        biases = {n: merged[f"{n}.bias"].detach() - m.bias.detach() for n, m in layers.items() if m.bias is not None}
        return Made(folder, bases[case.architecture], deltas, biases)

    return made


@pytest.mark.parametrize("name", CASES)
def test_every_kind_is_its_delta_by_peft(make: Any, relative_error: Any, name: str) -> None:
    case = CASES[name]
    made = make(case)
    adapter = Adapter.load(made.folder, conversion=Conversion(made.base))
    assert set(adapter.modules) == set(made.deltas)
    for module in adapter.modules:
        factors = adapter.factors(module, dtype=torch.float64)
        assert relative_error(factors.delta(), made.deltas[module]) <= case.tolerance
        shift = factors.bias_delta()
        expected = made.bias_deltas.get(module)
        if expected is not None and expected.any():
            assert shift is not None and relative_error(shift, expected) <= case.tolerance
        else:
            assert shift is None or not shift.any()
    assert adapter.converted is not None and adapter.converted.lost <= 1e-12
    assert any("read as a LoRA of rank" in note for note in adapter.notes)
    if case.rank is not None:
        assert adapter.rank(adapter.modules[0]) == case.rank


def change(folder: Path, **fields: Any) -> None:
    """Set fields of a configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_one_adapter_with_weight_1_is_its_delta(build: Any, make: Any, relative_error: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    made, model = make(CASES["ia3"]), build.tiny_model("distilbert", dtype=torch.float64)
    adapter = Adapter.load(made.folder, conversion=Conversion(made.base))
    files = {file.name for file in made.folder.iterdir()}
    merge([adapter], compute_dtype=torch.float64).save(tmp_path / "out")
    merged = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "out").merge_and_unload()
    for name, delta in made.deltas.items():
        difference = merged.get_submodule(name).weight - model.get_submodule(name).weight
        assert relative_error(difference, delta) <= 1e-10
    # Nothing was written into the user's folder, and its own files are the ones in the report.
    assert {file.name for file in made.folder.iterdir()} == files
    assert adapter.path == made.folder and adapter.fingerprints().keys() == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("name", ["vera", "fourierft", "ia3", "oft"])
def test_without_the_base_a_kind_that_needs_it_says_so(make: Any, name: str) -> None:
    made = make(CASES[name])
    what = "config.json" if name in {"vera", "fourierft"} else "weights, read layer by layer"
    with pytest.raises(AdapterError, match=rf"has no ΔW of its own; it takes .*{what}.*--base"):
        Adapter.load(made.folder)
    # Commands that take no base for it, such as an evaluation, say what does.
    with pytest.raises(AdapterError, match="write it as a plain LoRA first: sst-merge export ADAPTER --base BASE"):
        adapted_modules({name: made.folder})
    # The adapter's own base is taken where it is a folder here.
    change(made.folder, base_model_name_or_path=str(made.base))
    assert set(Adapter.load(made.folder).modules) == set(made.deltas)


def test_a_rank_that_loses_too_much_is_refused_and_a_loss_is_told(make: Any, relative_error: Any) -> None:
    made = make(CASES["oft"])
    with pytest.raises(
        AdapterError, match=r"a OFT, a LoRA of rank 3 leaves out 0\.\d+ of .*--convert-rank.*--convert-lost"
    ):
        Adapter.load(made.folder, conversion=Conversion(made.base, rank=3))
    adapter = Adapter.load(made.folder, conversion=Conversion(made.base, rank=3, most_lost=0.9))
    assert adapter.converted is not None
    for module, figures in adapter.converted.modules.items():
        delta = made.deltas[module]
        values = torch.linalg.svdvals(delta).square()
        # Eckart and Young: no LoRA of that rank loses less.
        assert figures.lost == pytest.approx(float(values[3:].sum() / values.sum()), rel=1e-9)
        assert figures.rank == adapter.rank(module) == 3
        assert relative_error(adapter.delta(module), delta) ** 2 == pytest.approx(figures.lost, rel=1e-9)
    assert any(f"{adapter.converted.lost:.2g} of ‖ΔW‖² is left out" in note for note in adapter.notes)


@pytest.mark.parametrize("name", ["loha", "lokr", "oft"])
def test_beyond_the_exact_rank_as_much_is_kept_as_the_limit_asks(
    make: Any, relative_error: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(lowering, "EXACT_RANK", 1)
    made = make(CASES[name])
    adapter = Adapter.load(made.folder, conversion=Conversion(made.base, most_lost=0.05))
    assert adapter.converted is not None
    for module, figures in adapter.converted.modules.items():
        values = torch.linalg.svdvals(made.deltas[module]).square()
        left = 1 - values.cumsum(0) / values.sum()
        assert figures.rank == int((left > 0.05).sum()) + 1
        assert relative_error(adapter.delta(module), made.deltas[module]) ** 2 == pytest.approx(figures.lost, abs=1e-12)


@pytest.mark.parametrize("name", ["loha", "lokr", "oft", "miss"])
def test_a_limit_of_zero_is_exact_whatever_rounding_leaves(
    make: Any, relative_error: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(lowering, "EXACT_RANK", 1)
    made = make(CASES[name])
    adapter = Adapter.load(made.folder, conversion=Conversion(made.base, most_lost=0.0))
    for module in adapter.modules:
        assert relative_error(adapter.delta(module), made.deltas[module]) <= 1e-7


def test_modules_can_be_left_out(make: Any) -> None:
    made = make(CASES["loha"])
    adapter = Adapter.load(made.folder, leave_out=["lin1"])
    assert set(adapter.modules) == {name for name in made.deltas if not name.endswith("lin1")}
    assert len(adapter.left_out) == 8


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("loha", {"peft_type": "LOKR"}, "belongs to no LOKR update"),
        ("loha", {"a_new_switch": True}, "a_new_switch is True, a field that this version does not know of LOHA"),
        ("loha", {"r": 0}, "r is 0, expected a whole number"),
        ("loha", {"alpha": "two"}, "alpha is 'two', expected a number"),
        (
            "ia3",
            {"a_new_switch": True},
            "a_new_switch is True, a field that the installed PEFT .* does not know of IA3",
        ),
        ("oft", {"oft_block_size": 2}, "the installed PEFT cannot load module .* as OFT .*size mismatch"),
        ("vera", {"save_projection": False, "r": 2}, "the shared A is"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, name: str, edit: dict[str, Any], message: str) -> None:
    made = make(CASES[name])
    change(made.folder, **edit)
    if name == "vera":
        tensors = load_file(made.folder / "adapter_model.safetensors")
        tensors = {key: tensor for key, tensor in tensors.items() if "vera_A" not in key and "vera_B" not in key}
        save_file(tensors, made.folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=message):
        Adapter.load(made.folder, conversion=Conversion(made.base))


def test_values_that_are_not_finite_are_refused(make: Any) -> None:
    made = make(CASES["loha"])
    file = made.folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(AdapterError, match="holds NaN or Inf"):
        Adapter.load(made.folder)


def test_another_base_is_refused(make: Any, build: Any, tmp_path: Path) -> None:
    build.tiny_model("llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(AdapterError, match=r"is not there in the base .*expected a linear layer"):
        Adapter.load(make(CASES["ia3"]).folder, conversion=Conversion(tmp_path / "llama"))


# --- training that moved the base ------------------------------------------------------------------------------------


@pytest.fixture(params=["pissa", "pissa_niter_4", "olora"])
def moved(request: pytest.FixtureRequest, build: Any, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A folder as PEFT leaves it, its initial weights in it, and what training changed of the plain base."""
    from peft import LoraConfig, get_peft_model

    model = build.tiny_model("llama")  # PEFT begins in no other type
    init: str = request.param
    config = LoraConfig(init_lora_weights=init, target_modules=["q_proj", "down_proj"], r=3, use_rslora=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(copy.deepcopy(model), config)
    adapted.save_pretrained(tmp_path / "code" / f"{init.partition('_')[0]}_init")
    build.randomise(adapted, seed=3, scale=0.1, only="lora_")
    adapted.save_pretrained(tmp_path / "code")
    trained = adapted.merge_and_unload()
    names = [f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.q_proj", "mlp.down_proj")]
    return tmp_path / "code", {
        name: (trained.get_submodule(name).weight.double() - model.get_submodule(name).weight.double()).detach()
        for name in names
    }


def test_the_initial_weights_are_taken_off(
    moved: tuple[Path, dict[str, Tensor]], relative_error: Any, tmp_path: Path
) -> None:
    folder, deltas = moved
    adapter = Adapter.load(folder)
    assert set(adapter.modules) == set(deltas)
    for module, delta in deltas.items():
        assert relative_error(adapter.delta(module), delta) <= 1e-5
        assert adapter.rank(module) == 6
    (first,) = [path for path in folder.iterdir() if path.is_dir()]
    first.rename(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match=r"changed the base weights.*there are none beside it.*--initial-weights"):
        Adapter.load(folder)
    named = Adapter.load(folder, conversion=Conversion(initial=tmp_path / "elsewhere"))
    assert torch.equal(named.delta(named.modules[0]), adapter.delta(adapter.modules[0]))
    files = ["adapter_config.json", "adapter_model.safetensors"]
    digests = {f: hashlib.sha256((tmp_path / "elsewhere" / f).read_bytes()).hexdigest() for f in files}
    assert {f: named.fingerprints()[f"initial/{f}"] for f in files} == digests
    assert named.fingerprints().keys() == {*files, *(f"initial/{f}" for f in files)}
    change(tmp_path / "elsewhere", lora_alpha=1)
    with pytest.raises(AdapterError, match="another shape, rank or scale in these initial weights"):
        Adapter.load(folder, conversion=Conversion(initial=str(tmp_path / "elsewhere")))


def test_a_rank_cuts_what_training_changed(moved: tuple[Path, dict[str, Tensor]], relative_error: Any) -> None:
    folder, deltas = moved
    with pytest.raises(AdapterError, match=r"a (pissa|olora)\w*, a LoRA of rank 2 leaves out 0\.\d+ of .*--convert-r"):
        Adapter.load(folder, conversion=Conversion(rank=2))
    adapter = Adapter.load(folder, conversion=Conversion(rank=2, most_lost=1.0))
    assert adapter.converted is not None
    for module, delta in deltas.items():
        values, figures = torch.linalg.svdvals(delta).square(), adapter.converted.modules[module]
        assert adapter.rank(module) == figures.rank == 2
        assert figures.lost == pytest.approx(float(values[2:].sum() / values.sum()), rel=1e-3)
        assert relative_error(adapter.delta(module), delta) ** 2 == pytest.approx(figures.lost, rel=1e-3)


def test_initial_weights_that_are_not_needed_are_named(build: Any, tmp_path: Path) -> None:
    folder = build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"])
    adapter = Adapter.load(folder, conversion=Conversion(initial="somewhere"))
    assert any("initial weights were given, and are not used" in note for note in adapter.notes)
    assert Adapter.load(folder).notes == ()


def test_initial_weights_may_be_a_pickle_too(moved: tuple[Path, dict[str, Tensor]]) -> None:
    folder, _ = moved
    before = Adapter.load(folder)
    deltas = {module: before.delta(module) for module in before.modules}
    (first,) = [path for path in folder.iterdir() if path.is_dir()]
    pickled(first)
    with pytest.raises(AdapterError, match="--allow-pickle"):
        Adapter.load(folder)
    adapter = Adapter.load(folder, conversion=Conversion(allow_pickle=True))
    assert all(torch.equal(adapter.delta(module), delta) for module, delta in deltas.items())
    # A message about the copy of a pickle names the pickle.
    change(pickled(folder), r=5)
    with pytest.raises(AdapterError, match=re.escape(f"{folder / 'adapter_model.bin'}: module ")):
        Adapter.load(folder, conversion=Conversion(allow_pickle=True))


# --- pickles ---------------------------------------------------------------------------------------------------------


def pickled(folder: Path) -> Path:
    """The same adapter as older PEFT wrote it."""
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()
    return folder


@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_a_pickle_needs_a_flag_and_stays_as_it_is(build: Any, make: Any, tmp_path: Path, kind: str) -> None:
    if kind == "lora":
        folder = build.adapter_folder(build.tiny_model("llama"), tmp_path / "one", targets=["q_proj"])
    else:
        folder = make(CASES["loha"]).folder
    before = Adapter.load(folder)
    deltas = {module: before.delta(module) for module in before.modules}
    pickled(folder)
    names = {file.name for file in folder.iterdir()}
    with pytest.raises(AdapterError, match=r"found adapter_model\.bin .*--allow-pickle \(allow_pickle: true\)"):
        Adapter.load(folder)
    adapter = Adapter.load(folder, conversion=Conversion(allow_pickle=True))
    assert all(torch.equal(adapter.delta(module), delta) for module, delta in deltas.items())
    assert {file.name for file in folder.iterdir()} == names
    assert adapter.fingerprints().keys() == {"adapter_config.json", "adapter_model.bin"}
    assert any("was a pickle" in note for note in adapter.notes)
    change(folder, r=0)
    with pytest.raises(AdapterError, match=re.escape(f"{folder / 'adapter_config.json'}: r is 0")):
        Adapter.load(folder, conversion=Conversion(allow_pickle=True))


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('run')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Runs()}, "cannot be read as tensors alone"),
        ({"a": 1}, "of other things than named tensors"),
        ([torch.ones(1)], "holds list"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(build: Any, tmp_path: Path, content: Any, message: str) -> None:
    folder = build.adapter_folder(build.tiny_model("llama"), tmp_path, targets=["q_proj"])
    (folder / "adapter_model.safetensors").unlink()
    torch.save(content, folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder, conversion=Conversion(allow_pickle=True))


def test_other_kinds_and_pickles_on_the_hub(build: Any, make: Any, hub: Any, tmp_path: Path) -> None:
    old = pickled(build.adapter_folder(build.tiny_model("llama"), tmp_path / "old", targets=["q_proj"]))
    loha = make(CASES["loha"]).folder
    for name, folder in (("old", old), ("loha", loha)):
        hub.add(f"user/{name}", {file.name: file.read_bytes() for file in folder.iterdir()})
    with pytest.raises(AdapterError, match="--allow-pickle"):
        Adapter.load("user/old")
    # What is no plain LoRA is fetched even where headers would do.
    for name, folder in (("old", old), ("loha", loha)):
        found = Adapter.load(f"user/{name}", headers_only=True, conversion=Conversion(allow_pickle=True))
        here = Adapter.load(folder, conversion=Conversion(allow_pickle=True))
        assert found.is_fetched and found.name == name
        assert all(torch.equal(found.delta(module), here.delta(module)) for module in here.modules)
