"""Other kinds of PEFT's adapters, read as plain LoRA: against PEFT's own merge into the base, in float64."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sst_merge.lora_utils import Adapter, Conversion

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
            pytest.skip(f"PEFT {peft.__version__} has no {case.config}")
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
