"""Where merge methods are found: the built-in rooms, and entry points of other packages.

Built-in methods live in ``sst_merge.baselines`` and ``sst_merge.sst``; third parties add theirs through an entry point
of the group ``sst_merge.methods`` whose value is a :class:`~sst_merge.methods.MergeMethod`.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from ..discovery import discover
from ..errors import UnknownMethodError
from ..texts import did_you_mean
from .contract import MergeMethod

__all__ = ["ENTRY_POINT_GROUP", "available_methods", "get_method"]

ENTRY_POINT_GROUP = "sst_merge.methods"
_BUILTIN_ROOMS = ("sst_merge.baselines", "sst_merge.sst")


@cache
def available_methods() -> Mapping[str, MergeMethod]:
    """Every registered method by name, built-in and third-party, in alphabetical order."""
    found = discover(MergeMethod, rooms=map(import_module, _BUILTIN_ROOMS), group=ENTRY_POINT_GROUP)
    return {name: found[name] for name in sorted(found)}


def get_method(name: str) -> MergeMethod:
    """The method of that name, as ``sst-merge methods`` lists them.

    Raises:
        UnknownMethodError: there is none.
    """
    methods = available_methods()
    if name not in methods:
        raise UnknownMethodError(
            f"unknown merge method {name!r}{did_you_mean(name, methods)}; available: {', '.join(methods)}"
        )
    return methods[name]
