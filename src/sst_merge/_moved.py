"""Old names of rooms and files, which answer for one minor release with a warning that names the new one.

:func:`install` puts a finder behind Python's own: it is asked for modules that exist nowhere any more. What it hands
out has no contents; every name is looked up in the new places.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__ = ["GONE_IN", "MOVED", "install", "moved_from"]

GONE_IN = "0.3.0"
"""The release in which the old names go."""

_ROOT = __name__.rpartition(".")[0]

# Old place → new places, below the package; names are looked for in the new places in this order.
MOVED: dict[str, tuple[str, ...]] = {
    "comparison": ("worlds.updates", "experiments.method_sweeps", "experiments.updates_by_knob", "methods"),
    "config": ("merging.config", "yaml_config"),
    "demo": ("experiments.demo",),
    "evaluation.custom": ("suites",),
    "evaluation.drift_sweeps": ("measures.drift",),
    "evaluation.front": ("measures.front",),
    "evaluation.harness": ("evaluation", "worlds.lab.names"),
    "evaluation.human_eval": ("sandbox",),
    "evaluation.intervals": ("measures.intervals",),
    "evaluation.judges": ("judges",),
    "evaluation.pass_at_k": ("measures.pass_at_k",),
    "evaluation.ranking": ("measures.ranking", "measures.front"),
    "evaluation.resampling": ("measures.resampling",),
    "evaluation.sandbox": ("sandbox",),
    "evaluation.seed_sweeps": ("measures.sweeps", "measures.resampling"),
    "evaluation.seeds": ("measures.intervals",),
    "evaluation.sets": ("suites",),
    "evaluation.suite_groups": ("suites",),
    "evaluation.suites": ("suites",),
    "evaluation.sweep_intervals": ("measures.sweeps",),
    "evaluation.written_aside": ("files",),
    "file_digest": ("files",),
    "fim_calculator.batch": ("data_loader",),
    "inspection.meaning": ("inspection.explain",),
    "inspection.survey": ("inspection.inspect_adapters",),
    "lab": ("worlds.lab",),
    "lora_utils.atomic": ("files",),
    "merging.lora_adapters": ("merging",),
    "merging.task": ("merging",),
    "registry": ("methods",),
    "reporting.plots": ("reporting.safety_utility_plot",),
    "sst.evidence": (
        "fim_calculator.role_patches",
        "sst.calibration_split",
        "sst.collect",
        "sst.region",
        "sst.scaling",
    ),
    "sst.skill_fishers": ("sst.scaling",),
    "sst.trust": ("fim_calculator.expansion_point",),
}


def moved_from(module: str, *places: str, warn: bool = True) -> Callable[[str], object]:
    """A ``__getattr__`` for a module whose names live elsewhere now.

    Args:
        module: full name of the old place.
        places: new places, below the package.
        warn: whether each name warns.

    Returns:
        A function of a name; it raises AttributeError where no new place has the name.
    """

    def find(name: str) -> object:
        if not name.startswith("__"):
            for place in places:
                home = import_module(f"{_ROOT}.{place}")
                if hasattr(home, name):
                    if warn:
                        _warn(f"{module}.{name}", f"{home.__name__}.{name}")
                    return getattr(home, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}; CHANGELOG.md says what has moved or gone")

    return find


def _warn(old: str, new: str) -> None:
    message = f"{old} has moved to {new}; the old name goes in {GONE_IN}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


class _Moved(Loader):
    """Makes the module that stands for an old place."""

    def __init__(self, new: Sequence[str]) -> None:
        self.new = new

    def exec_module(self, module: ModuleType) -> None:
        """Let every name be looked up in the new places."""
        module.__getattr__ = moved_from(module.__name__, *self.new, warn=False)  # type: ignore[method-assign]


class _Finder(MetaPathFinder):
    """Finds old places."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module for an old place; None for everything else."""
        new = _new_places(fullname.removeprefix(f"{_ROOT}.")) if fullname.startswith(f"{_ROOT}.") else None
        if new is None:
            return None
        _warn(fullname, " and ".join(f"{_ROOT}.{place}" for place in new))
        return ModuleSpec(fullname, _Moved(new), is_package=True)


def _new_places(old: str) -> tuple[str, ...] | None:
    """New places of an old one, or of a file in an old room."""
    if old in MOVED:
        return MOVED[old]
    room, _, file = old.rpartition(".")
    above = _new_places(room) if room else None
    return tuple(f"{place}.{file}" for place in above or () if _is_there(f"{place}.{file}")) or None


def _is_there(place: str) -> bool:
    try:
        return find_spec(f"{_ROOT}.{place}") is not None
    except ModuleNotFoundError:  # what stands above it is no package
        return False


def install() -> None:
    """Make the old names answer; a second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
