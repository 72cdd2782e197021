"""Plain data as JSON lines, exact in type and value: what checker and candidate tell each other.

JSON because a hostile line must not be able to do more than fail to parse. Everything that JSON does not tell apart
carries a tag. Subclasses travel as the plain type that they extend, so no method of theirs, such as an ``__eq__``
that is always true, gets to the checker; objects of other classes do not travel at all.
"""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO

__all__ = ["WireError", "decode", "encode", "receive", "send"]

LONGEST_LINE = 16 << 20
_LONGEST_ITERATOR = 1_000_000
_EXACT_INT = 1 << 62


class WireError(Exception):
    """A value or a line that cannot travel."""


def encode(value: Any) -> Any:
    """The tagged form of plain data, which JSON can hold.

    Raises:
        WireError: an object of a class that is not plain data.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int.__int__(value)
        # Hexadecimal: reading long decimals takes quadratic time and has a limit.
        return number if -_EXACT_INT < number < _EXACT_INT else {"int": hex(number)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    for kind, tag, iterate in _SEQUENCES:
        if isinstance(value, kind):
            return {tag: [encode(item) for item in iterate(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in dict.items(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Fraction):
        return {"fraction": [encode(value.numerator), encode(value.denominator)]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, Iterator):
        items = list(islice(value, _LONGEST_ITERATOR + 1))
        if len(items) > _LONGEST_ITERATOR:
            raise WireError(f"an iterator over more than {_LONGEST_ITERATOR} values")
        return {"iterator": [encode(item) for item in items]}
    raise WireError(f"an object of class {type(value).__name__}, which is not plain data")


def decode(value: Any) -> Any:
    """The plain data of a tagged form, built-in classes only, whoever made it.

    Raises:
        WireError: no tagged form.
    """
    if value is None or isinstance(value, (bool, int, str, float)):
        return value
    try:
        ((tag, content),) = value.items()
        return _DECODERS[tag](content)
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"a message that is not plain data ({type(error).__name__})") from error


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message.

    Raises:
        EOFError: the other end is closed.
        WireError: too long, or not JSON.
    """
    line = stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        if len(line) >= LONGEST_LINE:
            raise WireError(f"a message of more than {LONGEST_LINE} bytes")
        raise EOFError
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a message that is not JSON ({type(error).__name__})") from error


_SEQUENCES: tuple[tuple[type, str, Callable[[Any], Iterator[Any]]], ...] = (
    (list, "list", list.__iter__),
    (tuple, "tuple", tuple.__iter__),
    (set, "set", set.__iter__),
    (frozenset, "frozenset", frozenset.__iter__),
)


def _items(content: Any) -> list[Any]:
    return [decode(item) for item in content]


_DECODERS: dict[str, Any] = {
    "list": _items,
    "tuple": lambda content: tuple(_items(content)),
    "set": lambda content: set(_items(content)),
    "frozenset": lambda content: frozenset(_items(content)),
    "iterator": lambda content: iter(_items(content)),
    "dict": lambda content: {decode(key): decode(item) for key, item in content},
    "int": lambda content: int(content, 16),
    "bytes": bytes.fromhex,
    "complex": lambda content: complex(*content),
    "range": lambda content: range(*content),
    "fraction": lambda content: Fraction(*_items(content)),
    "decimal": Decimal,
}
