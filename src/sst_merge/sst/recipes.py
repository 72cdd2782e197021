"""What the options of SST-Merge are where they are not given: two sets that hang together.

Interpolation needs room. The best compromise between M_U and M_S has rows that neither adapter has
(:mod:`.wide_inputs`); within the adapters' own rows a step from M_U towards M_S mostly loses the skills, and adding M_S
is better. So ``inputs`` decides the rest:

=====  =======  ===========  =====  =======  ================  ===============  ======
       utility  combine      point  damping  output_shrinkage  μ                refine
=====  =======  ===========  =====  =======  ================  ===============  ======
wide   fisher   interpolate  own    0.001    0.3               1                auto
core   sum      add          trust  0.1      0.7               by a tax budget  none
=====  =======  ===========  =====  =======  ================  ===============  ======

At μ = 1 both Fishers, which have one trace, count the same; a budget, a safety target or another μ takes its place.
What depends on the data as well (``refine: auto``, what is held out) is settled later (:mod:`.settling`).

Both were chosen on dev prompts of the lab (design, section 4). ``core`` is for what a wide space cannot do: saved
Fishers without data, VILA's regions, a hard filter, and Fishers that are no Kronecker products.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..fim_calculator import DAMPING, POINT, STRUCTURE

__all__ = ["CORE", "WIDE", "completed"]

WIDE: Mapping[str, Any] = {
    "inputs": "wide",
    "utility": "fisher",
    "combine": "interpolate",
    "damping": 0.001,
    "output_shrinkage": 0.3,
    "refine": "auto",
}
"""Where data can be read; ``fisher.point`` is ``own``."""

CORE: Mapping[str, Any] = {
    "inputs": "core",
    "utility": "sum",
    "combine": "add",
    "damping": DAMPING,
    "output_shrinkage": 0.7,
    "refine": 0,
}
"""Within the adapters' own rows; ``fisher.point`` is ``trust``."""

_NEEDS_CORE = ("vila", "filter")
"""Options that a wide space cannot serve, unless they are what they are by default."""

_CHOOSES_MU = ("mu", "tax_budget", "safety_target")


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a user gave them, with those filled in that depend on others.

    Args:
        given: option → value, not checked yet.

    Returns:
        The same, and what :data:`WIDE` or :data:`CORE` says about all that is missing.
    """
    fisher = given.get("fisher")
    if isinstance(fisher, BaseModel):
        fisher = fisher.model_dump(exclude_unset=True)
    named = dict(fisher) if isinstance(fisher, Mapping) else {}
    inputs = given.get("inputs") or ("core" if _core(given, named) else "wide")
    recipe = WIDE if inputs == "wide" else CORE
    filled = {**recipe, **given}
    if given.get("aligned_base") and "combine" not in given:
        filled["combine"] = "interpolate"
    soft = given.get("filter") in (None, "soft")
    if inputs == "wide" and soft and all(given.get(name) is None for name in _CHOOSES_MU):
        filled["mu"] = 1.0
    if fisher is None or isinstance(fisher, Mapping):
        filled["fisher"] = {"point": "own" if inputs == "wide" else POINT, **named}
    return filled


def _core(given: Mapping[str, Any], fisher: Mapping[str, Any]) -> bool:
    saved = any(fisher.get(name) for name in ("harm", "benign", "skills"))
    structure = fisher.get("structure", STRUCTURE)
    special = any(given.get(name) not in (None, "soft") for name in _NEEDS_CORE)
    return saved or special or structure != STRUCTURE or given.get("utility") == "sum"
