"""The names that a user types: importable from the top, documented, and each with an example that runs."""

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import sst_merge

NAMES = [name for name in sst_merge.__all__ if name != "__version__"]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def test_the_list_is_the_one_that_type_checkers_see() -> None:
    tree = ast.parse(Path(str(sst_merge.__file__)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.asname or alias.name for node in block.body for alias in getattr(node, "names", ())]
    assert sorted(seen) == sorted(NAMES)
    assert dir(sst_merge) == sorted(sst_merge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Merge'; it offers Adapter"):
        sst_merge.Merge  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(sst_merge, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    assert found.__doc__ is not None  # its own, not a base class's


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example that leaves files behind leaves them here
    found = getattr(sst_merge, name)
    tests = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    assert [test for test in tests if test.examples], f"{name} has no example (>>>) in its docstring"
    told: list[str] = []
    for test in tests:
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
    assert not told, "".join(told)
