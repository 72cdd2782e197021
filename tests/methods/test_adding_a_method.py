"""The how-to's example, installed as a package of its own: found, held to its promises, swept by the experiments."""

import inspect
import re
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sst_merge.experiments import method_sweeps
from sst_merge.experiments.updates_by_knob import swept_updates
from sst_merge.fim_calculator import build_spaces
from sst_merge.methods import ENTRY_POINT_GROUP, MergeMethod, MergeProblem, available_methods, get_method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending" / "method.md"


def _executed(path: str | Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUITE = _executed(ROOT / "tests" / "baselines" / "test_merge_methods.py", "common_suite")
OFFERED = ("model", "tmp_path", "build", "relative_error")
# All that the suite asks of one method that reads no data, and needs no other parameters for.
HELD_TO = [
    check
    for name, check in vars(SUITE).items()
    if name.startswith("test_")
    and name != "test_data_method_without_data_is_refused_by_name"
    and set(inspect.signature(check).parameters) - set(OFFERED) == {"method"}
]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MergeMethod]:
    blocks = dict(re.findall(r"^```(python|toml)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))
    points = tomllib.loads(blocks["toml"])["project"]["entry-points"]
    assert list(points) == [ENTRY_POINT_GROUP]
    ((name, value),) = points[ENTRY_POINT_GROUP].items()
    site, module = tmp_path_factory.mktemp("site-packages"), value.split(":")[0]
    file = site.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir()
    file.write_text(blocks["python"], encoding="utf-8")
    metadata = site / "your_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: your-package\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{name} = {value}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        available_methods.cache_clear()
        yield get_method(name)
    available_methods.cache_clear()
    for loaded in [m for m in sys.modules if m.split(".")[0] == module.split(".")[0]]:
        del sys.modules[loaded]


@pytest.fixture(scope="module")
def model(build: Any) -> torch.nn.Module:
    return build.tiny_model("llama", dtype=torch.float64)


def test_the_common_suite_has_much_to_ask() -> None:
    assert {
        SUITE.test_single_adapter_comes_back_or_is_refused,
        SUITE.test_all_weights_times_c_is_the_result_times_c,
        SUITE.test_seed_decides_and_nothing_else,
    } <= set(HELD_TO)


@pytest.mark.parametrize("check", HELD_TO, ids=lambda check: check.__name__.removeprefix("test_"))
def test_the_example_is_held_to_what_it_promises(
    check: object, example: MergeMethod, model: torch.nn.Module, request: pytest.FixtureRequest
) -> None:
    assert callable(check)
    given = {"method": example, "model": model}
    names = inspect.signature(check).parameters
    check(**{name: given[name] if name in given else request.getfixturevalue(name) for name in names})


def test_its_sweep_enters_the_experiments(example: MergeMethod, build: Any) -> None:
    # The tables as a new process makes them; those of this one stay as they are.
    tables = _executed(method_sweeps.__file__, method_sweeps.__name__)
    assert "Halved sum" not in method_sweeps.METHOD_SWEEPS
    sweep = tables.METHOD_SWEEPS["Halved sum"]
    assert (sweep.method, sweep.knob) == (example.name, example.knob)
    assert "Halved sum" in tables.chosen_sweeps((), tables.METHOD_SWEEPS)
    assert tables.chosen_sweeps([example.name], tables.METHOD_SWEEPS) == {"Halved sum": sweep}
    assert len(sweep.values) == len(tables.METHOD_SWEEPS["SST-Merge"].values)

    adapters = SUITE.pair(build)
    updates = swept_updates(MergeProblem(adapters, build_spaces(adapters, dtype=torch.float64)), sweep)
    for value in (sweep.values[0], sweep.middle):
        update = updates(value)
        for module in SUITE.SHAPES:
            expected = value * sum(adapter.delta(module) for adapter in adapters)
            torch.testing.assert_close(update[module].delta(torch.float64), expected, rtol=1e-5, atol=1e-6)
