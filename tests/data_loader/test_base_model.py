"""The one loader of base models: device, type and mode, and what it says where it cannot load."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge.data_loader import load_base_model, load_tokenizer, resolve_device, torch_type
from sst_merge.errors import BaseModelError, ConfigError


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.bfloat16), ("float32", torch.float32)])
def test_a_base_is_loaded_in_the_type_asked_for_and_only_for_reading(
    build: Any, tmp_path: Path, dtype, expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    stored = build.tiny_model("llama", dtype=torch.bfloat16)
    stored.save_pretrained(tmp_path)
    loaded = load_base_model(str(tmp_path), dtype=dtype)
    assert loaded.dtype == expected
    assert not any(module.training for module in loaded.modules())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, stored.get_parameter(name).to(expected))


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"found no config\.json, expected the folder of a base model"):
        load_base_model(str(tmp_path))
    with pytest.raises(BaseModelError, match="transformers cannot load its tokenizer") as caught:
        load_tokenizer(str(tmp_path))
    assert "base model" not in str(caught.value)  # it may be the name of a tokenizer alone


def test_devices_and_types_by_name() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch_type("float16") is torch.float16
    with pytest.raises(ConfigError, match=r"'no_such_device' cannot be used here .*take cpu, cuda or auto"):
        resolve_device("no_such_device")
    for wrong in ("float33", "nn"):
        with pytest.raises(ConfigError, match=f"'{wrong}' is not a type of torch"):
            torch_type(wrong)
