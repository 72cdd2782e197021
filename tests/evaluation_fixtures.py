"""The lab's base and two adapters, as the tests of the evaluation take them; a plugin of those test modules."""

from pathlib import Path

import pytest

from sst_merge.lab import Lab, load_lab

__all__ = ["adapters", "base", "lab"]


@pytest.fixture(scope="session")
def lab() -> Lab:
    return load_lab(0)


@pytest.fixture(scope="session")
def base(lab: Lab) -> str:
    return str(lab.base_path("unaligned"))


@pytest.fixture(scope="session")
def adapters(lab: Lab) -> dict[str, Path]:
    return {"safety": lab.adapter_path("safety"), "reverse": lab.adapter_path("reverse")}
