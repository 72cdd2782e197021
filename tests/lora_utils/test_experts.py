"""LoRA of fused experts and routers (``target_parameters``) against PEFT's own updates of tiny mixtures."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sst_merge import merge
from sst_merge.cli.main import cli
from sst_merge.conversion import write_full_model
from sst_merge.errors import AdapterError, BaseModelError, MergeError
from sst_merge.evaluation.adapters import check_adapters
from sst_merge.evaluation.hf import _check_loaded
from sst_merge.lora_utils import Adapter, BaseModelIndex, BaseWeights, ExpertKind, check_against_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SIZES = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 12, "num_experts_per_tok": 2, "max_position_embeddings": 32}
STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
EXPERTS = 3


def mixture(name: str) -> Any:
    import transformers

    made = {
        "Mixtral": {"num_local_experts": EXPERTS},
        "Qwen3Moe": {"num_experts": EXPERTS, "moe_intermediate_size": 12, "head_dim": 8},
        "GptOss": {"num_local_experts": EXPERTS, "head_dim": 8},
    }
    config = getattr(transformers, f"{name}Config")(**SIZES, **made[name])
    config._experts_implementation = "eager"  # the others compute in float32 alone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{name}ForCausalLM")(config).double().eval()


class Mixture:
    """A model with two adapters of it: attention, both stacks and the router; and down_proj alone."""

    def __init__(self, build: Any, folder: Path, name: str) -> None:
        self.model = mixture(name)
        build.randomise(self.model, seed=1, scale=0.1)
        self.base = folder / "base"
        self.model.save_pretrained(self.base)
        self.router = "mlp.router" if name == "GptOss" else "mlp.gate"
        self.folders = [folder / "one", folder / "two"]
        options: list[dict[str, Any]] = [
            {"targets": ["q_proj"], "target_parameters": [*STACKS, f"{self.router}.weight"], "r": 3, "lora_alpha": 5},
            {"targets": [], "target_parameters": STACKS[1:], "r": 2, "use_rslora": True},
        ]
        self.deltas: list[dict[str, Tensor]] = []
        before = dict(self.model.named_parameters())
        for place, (target, option) in enumerate(zip(self.folders, options, strict=True)):
            adapted = build.peft_model(self.model, seed=place, **option)
            adapted.save_pretrained(target)
            after = dict(adapted.merge_and_unload().named_parameters())
            found = {n: (w - before[n]).detach() for n, w in after.items()}
            self.deltas.append({n: delta for n, delta in found.items() if bool(delta.any())})

    def load(self) -> list[Adapter]:
        index = BaseModelIndex.of(self.model)
        adapters = [Adapter.load(self.folders[0]), Adapter.load(self.folders[1], weight=0.5)]
        for adapter in adapters:
            check_against_base(adapter, index)
        return [adapter.with_kinds(index.kinds) for adapter in adapters]

    def moved(self, deltas: Mapping[str, Tensor]) -> Any:
        """The model with dense updates of its parameters."""
        changed = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, delta in deltas.items():
                changed.get_parameter(name).add_(delta)
        return changed

    def assert_gives(self, build: Any, relative_error: Any, found: Any, deltas: Mapping[str, Tensor]) -> None:
        """A model gives the logits of the dense sum, which are others than the base's."""
        expected = build.logits(self.moved(deltas))
        assert relative_error(build.logits(found), expected) < 1e-6  # norms compute in float32
        assert relative_error(build.logits(self.model), expected) > 1e-2


@pytest.fixture(scope="module")
def mixtures(build: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mixture]:
    return {name: Mixture(build, tmp_path_factory.mktemp(name), name) for name in ("Mixtral", "Qwen3Moe", "GptOss")}


@pytest.fixture(params=["Mixtral", "Qwen3Moe", "GptOss"])
def made(request: pytest.FixtureRequest, mixtures: dict[str, Mixture]) -> Mixture:
    return mixtures[request.param]


