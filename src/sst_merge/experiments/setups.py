"""The world and the merge problem that a cell's plain parameters name; the last ones are kept for the next cell."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..worlds.merge_setup import MergeSetup, merge_setup
from ..worlds.registry import open_world
from ..worlds.world import World
from .cells import canonical

__all__ = ["setup_of", "world_of"]


def world_of(world: Mapping[str, Any]) -> World:
    """A world, opened once per process.

    Args:
        world: its name and options.

    Returns:
        The world.
    """
    return _world(canonical(world))


@lru_cache(maxsize=2)
def _world(world: str) -> World:
    return open_world(**json.loads(world))


def setup_of(problem: Mapping[str, Any]) -> MergeSetup:
    """The merge problem of a cell; cells of one problem follow each other.

    Args:
        problem: the ``problem`` section of a cell's parameters.

    Returns:
        The setup.
    """
    return _setup(canonical(problem))


@lru_cache(maxsize=1)
def _setup(problem: str) -> MergeSetup:
    p = json.loads(problem)
    return merge_setup(
        world_of(p["world"]),
        p["skills"],
        base=p["base"],
        safety=p["safety"],
        adapter_seed=p["adapter_seed"],
        harm_samples=p["harm"],
        benign_samples=p["benign"],
        skill_share=p["skill_share"],
        seed=p["seed"],
    )
