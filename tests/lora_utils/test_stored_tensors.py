"""Tensors read by their places are those that safetensors reads; what is no longer there is said."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.errors import AdapterError
from sst_merge.lora_utils.stored_tensors import stored_tensors


def test_every_type_and_shape_is_read_as_by_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    made = {f"t{i}.{shape}": torch.randn(shape, dtype=dtype) for i, dtype in enumerate(dtypes) for shape in SHAPES}
    save_file(made, file, metadata={"format": "pt", "more": "text"})
    found = dict(zip(made, stored_tensors(file, list(made)), strict=True))
    for key, expected in load_file(file).items():
        assert found[key].dtype == expected.dtype
        assert torch.equal(found[key], expected)
    before = found["t2.(4, 3)"].clone()
    found["t2.(4, 3)"].zero_()
    assert torch.equal(stored_tensors(file, ["t2.(4, 3)"])[0], before)


SHAPES = ((4, 3), (1,), (2, 3, 1, 5))


def test_another_file_of_the_name_is_read_anew_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    save_file({"a": torch.ones(2, 2), "b": torch.ones(3)}, file)
    assert float(stored_tensors(file, ["a"])[0].sum()) == 4
    save_file({"c": torch.zeros(7), "a": torch.full((5,), 2.0)}, file)
    assert stored_tensors(file, ["a"])[0].tolist() == [2.0] * 5
    with pytest.raises(AdapterError, match=r"some\.safetensors: cannot read 'b' any more .* was it replaced\?"):
        stored_tensors(file, ["a", "b"])
    os.truncate(file, file.stat().st_size - 2)
    with pytest.raises(AdapterError, match=r"some\.safetensors: ends inside of tensor '[ac]'"):
        stored_tensors(file, ["a", "c"])
    file.write_bytes(b"no safetensors")
    with pytest.raises(AdapterError, match=r"cannot read 'a' any more"):
        stored_tensors(file, ["a"])
    file.unlink()
    with pytest.raises(AdapterError, match=r"cannot read 'a' any more .*No such file"):
        stored_tensors(file, ["a"])
