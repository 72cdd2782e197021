"""The examples in docstrings give what they say."""

import doctest
from importlib import import_module

import pytest

MODULES = {
    "sst_merge.measures.figure": 1,
    "sst_merge.measures.front": 1,
    "sst_merge.measures.intervals": 3,
    "sst_merge.measures.safety_tax": 1,
    "sst_merge.reporting.tables": 1,
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = import_module(name)
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(tests) >= MODULES[name]
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted > 0