def test_every_expert_is_read_as_peft_applies_it(relative_error: Any, made: Mixture) -> None:
    for adapter, deltas in zip(made.load(), made.deltas, strict=True):
        assert {adapter.kind(m).tensor_name(m) for m in adapter.modules} == deltas.keys()
        for module in adapter.modules:
            kind = adapter.kind(module)
            theirs = kind.matrix(kind.part(deltas[kind.tensor_name(module)]))
            assert relative_error(adapter.delta(module, dtype=torch.float64), theirs) < 1e-14
    first = made.load()[0]
    assert sum(isinstance(first.kind(m), ExpertKind) for m in first.modules) == 2 * 2 * EXPERTS
    assert first.rank("model.layers.0.mlp.experts.down_proj.2") == 3 and str(first.kind(first.modules[0])) == (
        f"expert 0 of {EXPERTS}"
    )


def test_one_alone_and_two_together_load_in_peft(
    build: Any, relative_error: Any, made: Mixture, tmp_path: Path
) -> None:
    one, two = made.load()
    first, second = made.deltas
    both = {n: first.get(n, 0) + 0.5 * second.get(n, torch.zeros(())) for n in first}
    for adapters, deltas in (([one], first), ([two.with_(weight=1.0)], second), ([one, two], both)):
        merged = merge(adapters, compute_dtype=torch.float64)
        for ranks in ("uniform", "pattern") if len(adapters) == 2 else ("uniform",):
            out = merged.save(tmp_path / "out", ranks=ranks, force=True)
            loaded = PeftModel.from_pretrained(copy.deepcopy(made.model), out)
            made.assert_gives(build, relative_error, loaded, deltas)
            assert Adapter.load(out).modules == merged.adapter.modules
            # As an evaluation compares what it loaded with the file.
            (checked,) = check_adapters({"out": out}, BaseModelIndex.of(made.model))
            _check_loaded(loaded, checked)
    config = json.loads((out / "adapter_config.json").read_text())
    assert f"model.layers.1.{STACKS[0]}" in config["target_parameters"]
    assert config["target_modules"] == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]


def test_all_linear_is_read_with_the_ranks_that_peft_gave(
    build: Any, relative_error: Any, mixtures: dict[str, Mixture], tmp_path: Path
) -> None:
    made = mixtures["Qwen3Moe"]
    adapted = build.peft_model(made.model, targets="all-linear", r=2, lora_alpha=3)
    adapted.save_pretrained(tmp_path / "all")
    adapter = Adapter.load(tmp_path / "all")
    stem = "model.layers.1.mlp"
    # Gate and up were two layers of rank 2 before they were one.
    assert [adapter.rank(f"{stem}.{m}") for m in ("experts.gate_up_proj.0", "experts.down_proj.0", "gate")] == [4, 2, 2]
    after = adapted.merge_and_unload()
    for module in adapter.modules:
        kind = adapter.kind(module)
        name = kind.tensor_name(module)
        theirs = kind.part(after.get_parameter(name) - made.model.get_parameter(name))
        assert relative_error(adapter.delta(module, dtype=torch.float64), theirs) < 1e-14


def test_ties_is_the_dense_method_on_every_expert(relative_error: Any, mixtures: dict[str, Mixture]) -> None:
    made = mixtures["GptOss"]
    pair = [adapter.with_(weight=1.0) for adapter in made.load()]
    found = merge(pair, "ties", density=0.4, compute_dtype=torch.float64).adapter
    name = "model.layers.0.mlp.experts.down_proj"
    for index in range(EXPERTS):
        updates = [deltas[name][index] for deltas in made.deltas]
        trimmed = []
        for delta in updates:
            least = delta.abs().flatten().kthvalue(delta.numel() - int(0.4 * delta.numel()) + 1).values
            trimmed.append(torch.where(delta.abs() >= least, delta, 0.0))
        sign = sum(trimmed).sign()
        agreeing = [torch.where(t.sign() == sign, t, 0.0) for t in trimmed]
        count = sum((t != 0).double() for t in agreeing).clamp_min(1)
        assert relative_error(found.factors(f"{name}.{index}").stored_delta(), sum(agreeing) / count) < 1e-12


