"""The device that is taken, and what goes to the CPU where it has no float64. No test here has run on Apple's GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge.data_loader import load_base_model
from sst_merge.data_loader.devices import algebra_device, computing_type, in_float64, onto, resolve_device
from sst_merge.errors import ConfigError


def test_mps_is_taken_where_it_is_asked_for_and_there(monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "empty", lambda size, device: asked.append(device))
    assert resolve_device("mps") == "mps" and asked == ["mps"]
    monkeypatch.undo()
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match=r"'mps' cannot be used here .*take cpu, cuda or auto"):
            resolve_device("mps")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_algebra_of_a_model_on_mps_runs_on_the_cpu() -> None:
    assert algebra_device("mps") == algebra_device("cpu") == torch.device("cpu")
    assert algebra_device("cuda:1") == torch.device("cuda:1")
    half = torch.tensor([1.5], dtype=torch.bfloat16)
    assert in_float64(half).dtype == torch.float64 and in_float64(half) == 1.5

    class Wide:
        """A float64 tensor that tells how it is moved, for there is no such device here."""

        dtype, done = torch.float64, ()

        def float(self) -> "Wide":
            self.done, self.dtype = (*self.done, "float32"), torch.float32
            return self

        def to(self, device: torch.device) -> "Wide":
            self.done = (*self.done, device.type)
            return self

    moved: Any = [onto(Wide(), torch.device(name)).done for name in ("mps", "cuda")]  # type: ignore[arg-type]
    assert moved == [("float32", "mps"), ("cuda",)]


def test_float64_on_mps_is_refused_before_the_weights(build: Any, tmp_path: Any) -> None:
    build.tiny_model("llama").config.save_pretrained(tmp_path)  # no weights: whoever reads them fails otherwise
    with pytest.raises(ConfigError, match="model_dtype: float64 is none that device mps has; take float32"):
        load_base_model(str(tmp_path), dtype="float64", device="mps")


@pytest.mark.parametrize(
    ("able", "dtype", "expected"),
    [
        ({"avx2": True, "avx512_fp16": False}, "float16", "float32"),
        ({"avx2": True, "avx512_bf16": False}, "bfloat16", "float32"),
        ({"avx512_fp16": True}, "float16", "float16"),
        ({"avx512_fp16": True}, "bfloat16", "float32"),
        ({"amx_bf16": True}, "bfloat16", "bfloat16"),
        ({"fp16_arith": True}, "float16", "float16"),
        ({}, "float16", "float32"),
        ({}, "float32", "float32"),
        ({}, "float64", "float64"),
    ],
)
def test_half_types_are_computed_in_where_the_processor_multiplies_them(
    able: dict[str, bool], dtype: str, expected: str, monkeypatch: pytest.MonkeyPatch, build: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert computing_type(dtype, "cpu") == expected
    model = build.tiny_model("llama", dtype=getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    loaded = load_base_model(str(tmp_path))
    assert str(loaded.dtype) == f"torch.{expected}"
    assert load_base_model(str(tmp_path), dtype="float16").dtype == torch.float16  # what is asked for is done
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.to(loaded.dtype)), name


def test_a_torch_that_cannot_tell_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert computing_type("bfloat16", "cpu") == "float32"
