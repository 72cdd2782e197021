"""Faults of several inputs, told together: nobody shall mend one to hear of the next."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConfigError, SSTMergeError

__all__ = ["Faults"]


class Faults:
    """Collects errors of this package and raises them as one.

    Example:
        >>> from sst_merge.errors import DataError
        >>> faults = Faults()
        >>> for name in ("a", "b"):
        ...     with faults.collected():
        ...         raise DataError(f"{name}: missing")
        >>> faults.tell()
        Traceback (most recent call last):
            ...
        sst_merge.errors.ConfigError: a: missing
        b: missing
    """

    def __init__(self) -> None:
        self._found: list[SSTMergeError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the error of a block for :meth:`tell`."""
        try:
            yield
        except SSTMergeError as error:
            self._found.append(error)

    def tell(self) -> None:
        """Raise what was found: the error itself where there is one, all in one where there are several.

        Raises:
            ConfigError: several, a line each.
            SSTMergeError: the only one.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise ConfigError("\n".join(dict.fromkeys(map(str, self._found)))) from self._found[0]
