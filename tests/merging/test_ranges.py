"""Updates of very different size: exact, or refused; never lost."""

import pytest
import torch

from sst_merge.errors import MergeError
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.merging import merge

SIZES = [1e-20, 1e-8, 1e-3, 1.0, 1e3, 1e6, 1e8, 1e10, 1e12, 1e14, 1e18]


def direction(row: int, size: float) -> LoraFactors:
    """One entry of ΔW, at (row, row)."""
    unit = torch.eye(6, dtype=torch.float64)[row]
    return LoraFactors(size * unit[:, None], unit[None, :5])


@pytest.mark.parametrize("method", ["task_arithmetic", "svd", "sce", "ties"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", ["direction", "adapter", "bias", "weight"])
def test_nothing_is_lost_beside_something_large(place: str, size: float, method: str) -> None:
    one, large = direction(0, 1.0), direction(1, size)
    if place == "direction":
        both = LoraFactors(torch.cat([one.b, large.b], 1), torch.cat([one.a, large.a], 0))
        adapters = [Adapter.from_factors({"m": both}, name="both")]
    elif place == "bias":
        column = torch.eye(6, dtype=torch.float64)[5:]
        a = torch.cat([torch.cat([one.a, torch.zeros(1, 1)], 1), column])
        adapters = [Adapter.from_factors({"m": LoraFactors(torch.cat([one.b, large.b], 1), a, bias=True)}, name="both")]
    else:
        weight = size if place == "weight" else 1.0
        update = direction(1, 1.0) if place == "weight" else large
        adapters = [
            Adapter.from_factors({"m": one}, name="one"),
            Adapter.from_factors({"m": update}, name="large", weight=weight),
        ]
    options = {"density": 1.0} if method in {"sce", "ties"} else {}
    try:
        result = merge(adapters, method, compute_dtype=torch.float64, **options)
    except MergeError as error:
        assert size >= 1e8, error  # nobody's update is refused
        assert "size" in str(error) and "'m'" in str(error)
        return
    found = result.adapter.factors("m", dtype=torch.float64)
    assert float(found.delta()[0, 0]) == pytest.approx(1.0, rel=0.02)


def test_the_message_names_both() -> None:
    adapters = [
        Adapter.from_factors({"m": direction(i, size)}, name=n) for i, (n, size) in enumerate((("a", 1), ("b", 1e16)))
    ]
    with pytest.raises(
        MergeError, match=r"module 'm'.*adapter 'b' has a direction.*1e\+16, that of adapter 'a' one of 1"
    ):
        merge(adapters)


@pytest.mark.parametrize("noise", [1e-20, 1e-16, 1e-12, 1e-8])
def test_noise_beside_an_ordinary_update_is_no_reason(noise: float) -> None:
    adapters = [Adapter.from_factors({"m": direction(i, size)}, name=str(i)) for i, size in enumerate((1.0, noise))]
    result = merge(adapters)
    assert float(result.adapter.delta("m")[0, 0]) == pytest.approx(1.0)
    # What is below the last place of the other one is lost: not a reason to stop, but never silently.
    lost = [warning for warning in result.report.warnings if "is lost in 1 of 1 module:" in warning]
    assert [warning.partition(" is lost")[0] for warning in lost] == (["adapter '1'"] if noise < 2e-16 else [])


def test_an_adapter_is_lost_only_where_it_stands_beside_a_larger_one() -> None:
    large = Adapter.from_factors({"m": direction(0, 1.0)}, name="large")
    small = Adapter.from_factors({"m": direction(1, 1e-30), "n": direction(1, 1e-30)}, name="small")
    (said,) = [w for w in merge([large, small]).report.warnings if "is lost" in w]
    assert said.startswith("adapter 'small' is lost in 1 of 2 modules:")
    assert not any("is lost" in w for w in merge([large, small.with_(weight=0.0)]).report.warnings)