def test_a_whole_model_and_the_weights_of_a_base(
    build: Any, relative_error: Any, made: Mixture, tmp_path: Path
) -> None:
    one = made.load()[0]
    written = write_full_model(tmp_path / "full", one, made.base)
    again = type(made.model).from_pretrained(tmp_path / "full", dtype=torch.float64).eval()
    again.config._experts_implementation = "eager"
    made.assert_gives(build, relative_error, again, made.deltas[0])
    assert written.tensors > len(written.changed)
    module = "model.layers.1.mlp.experts.gate_up_proj.1"
    kind, weights = one.kind(module), BaseWeights.load(made.base)
    if "model.layers.1.mlp.experts.gate_up_proj" in weights.files:
        stack = made.model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
        assert torch.equal(weights.weight(module, kind=kind, dtype=torch.float64), stack[1].T)
    else:
        with pytest.raises(BaseModelError, match="needs a tensor"):
            weights.shape(module, kind=kind)


def test_commands(mixtures: dict[str, Mixture], tmp_path: Path) -> None:
    made = mixtures["Qwen3Moe"]

    def run(*words: object) -> Any:
        return CliRunner().invoke(cli, [str(word) for word in words])

    adapters = ("--skill", made.folders[0], "--safety", made.folders[1])
    plain = ("--base", made.base, "--method", "task_arithmetic")
    done = run("merge", *adapters, *plain, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    # One for every expert, and a router, an attention and nothing else in both layers.
    assert f"{2 * (2 * EXPERTS + 2)} modules" in done.stdout
    assert run("inspect", made.folders[0], "--no-signs").exit_code == 0
    refused = run("merge", *adapters, "--base", made.base, "--calibration", "builtin", "-o", tmp_path / "no")
    assert refused.exit_code != 0
    assert "looks at the layers of the running base" in refused.output
    assert "--leave-out mlp.experts --leave-out mlp.gate" in refused.output


def changed(made: Mixture, folder: Path, fields: dict[str, Any], **edits: Tensor) -> Path:
    """A copy of the first adapter; edits by the ends of keys of layer 0, with two underscores for a dot."""
    folder.mkdir()
    config = json.loads((made.folders[0] / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    tensors = load_file(made.folders[0] / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.0.mlp."
    tensors |= {f"{stem}{name.replace('__', '.')}.weight": tensor for name, tensor in edits.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_what_is_refused(mixtures: dict[str, Mixture], tmp_path: Path) -> None:
    made = mixtures["Mixtral"]
    ones = torch.ones
    for name, fields, edits, said in (
        ("unnamed", {"target_parameters": None}, {}, "belongs to a LoRA inside a LoRA"),
        ("other", {"target_parameters": ["mlp.experts.a", "mlp.experts.b"]}, {}, "of 2 of the parameters"),
        ("shape", {}, {"experts__lora_B": ones(10, 9)}, "which are no gate_up_proj and down_proj.*--leave-out"),
        ("ranks", {"rank_pattern": {".*down_proj": 2}}, {}, r"A \(9, 12\).*say rank 2"),
        ("router", {}, {"gate__lora_A": ones(6, 16), "gate__lora_B": ones(3, 6)}, r"gate\.weight' has A \(6, 16\)"),
    ):
        with pytest.raises(AdapterError, match=said):
            Adapter.load(changed(made, tmp_path / name, fields, **edits))
    assert Adapter.load(tmp_path / "shape", leave_out=["mlp.experts", "mlp.gate"]).modules == tuple(
        f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)
    )
    one = made.load()[0]
    with pytest.raises(MergeError, match=r"'fisher_merging' looks at the layers.*--leave-out mlp\.gate$"):
        merge([one], "fisher_merging", model=made.model, harm=[None], benign=[None])  # type: ignore[list-item]
    wider = mixture("Mixtral").config
    wider.num_local_experts = 5
    other = BaseModelIndex.of(type(made.model)(wider))
    with pytest.raises(BaseModelError, match=r"is of kind expert 0 of 3, the base model 'model' has expert 0 of 5"):
        check_against_base(Adapter.load(made.folders[1]), other)
