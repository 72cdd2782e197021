"""Questions about every value: one NaN, infinity or number anywhere in any type decides, as asking each one does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sst_merge.lora_utils.values import all_finite, all_zero

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
ODD = [float("nan"), float("inf"), -float("inf"), 0.25, -0.25]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@given(rows=st.integers(1, 9), columns=st.integers(1, 70), at=st.integers(0, 629), value=st.sampled_from(ODD))
def test_one_value_anywhere_decides(dtype: torch.dtype, rows: int, columns: int, at: int, value: float) -> None:
    tensor = torch.zeros(rows, columns)
    assert all_finite(tensor.to(dtype)) and all_zero(tensor.to(dtype))
    tensor.view(-1)[at % tensor.numel()] = value
    tensor = tensor.to(dtype)
    assert all_finite(tensor) == bool(tensor.float().isfinite().all())
    assert not all_zero(tensor)
    assert all_finite(tensor.T) == all_finite(tensor)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_large_and_empty_ones(dtype: torch.dtype) -> None:
    large = torch.ones(300, 1001)
    assert all_finite(large.to(dtype))
    large[299, 1000] = float("nan")
    assert not all_finite(large.to(dtype))
    assert all_finite(large[:0].to(dtype)) and all_zero(large[:0].to(dtype))
    tiny = torch.full((3, 3), torch.finfo(dtype).smallest_normal, dtype=torch.float64).to(dtype)
    assert not all_zero(tiny)
