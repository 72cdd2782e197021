"""Old public names answer, warn, and name places that exist."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from sst_merge._moved import GONE_IN, MOVED

# Old module, name in it, where it is now.
NAMES = (
    ("registry", "merge_method", "methods"),
    ("registry", "MergeProblem", "methods"),
    ("config", "load_config", "merging.config"),
    ("config", "read_yaml", "yaml_config"),
    ("lab", "load_lab", "worlds.lab"),
    ("lab.world", "World", "worlds.lab.world"),
    ("evaluation.judges", "make_judges", "judges"),
    ("evaluation.sandbox", "run_program", "sandbox"),
    ("evaluation.harness", "evaluate_models", "evaluation"),
    ("evaluation.harness.settings", "ModelSettings", "evaluation.settings"),
    ("evaluation.intervals", "wilson_interval", "measures.intervals"),
    ("evaluation.suites", "Suite", "suites"),
    ("lora_utils.atomic", "atomic_folder", "files"),
    ("fim_calculator.batch", "Batch", "data_loader"),
)


@pytest.mark.parametrize(("old", "name", "new"), NAMES)
def test_an_old_name_is_the_new_one(old: str, name: str, new: str) -> None:
    sys.modules.pop(f"sst_merge.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"sst_merge\.{old} has moved to .*{GONE_IN}"):
        module = import_module(f"sst_merge.{old}")
    assert getattr(module, name) is getattr(import_module(f"sst_merge.{new}"), name)
    with pytest.raises(AttributeError, match=r"nothing_of_the_kind.*CHANGELOG"):
        _ = module.nothing_of_the_kind


@pytest.mark.parametrize(("room", "name"), [("evaluation", "wilson_interval"), ("lora_utils", "atomic_folder")])
def test_a_name_that_left_a_room_answers_there(room: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"sst_merge\.{room}\.{name} has moved to sst_merge\."):
        assert callable(getattr(import_module(f"sst_merge.{room}"), name))


def test_every_place_of_the_table_exists_and_no_old_one_does() -> None:
    for old, places in MOVED.items():
        for place in places:
            assert find_spec(f"sst_merge.{place}") is not None, (old, place)
        assert old not in places


@pytest.mark.parametrize("name", ["sst_merge.never", "sst_merge.lab.never"])
@pytest.mark.filterwarnings("ignore:sst_merge.lab has moved:DeprecationWarning")
def test_a_module_that_never_was_stays_missing(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="never"):
        import_module(name)


def test_new_names_do_not_warn() -> None:
    code = "import sst_merge, sst_merge.methods, sst_merge.evaluation, sst_merge.worlds.lab, sst_merge.cli.main"
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:sst_merge", "-c", code], check=True)
