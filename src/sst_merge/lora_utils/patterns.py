"""PEFT's ``rank_pattern`` and ``alpha_pattern``: regular expressions, thousands of which are plain module names.

Python keeps few compiled expressions, and to try every pattern on every module is quadratic. A pattern without
operators (letters, digits, ``_``, ``-``, ``.`` and escaped signs) is therefore looked up: its dots stand for any one
character, as in a regular expression, so it is found by its length and the places of its dots.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from .linear_match import full_matcher

__all__ = ["ModulePatterns"]

_PLAIN = re.compile(r"(\^?)((?:[\w/.-]|\\[^\w\s])+)", re.ASCII)
_SIGN = re.compile(r"\\(.)|(\.)")
_ANY = "\n"  # stands for any character; no module name that is looked up holds it


class ModulePatterns:
    """Patterns in the order of the file; the first that matches the end of a module's name counts.

    Sorted by PEFT when it saves, so of two that overlap another one may win after loading than during training. What
    PEFT makes of the folder counts.
    """

    def __init__(self, patterns: Mapping[str, float]) -> None:
        """Prepare the patterns.

        Args:
            patterns: regular expression → value.

        Raises:
            ValueError: a pattern is no regular expression, or one that cannot be tried in linear time; its ``args`` are
                the pattern and the reason.
        """
        self._values = tuple(patterns.values())
        self._exact = dict(patterns)
        # (anchored at the start, places of dots) by length, and text with its dots wiped out → position in the file.
        self._masks: dict[int, dict[tuple[bool, tuple[int, ...]], None]] = {}
        self._plain: dict[tuple[bool, str], int] = {}
        self._others: list[tuple[int, Callable[[str], bool]]] = []
        for position, pattern in enumerate(patterns):
            match = _PLAIN.fullmatch(pattern)
            if match is None:
                try:
                    re.compile(pattern)
                    self._others.append((position, full_matcher(rf"(?:.*\.)?(?:{pattern})$")))
                except (re.error, ValueError, RecursionError, OverflowError) as error:
                    raise ValueError(pattern, str(error)) from error
                continue
            anchored = bool(match[1])
            text = _SIGN.sub(lambda sign: sign[1] or _ANY, match[2])
            dots = tuple(place for place, sign in enumerate(text) if sign == _ANY)
            self._masks.setdefault(len(text), {})[anchored, dots] = None
            self._plain.setdefault((anchored, text), position)

    def find(self, module: str) -> float | None:
        """Value of the first pattern that matches, or of one that is the name itself; None where there is none."""
        if not self._values:
            return None
        if "\n" in module:
            return self._exact.get(module)
        first = min(self._plain_matches(module), default=len(self._values))
        for position, matches in self._others:
            if position > first:
                break
            if matches(module):
                first = position
                break
        return self._values[first] if first < len(self._values) else self._exact.get(module)

    def _plain_matches(self, module: str) -> Iterator[int]:
        """Positions of the plain patterns that match."""
        start = 0
        while True:
            end = module[start:]
            for anchored, dots in self._masks.get(len(end), ()):
                if anchored and start:
                    continue
                text = end
                if dots:
                    signs = list(end)
                    for place in dots:
                        signs[place] = _ANY
                    text = "".join(signs)
                if (position := self._plain.get((anchored, text))) is not None:
                    yield position
            dot = module.find(".", start)
            if dot < 0:
                return
            start = dot + 1
