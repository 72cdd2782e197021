"""Base + known LoRA as a whole model, and back: the same ΔW; what is cut or lies elsewhere is measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sst_merge.conversion import extract_adapter
from sst_merge.errors import BaseModelError, ConversionError
from sst_merge.lora_utils import Adapter

CASES = {
    "llama": ("llama", False, {"targets": ["q_proj", "down_proj", "lm_head", "embed_tokens"]}),
    "gpt2": ("gpt2", True, {"targets": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
}


def tuned(build: Any, model: Any, folder: Path, **options: Any) -> tuple[Path, dict[str, Tensor]]:
    """A model with an adapter merged in by PEFT, and what it changed, in float64."""
    merged = build.peft_model(model, **options).merge_and_unload()
    merged.save_pretrained(folder)
    before = dict(model.named_parameters())
    return folder, {n: p.detach().double() - before[n].detach().double() for n, p in merged.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_a_known_update_comes_back(
    build: Any, tmp_path: Path, tiny_base: Any, case: str, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    from peft import PeftModel

    architecture, tied, options = CASES[case]
    model, base = tiny_base(architecture, tied=tied)
    folder, changes = tuned(build, model, tmp_path / "tuned", **options)
    found = extract_adapter(base, folder, tmp_path / "out", rank=4)
    adapter = Adapter.load(tmp_path / "out")
    changed = {name.removesuffix(".weight") for name, change in changes.items() if bool(change.any())}
    assert set(adapter.modules) == changed == set(found.modules)
    for module in adapter.modules:
        change = changes[f"{module}.weight"]
        delta = adapter.delta(module, dtype=torch.float64)
        assert relative_error(delta, change.T if delta.shape != change.shape or case == "gpt2" else change) < 1e-5
    assert found.lost < 1e-10
    assert found.elsewhere == {}
    loaded = PeftModel.from_pretrained(build.tiny_model(architecture) if not tied else model, str(tmp_path / "out"))
    expected = type(model).from_pretrained(folder).eval()
    assert relative_error(build.logits(loaded.eval()), build.logits(expected)) < 1e-5


def test_tied_embeddings_move_together(
    build: Any, tmp_path: Path, tiny_base: Any, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    from peft import PeftModel

    _, base = tiny_base("llama", tied=True)
    weights = load_file(base / "model.safetensors")
    low = build.random_factors(37, 16, 2, dtype=torch.float32).delta()
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "config.json").write_text((base / "config.json").read_text())
    changed = weights | {"model.embed_tokens.weight": weights["model.embed_tokens.weight"] + 0.1 * low}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    found = extract_adapter(base, folder, tmp_path / "out", rank=2)
    assert set(found.modules) == {"model.embed_tokens", "lm_head"}
    from transformers import AutoModelForCausalLM

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out")).eval()
    expected = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert relative_error(build.logits(loaded), build.logits(expected)) < 1e-5


def test_energy_and_what_no_update_holds(build: Any, tmp_path: Path, tiny_base: Any) -> None:
    model, base = tiny_base("llama")
    folder, changes = tuned(build, model, tmp_path / "tuned", targets=["v_proj", "up_proj"], r=6)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = extract_adapter(base, folder, tmp_path / "out", energy=0.8, leave_out=["layers.1.mlp.up_proj"])
    lost = total = 0.0
    for module, figures in found.modules.items():
        values = torch.linalg.svdvals(changes[f"{module}.weight"]).square()
        fewest = int((values.cumsum(0) < 0.8 * values.sum()).sum()) + 1
        assert figures.rank == fewest
        assert figures.lost == pytest.approx(1 - float(values[:fewest].sum() / values.sum()), abs=1e-6)
        lost, total = lost + float(values[fewest:].sum()), total + float(values.sum())
    assert found.lost == pytest.approx(lost / total, abs=1e-6)
    beside = {"model.norm.weight": 0.25 * 16}
    beside["model.layers.1.mlp.up_proj.weight"] = float(changes["model.layers.1.mlp.up_proj.weight"].square().sum())
    assert found.elsewhere == pytest.approx(beside, rel=1e-5)
    assert found.elsewhere_share == pytest.approx(sum(beside.values()) / (sum(beside.values()) + total), rel=1e-5)


def test_what_makes_no_adapter_is_refused(build: Any, tmp_path: Path, tiny_base: Any) -> None:
    _, base = tiny_base("llama")
    out = tmp_path / "place/out"
    with pytest.raises(ConversionError, match="no weight of a layer differs"):
        extract_adapter(base, base, out, rank=2)
    for rank, energy in ((None, None), (2, 0.5)):
        with pytest.raises(ConversionError, match="give either a rank"):
            extract_adapter(base, base, out, rank=rank, energy=energy)
    with pytest.raises(ConversionError, match="has no such layer"):
        extract_adapter(base, base, out, rank=2, leave_out=["nothing"])
    with pytest.raises(BaseModelError, match="expected two models of one architecture"):
        extract_adapter(tiny_base("gpt2")[1], base, out, rank=2)
    wider = build.tiny_model("llama")
    wider.resize_token_embeddings(40)
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(BaseModelError, match=r"has shape \(40, 16\), in the base .* \(37, 16\)"):
        extract_adapter(base, tmp_path / "wider", out, rank=2)
    assert list(out.parent.iterdir()) == []
