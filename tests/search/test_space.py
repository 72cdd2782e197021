"""What a search tries is what the methods themselves say: their sweeps, and the types and ranges of their options."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from sst_merge.errors import ConfigError
from sst_merge.methods import SAFETY_WEIGHT, MethodSweep, available_methods, option_faults
from sst_merge.search.config import OwnForm
from sst_merge.search.ranges import Choices, Range
from sst_merge.search.space import forms_of, search_space

SWEEPS = {(label, safety): sweep for safety in (True, False) for label, sweep in forms_of((), safety=safety).items()}


class Dice:
    """A sampler that knows nothing; every value is kept within what it is told."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.names: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.names.append(name)
        assert low < high and (low > 0 or not log)
        return self._random.choice([low, high, self._random.uniform(low, high)])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.names.append(name)
        return self._random.randint(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.append(name)
        assert len(choices) > 1
        return self._random.choice(list(choices))


def test_all_methods_that_experiments_sweep_are_searched() -> None:
    declared = {
        sweep.label
        for method in available_methods().values()
        for sweep in method.sweeps
        if isinstance(sweep, MethodSweep) and not sweep.on_request and sweep.base == "unaligned"
    }
    assert set(forms_of((), safety=True)) == declared


@pytest.mark.parametrize(("label", "safety"), SWEEPS)
def test_methods_take_whatever_is_proposed(label: str, safety: bool) -> None:
    sweep = SWEEPS[label, safety]
    space = search_space({label: sweep}, asked={}, ranks=(None, 4))
    method = available_methods()[sweep.method]
    for seed in range(20):
        point = space.point(Dice(seed))
        assert option_faults(method, point.options) == [], point
        swept = point.safety_weight if sweep.knob == SAFETY_WEIGHT else point.options[sweep.knob]
        assert min(sweep.values) <= swept <= max(sweep.values)
        assert point.rank in (None, 4)


def test_options_beside_the_strength_move_only_where_that_costs_nothing_but_the_merge() -> None:
    space = search_space(forms_of(("ties", "della", "sst", "regmean"), safety=True), asked={})
    free = {label: {name: str(of) for name, of in form.free.items()} for label, form in space.forms.items()}
    # As `sst-merge methods ties` prints them: density above 0, at most 1; an excluded end is stayed away from.
    assert free["TIES"]["density"] == "0.05 to 1, logarithmic"
    assert free["TIES"]["normalize"] == "count, weights, none"
    assert "density" not in free["TIES, density 1"], "what a form is made of stays"
    assert free["DELLA"]["elect"] == "True, False"
    assert "epsilon" not in free["DELLA"], "its largest value does not go with the density as it is"
    assert free["RegMean"] == free["SST-Merge"] == {}


def test_a_warm_start_is_what_the_methods_declare() -> None:
    optuna = pytest.importorskip("optuna", reason="the extra search is not installed")
    sweeps = forms_of((), safety=True)
    space = search_space(sweeps, asked={}, ranks=(8, None))
    warm = space.warm(3)
    points = [space.point(optuna.trial.FixedTrial(parameters)) for parameters in warm]
    for label, sweep in sweeps.items():
        of = [point for point in points if point.label == label]
        swept = {point.safety_weight if sweep.knob == SAFETY_WEIGHT else point.options[sweep.knob] for point in of}
        assert swept == {sweep.values[0], sweep.values[4], sweep.values[8]}
        for point in of:
            assert point.rank == 8
            assert {name: value for name, value in point.options.items() if name != sweep.knob} == dict(sweep.options)
    assert [point.label for point in points[: len(sweeps)]] == list(sweeps), "the middle of every form first"
    assert space.warm(0) == [] and len(space.warm(None)) == 9 * len(sweeps) and len(space.warm(1)) == len(sweeps)


def test_what_the_user_says_of_an_option_counts() -> None:
    form = OwnForm(label="hard", method="sst", knob="strength", values=(0.5, 1.0)).checked
    asked = {"hard": {"filter": Choices(({"hard": 1}, {"hard": 4})), "strength": Range(0.5, 2.0)}}
    space = search_space({"hard": form}, asked=asked)
    points = [space.point(Dice(seed)) for seed in range(20)]
    assert {point.options["filter"]["hard"] for point in points} == {1, 4}
    assert all(0.5 <= point.options["strength"] <= 2.0 for point in points)
    with pytest.raises(ConfigError, match="mu belongs to the soft filter"):
        search_space(forms_of(("SST-Merge",), safety=True), asked={"SST-Merge": {"filter": Choices(({"hard": 1},))}})


@pytest.mark.parametrize("between", [Range(10.0, 30.0), Range(30.0, 40.0)], ids=["default inside", "default below"])
def test_an_option_of_whole_numbers_gets_no_others(between: Range) -> None:
    optuna = pytest.importorskip("optuna", reason="the extra search is not installed")
    asked = {"RESTA": {"vector_rank": between}}
    space = search_space(forms_of(("RESTA",), safety=True), asked=asked)
    points = [space.point(Dice(seed)) for seed in range(20)]
    points += [space.point(optuna.trial.FixedTrial(parameters)) for parameters in space.warm(1)]
    for point in points:
        rank = point.options.get("vector_rank", 16)  # a default is not said
        assert type(rank) is int and between.low <= rank <= between.high
        assert option_faults(available_methods()["resta"], point.options) == []
    with pytest.raises(ConfigError, match="vector_rank"):
        search_space(forms_of(("RESTA",), safety=True), asked={"RESTA": {"vector_rank": Range(1.5, 3.0)}})


def test_names_are_methods_or_labels() -> None:
    assert set(forms_of(("task_arithmetic",), safety=True)) == {"Task Arithmetic", "Task Arithmetic, interpolated"}
    assert list(forms_of(("SST-Merge, teachers",), safety=True)) == ["SST-Merge, teachers"]
    assert "SST-Merge, teachers" not in forms_of(("sst",), safety=True)
    with pytest.raises(ConfigError, match=r"is not known.*did you mean 'TIES'"):
        forms_of(("tiez",), safety=True)
    with pytest.raises(ConfigError, match="declares no sweep for skills without a safety adapter"):
        forms_of(("led_merging",), safety=False)
