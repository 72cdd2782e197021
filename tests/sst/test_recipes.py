"""Options of SST-Merge that depend on each other."""

from typing import Any

import pytest

from sst_merge.sst import FisherOptions, SSTOptions

WIDE = ("wide", "fisher", "interpolate", "own", 0.001, 0.3)
CORE = ("core", "sum", "add", "trust", 0.1, 0.7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, WIDE),
        ({"mu": 0.3, "fisher": {"estimator": "empirical"}}, WIDE),
        ({"aligned_base": True}, WIDE),
        ({"inputs": "core"}, CORE),
        ({"utility": "sum"}, CORE),
        ({"filter": {"hard": 3}}, CORE),
        ({"filter": "soft"}, WIDE),
        ({"vila": {}}, CORE),
        ({"fisher": {"structure": "block"}}, CORE),
        ({"fisher": FisherOptions(structure="block")}, CORE),
        ({"fisher": FisherOptions(estimator="empirical")}, WIDE),
        ({"fisher": {"harm": "harm.safetensors"}}, CORE),
        ({"inputs": "core", "aligned_base": True}, ("core", "sum", "interpolate", "trust", 0.1, 0.7)),
        ({"inputs": "core", "utility": "fisher"}, ("core", "fisher", "add", "trust", 0.1, 0.7)),
        ({"combine": "add", "damping": 0.5, "fisher": {"point": "base"}}, ("wide", "fisher", "add", "base", 0.5, 0.3)),
    ],
)
def test_what_is_not_given_follows_from_the_inputs(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = SSTOptions.model_validate(given)
    shown = (found.inputs, found.utility, found.combine, found.fisher.point, found.damping, found.output_shrinkage)
    assert shown == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 1.0),
        ({"mu": 0.3}, 0.3),
        ({"tax_budget": 0.1}, None),
        ({"safety_target": 0.9}, None),
        ({"inputs": "core"}, None),
        ({"filter": {"hard": 2}}, None),
    ],
)
def test_mu_is_one_where_nothing_chooses_it(given: dict[str, Any], expected: float | None) -> None:
    assert SSTOptions.model_validate(given).mu == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tune_strengths": (0.5, 1.0)}, "tune_strengths needs a tax_budget"),
        ({"filter": {"hard": 3}, "tune_strengths": (0.5, 1.0)}, "tune_strengths needs a tax_budget"),
        ({"inputs": "wide", "filter": {"hard": 3}}, "inputs: wide goes with the soft filter"),
        ({"inputs": "wide", "vila": {}}, "belongs to inputs: core"),
    ],
)
def test_what_cannot_be_served_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSTOptions.model_validate(given)
