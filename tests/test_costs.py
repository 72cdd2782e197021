"""What `make seconds` charges: shared fixtures to all that need them, by a clock that only the tests below move."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.costs import Meter, Stopwatch, is_library, shared_out

TESTS = """
import pytest
import a_clock

@pytest.fixture(scope="module", params=[1, 10])
def dear(request):
    a_clock.now += request.param

@pytest.fixture(scope="module")
def dearer(dear):
    a_clock.now += 100

@pytest.fixture(scope="session")
def late():
    a_clock.now += 7

@pytest.fixture
def own():
    a_clock.now += 0.5

def test_both(dearer):
    a_clock.now += 1000

def test_one(dear, own):
    pass

def test_asks(request):
    request.getfixturevalue("late")

def test_names(late):
    pass

def test_alone(own):
    pass
"""


def test_a_shared_fixture_is_paid_for_by_all_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ModuleType("a_clock")
    clock.now = 0.0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_clock", clock)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    meter = Meter(lambda: clock.now)
    alone = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:terminal", "--rootdir", str(tmp_path)]
    assert pytest.main([*alone, str(tmp_path)], plugins=[meter]) == 0
    assert {name.removeprefix("test_it.py::test_"): cost for name, cost in meter.costs.items()} == {
        "both[1]": 1000 + 100 + 1 / 2,
        "both[10]": 1000 + 100 + 10 / 2,
        "one[1]": 0.5 + 1 / 2,
        "one[10]": 0.5 + 10 / 2,
        "asks": 7 / 2,
        "names": 7 / 2,
        "alone": 0.5,
    }


def test_nothing_is_lost_or_counted_twice() -> None:
    needs = {"a": {("", "f", "", 0)}, "b": {("", "f", "", 0), ("", "g", "", 0)}, "c": set()}
    found = shared_out({"a": 1.0, "b": 2.0, "c": 4.0}, {("", "f", "", 0): 6.0, ("", "g", "", 0): 8.0}, needs)
    assert found == {"a": 4.0, "b": 13.0, "c": 4.0}


def test_each_moment_counts_for_the_innermost() -> None:
    moments = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    watch = Stopwatch(lambda: next(moments))
    with watch.of("outer"):
        with watch.of("inner"):
            pass
        with pytest.raises(KeyError), watch.of("inner"):
            raise KeyError
    assert watch.spent == {"outer": (1 - 0) + (7 - 3) + (31 - 15), "inner": (3 - 1) + (15 - 7)}


def test_scripts_are_no_libraries() -> None:
    root = Path(__file__).parents[1]
    assert is_library(pytest.__file__) and is_library(str(root / "src/sst_merge/api.py")) and is_library(None)
    assert not is_library(str(root / "studies/search/measure.py"))
