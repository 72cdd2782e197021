"""Regular expressions of others, matched in time that is linear in the text.

Python's engine tries one way after the other, of which ``(.*)*x`` has more than anybody can wait for. Here all ways are
followed at once, as sets of places in the expression (Thompson, "Regular expression search algorithm", 1968), and each
step of a set is computed once. The grammar is Python's own, by its parser; what needs memory of the text (a reference
back, a look around) has no such form and is refused.
"""

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["LinearPattern", "full_matcher", "is_cheap"]

# The parser is the same in every version; its name is not.
_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

_MOST_REPEATS, _MOST_CHOICES = 2, 6
_MOST_PLACES = 5_000
_MOST_STEPS = 20_000
_CATEGORIES = {
    "CATEGORY_DIGIT": re.compile(r"\d"),
    "CATEGORY_NOT_DIGIT": re.compile(r"\D"),
    "CATEGORY_SPACE": re.compile(r"\s"),
    "CATEGORY_NOT_SPACE": re.compile(r"\S"),
    "CATEGORY_WORD": re.compile(r"\w"),
    "CATEGORY_NOT_WORD": re.compile(r"\W"),
}
_WORD = _CATEGORIES["CATEGORY_WORD"]


class _Place(NamedTuple):
    """One place in an expression: what is read or asked there, and where it goes on."""

    operation: str
    value: Any
    next: tuple[int, ...]


class LinearPattern:
    """One regular expression."""

    def __init__(self, pattern: str) -> None:
        """Prepare an expression.

        Args:
            pattern: in Python's grammar.

        Raises:
            ValueError: it is no expression, or one that cannot be matched like this; the message says why.
        """
        try:
            parsed = _parser.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if parsed.state.flags & ~re.UNICODE:
            raise ValueError("flags inside of an expression are not supported here")
        self._places: list[_Place] = [_Place("end", None, ())]
        self._steps: dict[tuple[frozenset[int], str, str], frozenset[int]] = {}
        try:
            self._start = frozenset({self._sequence(parsed, 0)})
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def fullmatch(self, text: str) -> bool:
        """Whether all of a text matches."""
        places, before = self._start, ""
        for letter in text:
            places = self._step(places, before, letter)
            if not places:
                return False
            before = letter
        return 0 in self._closed(places, before, "")

    def _step(self, places: frozenset[int], before: str, letter: str) -> frozenset[int]:
        # What stands before decides no more than whether a word, or the text, begins here.
        kind = before and ("w" if _WORD.match(before) else "-")
        known = self._steps.get((places, kind, letter))
        if known is None:
            if len(self._steps) >= _MOST_STEPS:
                self._steps.clear()
            here = (self._places[place] for place in self._closed(places, before, letter))
            known = frozenset(place.next[0] for place in here if place.operation != "end" and _reads(place, letter))
            self._steps[places, kind, letter] = known
        return known

    def _closed(self, places: frozenset[int], before: str, after: str) -> set[int]:
        """All places that are reached without reading."""
        found: set[int] = set()
        waiting = list(places)
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            place = self._places[number]
            if place.operation == "SPLIT" or (place.operation == "AT" and _holds(place.value, before, after)):
                waiting.extend(place.next)
        return found

    def _add(self, operation: str, value: Any, *following: int) -> int:
        if len(self._places) >= _MOST_PLACES:
            raise ValueError("its repetitions are too many")
        self._places.append(_Place(operation, value, following))
        return len(self._places) - 1

    def _sequence(self, items: Any, following: int) -> int:
        """Where a part of the parsed expression begins, if it goes on at ``following``; built from its end."""
        for operation, value in reversed(list(items)):
            following = self._item(str(operation), value, following)
        return following

    def _item(self, operation: str, value: Any, following: int) -> int:
        match operation:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "RANGE" | "CATEGORY" | "AT":
                return self._add(operation, value, following)
            case "SUBPATTERN":
                _, added, removed, inner = value
                if added or removed:
                    raise ValueError("flags inside of an expression are not supported here")
                return self._sequence(inner, following)
            case "BRANCH":
                return self._add("SPLIT", None, *(self._sequence(inner, following) for inner in value[1]))
            case "MAX_REPEAT" | "MIN_REPEAT":  # which of the two only decides what a group holds
                least, most, inner = value
                return self._repeated(least, most, inner, following)
        raise ValueError(f"{operation.lower().replace('_', ' ')} is not supported here")

    def _repeated(self, least: int, most: Any, inner: Any, following: int) -> int:
        begin = following
        if most is _parser.MAXREPEAT:
            # A place that comes back to itself: its number is known before what it leads to.
            begin = self._add("SPLIT", None, following)
            again = self._sequence(inner, begin)
            self._places[begin] = _Place("SPLIT", None, (following, again))
        else:
            for _ in range(most - least):
                begin = self._add("SPLIT", None, following, self._sequence(inner, begin))
        for _ in range(least):
            after, begin = begin, self._sequence(inner, begin)
            if begin == after:  # nothing, however often
                break
        return begin


def full_matcher(pattern: str) -> Callable[[str], bool]:
    """A function that says whether all of a text matches an expression, by whichever engine is sure to be quick.

    Raises:
        ValueError: as for :class:`LinearPattern`.
    """
    if not is_cheap(pattern):
        return LinearPattern(pattern).fullmatch
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def is_cheap(pattern: str) -> bool:
    """Whether a text is an expression that leaves Python's engine little to try: few repetitions and choices."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    repeats, choices = len(re.findall(r"[*+{]", pattern)), len(re.findall(r"[?|]", pattern))
    return repeats <= _MOST_REPEATS and choices <= _MOST_CHOICES and re.search(r"\)[*+{]", pattern) is None


def _reads(place: _Place, letter: str) -> bool:
    """Whether a place reads a character."""
    match place.operation:
        case "ANY":
            return letter != "\n"
        case "NOT_LITERAL":
            return ord(letter) != place.value
        case "IN":
            items = [(str(operation), value) for operation, value in place.value]
            negated = items[0][0] == "NEGATE"
            return negated != any(_is_in(item, letter) for item in items[negated:])
        case _:
            return _is_in((place.operation, place.value), letter)


def _is_in(item: tuple[str, Any], letter: str) -> bool:
    operation, value = item
    match operation:
        case "LITERAL":
            return ord(letter) == value
        case "RANGE":
            return value[0] <= ord(letter) <= value[1]
        case "CATEGORY":
            return _CATEGORIES[str(value)].match(letter) is not None
    return False


def _holds(where: Any, before: str, after: str) -> bool:
    """Whether a place between two characters, which are empty at the ends of the text, is such a place."""
    match str(where):
        case "AT_BEGINNING" | "AT_BEGINNING_STRING":
            return not before
        case "AT_END" | "AT_END_STRING":
            return not after
        case "AT_BOUNDARY" | "AT_NON_BOUNDARY" as kind:
            words = [bool(letter and _WORD.match(letter)) for letter in (before, after)]
            return (words[0] != words[1]) == (kind == "AT_BOUNDARY")
    return False
