"""What tests of several rooms share."""

from pathlib import Path

import pytest

from sst_merge.worlds.lab import Lab, load_lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    return load_lab(0)


@pytest.fixture(scope="session")
def base(lab: Lab) -> str:
    return str(lab.base_path("unaligned"))


@pytest.fixture(scope="session")
def adapters(lab: Lab) -> dict[str, Path]:
    return {"safety": lab.adapter_path("safety"), "reverse": lab.adapter_path("reverse")}
