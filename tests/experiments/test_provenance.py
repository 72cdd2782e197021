"""The digest of code: what an import reaches, held against what Python itself imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from sst_merge.errors import DataError
from sst_merge.experiments.provenance import code_digest, folder_digest, reached_modules
from sst_merge.methods import available_methods

IMPORTING = """
import importlib, os, sys, torch
for module in sys.argv[1:]:
    if os.fork() == 0:  # nothing of the package is imported yet
        importlib.import_module(module)
        print(module, *(name for name in sys.modules if name.startswith("sst_merge")), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_everything_that_python_imports_is_reached() -> None:
    modules = ["sst_merge.experiments.work", "sst_merge.sst.method", "sst_merge.baselines.regmean"]
    command = [sys.executable, "-c", IMPORTING, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [line.split() for line in done.stdout.splitlines()]
    assert [names[0] for names in found] == modules
    for module, *imported in found:
        assert module in imported and set(imported) <= reached_modules([module])


def test_lazy_imports_count_and_those_for_type_checkers_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "walked"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "start": "from typing import TYPE_CHECKING\nfrom . import near as n\nimport json\n"
        "if TYPE_CHECKING:\n    from .types import T\ndef f():\n    from .inner.deep import value\n",
        "near": "import walked.far\n",
        "far": "",
        "types": "T = int\n",
        "unused": "",
        "inner/__init__": "",
        "inner/deep": "from ..start import f\nvalue = 1\n",
    }.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = {"walked", "walked.start", "walked.near", "walked.far", "walked.inner", "walked.inner.deep"}
    assert reached_modules(["walked.start"]) == expected
    assert reached_modules(["walked.start"], leave_out=["walked.inner"]) == expected - {
        "walked.inner",
        "walked.inner.deep",
    }
    with pytest.raises(DataError, match=r"walked\.missing"):
        reached_modules(["walked.missing"])


def test_measuring_code_is_the_same_for_all_methods_and_methods_are_apart() -> None:
    rooms = {method.merge_layer.__module__.rpartition(".")[0] for method in available_methods().values()}
    measuring = reached_modules(["sst_merge.experiments.work"], leave_out=rooms)
    assert not any(module.startswith(("sst_merge.baselines", "sst_merge.sst")) for module in measuring)
    assert {"sst_merge.fim_calculator.estimate", "sst_merge.worlds.merge_setup"} <= measuring
    digests = {name: code_digest("sst_merge.experiments.work", method=name) for name in ("sst", "regmean", "knots")}
    assert len(set(digests.values())) == 3


def test_weights_that_are_missing_say_so(tmp_path: Path) -> None:
    assert folder_digest(None) == "missing"
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert len(folder_digest(tmp_path)) == 16
