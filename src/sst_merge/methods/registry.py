"""Where merge methods are found: the built-in rooms, and entry points of other packages.

Built-in methods live in ``sst_merge.baselines`` and ``sst_merge.sst``; third parties add theirs through an entry point
of the group ``sst_merge.methods`` whose value is a :class:`~sst_merge.methods.MergeMethod`.
"""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from ..errors import MergeError, UnknownMethodError
from .contract import MergeMethod

__all__ = ["ENTRY_POINT_GROUP", "available_methods", "get_method"]

ENTRY_POINT_GROUP = "sst_merge.methods"
_BUILTIN_ROOMS = ("sst_merge.baselines", "sst_merge.sst")


@cache
def available_methods() -> Mapping[str, MergeMethod]:
    """Every registered method by name, built-in and third-party, in alphabetical order.

    Returns:
        name → method.

    Raises:
        MergeError: two methods share a name, or an entry point is not a :class:`MergeMethod`.
    """
    found: dict[str, tuple[str, MergeMethod]] = {}

    def add(origin: str, method: MergeMethod) -> None:
        if method.name in found:
            raise MergeError(
                f"merge method {method.name!r} is registered twice: by {found[method.name][0]} and by {origin}; "
                "uninstall one of them or rename its method"
            )
        found[method.name] = (origin, method)

    for room in _BUILTIN_ROOMS:
        for info in pkgutil.iter_modules(import_module(room).__path__, prefix=f"{room}."):
            for method in vars(import_module(info.name)).values():
                # Re-exports of another file's method are not registrations.
                if isinstance(method, MergeMethod) and method.merge_layer.__module__ == info.name:
                    add(info.name, method)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        loaded = point.load()
        if not isinstance(loaded, MergeMethod):
            raise MergeError(
                f"entry point {point.name!r} = {point.value!r} (group {ENTRY_POINT_GROUP}) is a "
                f"{type(loaded).__name__}, expected a sst_merge.methods.MergeMethod; fix or uninstall that package"
            )
        add(f"entry point {point.value}", loaded)
    return {name: found[name][1] for name in sorted(found)}


def get_method(name: str) -> MergeMethod:
    """The method of that name.

    Args:
        name: as listed by ``sst-merge methods``.

    Returns:
        The method.

    Raises:
        UnknownMethodError: there is none.
    """
    methods = available_methods()
    if name not in methods:
        raise UnknownMethodError(f"unknown merge method {name!r}; available: {', '.join(methods)}")
    return methods[name]
