"""One merge problem of the lab, as small as can be wrong."""

import pytest

from sst_merge.worlds.merge_setup import MergeSetup, merge_setup
from sst_merge.worlds.registry import open_world


@pytest.fixture(scope="session")
def setup() -> MergeSetup:
    return merge_setup(open_world("lab"), ["swap_pairs"], harm_samples=8, benign_samples=8)
