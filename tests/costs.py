"""What tests cost, measured fairly: a shared fixture is paid for by all that need it, a first import by nobody."""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Set
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import text

ROOT = Path(__file__).resolve().parents[1]

Fixture = tuple[str, str, str, Hashable]
"""Where it is defined, its name, the node for which it is made once (a module, the session), its parameter."""


def shared_out(
    own: Mapping[str, float], setups: Mapping[Fixture, float], needs: Mapping[str, Set[Fixture]]
) -> dict[str, float]:
    """Cost of each test: its own, and of every fixture that it needs the same part as all others that need it."""
    users = Counter(fixture for found in needs.values() for fixture in found)
    return {
        test: cost + sum(setups.get(fixture, 0.0) / users[fixture] for fixture in sorted(needs[test], key=str))
        for test, cost in own.items()
    }


class Stopwatch:
    """Time of several things one inside the other: each moment counts for the innermost one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.spent: dict[Any, float] = defaultdict(float)
        self._now = now
        self._inner = [0.0]

    @contextmanager
    def of(self, name: Hashable) -> Iterator[None]:
        began = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = self._now() - began
            self.spent[name] += whole - self._inner.pop()
            self._inner[-1] += whole


def processor_seconds() -> float:
    """Of this process and of the ended ones that it waited for."""
    return sum(os.times()[:4])


def is_library(file: str | None) -> bool:
    """Whether a file stays imported for all tests: the package or what is installed, no script that tests load."""
    if file is None:
        return True
    return (
        any(Path(file).is_relative_to(folder) for folder in (ROOT / "src", sys.prefix))
        or ROOT not in Path(file).parents
    )


class Meter:
    """The plugin of ``pytest --measure FILE``; ``costs`` is what it found."""

    def __init__(self, now: Callable[[], float] = processor_seconds) -> None:
        self.watch = Stopwatch(now)
        self.needs: dict[str, set[Fixture]] = {}
        self._loaders = {kind: kind.exec_module for kind in (SourceFileLoader, ExtensionFileLoader)}

    @property
    def costs(self) -> dict[str, float]:
        """Name of a test → seconds of a processor."""
        tests = {name: self.watch.spent[name] for name in self.needs}
        return shared_out(tests, self.fixtures, self.needs)

    @property
    def fixtures(self) -> dict[Fixture, float]:
        """Shared fixture → seconds of a processor, without those that it needs itself."""
        return {name: cost for name, cost in self.watch.spent.items() if isinstance(name, tuple)}

    def pytest_sessionstart(self) -> None:
        """Imports are nobody's, whenever they happen."""
        for kind, run in self._loaders.items():
            kind.exec_module = self._timed(run)  # type: ignore[method-assign]

    def pytest_unconfigure(self) -> None:
        """Imports are as before."""
        for kind, run in self._loaders.items():
            kind.exec_module = run  # type: ignore[method-assign]

    def _timed(self, run: Callable[[Any, ModuleType], None]) -> Callable[[Any, ModuleType], None]:
        def exec_module(loader: Any, module: ModuleType) -> None:
            if is_library(module.__spec__ and module.__spec__.origin):
                with self.watch.of("imports"):
                    run(loader, module)
            else:
                run(loader, module)

        return exec_module

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """The first text that Hypothesis draws makes it read all modules; that is nobody's either."""
        with self.watch.of("imports"):
            settings(database=None)(given(text())(lambda _: None))()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """A test with the fixtures that are made for it alone, and the processes that it waits for."""
        self.needs[item.nodeid] = set(shared_fixtures(item))
        with self.watch.of(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Iterator[Any]:
        """A fixture that several tests share; where a test asks for it while it runs, that test needs it."""
        if fixturedef.scope == "function":
            return (yield)
        index = getattr(request, "param_index", 0) if hasattr(request, "param") else 0
        name = (fixturedef.baseid, fixturedef.argname, request.node.nodeid, index)
        self.needs[request._pyfuncitem.nodeid].add(name)
        with self.watch.of(name):
            return (yield)


def shared_fixtures(item: Any) -> Iterator[Fixture]:
    """Those that a test needs, through others too, but not those that it asks for while it runs."""
    callspec = getattr(item, "callspec", None)
    for argument in getattr(item, "fixturenames", ()):
        for found in item._fixtureinfo.name2fixturedefs.get(argument, ())[-1:]:
            if found.scope != "function":
                index = callspec.indices.get(argument, 0) if callspec and found.params else 0
                yield found.baseid, argument, _node_of(item, found.scope), index


def _node_of(item: pytest.Item, scope: str) -> str:
    kind: Any = {"class": pytest.Class, "module": pytest.Module, "package": pytest.Package}.get(scope)
    node = item.getparent(kind) if kind else None
    if node is None:  # a class fixture of a function is the module's
        node = item.getparent(pytest.Module) if scope == "class" else item.session
    return node.nodeid if node is not None else ""
