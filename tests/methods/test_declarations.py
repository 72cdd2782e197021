"""What a declaration is checked for, and what experiments read in it."""

import doctest
from dataclasses import replace

import pytest
from torch import Tensor

from sst_merge.errors import MergeError
from sst_merge.experiments.method_sweeps import METHOD_SWEEPS, TWO_STAGE_SWEEPS, _by_label
from sst_merge.methods import (
    SAFETY_WEIGHT,
    Layer,
    MergeMethod,
    MethodOptions,
    MethodSweep,
    TwoStageSweep,
    available_methods,
    contract,
    merge_method,
)


class Options(MethodOptions):
    strength: float = 1.0
    whole: bool = True


def _declared(*sweeps: MethodSweep | TwoStageSweep, knob: str = "strength") -> MergeMethod:
    @merge_method(name="mine", summary="s", paper="p", options=Options, knob=knob, sweeps=sweeps)
    def mine(layer: Layer, options: Options, state: None) -> Tensor:
        return layer.weighted_sum()

    return mine


def test_the_examples_in_docstrings_are_true() -> None:
    found = doctest.testmod(contract)
    assert found.attempted >= 6 and not found.failed


def test_a_sweep_gets_the_methods_name_and_knob() -> None:
    own, by_weight, staged = _declared(
        MethodSweep("A", (0.5, 1.0)), MethodSweep("B", (0.5,), knob=SAFETY_WEIGHT), TwoStageSweep("C", (1.0,))
    ).sweeps
    assert isinstance(own, MethodSweep) and isinstance(by_weight, MethodSweep)
    assert (own.method, own.knob, own.middle) == ("mine", "strength", 1.0)
    assert by_weight.knob == SAFETY_WEIGHT
    assert staged.method == "mine"


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (MethodSweep("A", (1.0,), knob="mu"), r"sweep 'A': unknown option 'mu' \(method 'mine' has: strength, whole\)"),
        (MethodSweep("A", (1.0,), {"half": 1}, SAFETY_WEIGHT), r"sweep 'A': unknown option 'half'"),
        (MethodSweep("A", (1.0, float("nan"))), r"sweep 'A': option 'strength' = nan of method 'mine'"),
        (TwoStageSweep("A", (1.0,), {"whole": "perhaps"}), r"sweep 'A': option 'whole' = 'perhaps' of method 'mine'"),
    ],
)
def test_a_sweep_that_the_method_refuses_is_named(sweep: MethodSweep | TwoStageSweep, said: str) -> None:
    with pytest.raises(MergeError, match=said):
        _declared(sweep)


def test_a_knob_that_is_no_option_is_named() -> None:
    with pytest.raises(MergeError, match=r"method 'mine' declares knob 'mu', its options are \['strength', 'whole'\]"):
        _declared(knob="mu")


def test_two_sweeps_with_one_label_are_refused() -> None:
    ties = METHOD_SWEEPS["TIES"]
    with pytest.raises(MergeError, match=r"methods 'ties' and 'other' both declare a sweep with the label 'TIES'"):
        _by_label([ties, replace(ties, method="other")])


def test_a_label_belongs_to_one_method() -> None:
    sweeps = [sweep for method in available_methods().values() for sweep in method.sweeps]
    owners = {label: {sweep.method for sweep in sweeps if sweep.label == label} for label in {s.label for s in sweeps}}
    assert all(len(methods) == 1 for methods in owners.values())


def test_the_safety_weight_gives_the_share_that_was_asked_for() -> None:
    averaged, added = TWO_STAGE_SWEEPS["RegMean"], TWO_STAGE_SWEEPS["Task Arithmetic"]
    weight = averaged.safety_weight(0.4, 1.5, 8)
    assert weight / (8 + weight) == pytest.approx(0.4)
    assert 0.3 * added.safety_weight(0.85, 0.3, 8) == pytest.approx(0.85)
