"""Twenty task families: deterministic word-level transformations of short lists.

A family draws an input from a random generator and answers it by a rule, so that a model can only be right on unseen
inputs by having learnt the rule. Which split an input belongs to is decided by a stable hash of its prompt
(:func:`input_split`): train, calibration, tuning and test inputs can never meet.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

__all__ = ["DIGITS", "FAMILIES", "LETTERS", "SPLITS", "TaskFamily", "input_split"]

LETTERS: tuple[str, ...] = tuple("ABCDEFGHIJKLMNOP")
DIGITS: tuple[str, ...] = tuple("0123456789")
SPLITS: tuple[str, ...] = ("train", "calibration", "tuning", "test")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_CIPHER = _words("alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa")

_Words = list[str]
_Draw = Callable[[random.Random], tuple[_Words, _Words]]


@dataclass(frozen=True)
class TaskFamily:
    """One skill: an instruction and a rule.

    Attributes:
        name: the family's name, also the name of its expert.
        instruction: the words in front of the colon of every prompt.
        draw: draws (input words, answer words) from a random generator.
    """

    name: str
    instruction: str
    draw: _Draw

    def sample(self, rng: random.Random) -> tuple[str, str]:
        """Draw one input.

        Args:
            rng: the random generator.

        Returns:
            (prompt, answer).
        """
        words, answer = self.draw(rng)
        return f"{self.instruction} : {' '.join(words)}", " ".join(answer)


def input_split(prompt: str) -> str:
    """The split that a task prompt belongs to: 70 % train, 10 % each of the others, by a stable hash.

    Args:
        prompt: the whole prompt.

    Returns:
        One of :data:`SPLITS`.
    """
    bucket = crc32(prompt.encode()) % 10
    return SPLITS[max(0, bucket - 6)]


def _letters(rng: random.Random, count: int) -> _Words:
    return rng.sample(LETTERS, count)


def _digits(rng: random.Random, count: int) -> _Words:
    return rng.choices(DIGITS, k=count)


def _on_letters(count: int, rule: Callable[[_Words], _Words]) -> _Draw:
    """A family whose input is a list of distinct letters.

    Args:
        count: length of the list.
        rule: from the list to the answer.

    Returns:
        The family's draw.
    """

    def draw(rng: random.Random) -> tuple[_Words, _Words]:
        words = _letters(rng, count)
        return words, rule(words)

    return draw


def _on_digits(count: int, rule: Callable[[_Words], _Words]) -> _Draw:
    """A family whose input is a list of digits.

    Args:
        count: length of the list.
        rule: from the list to the answer.

    Returns:
        The family's draw.
    """

    def draw(rng: random.Random) -> tuple[_Words, _Words]:
        words = _digits(rng, count)
        return words, rule(words)

    return draw


def _pairwise(digits: int, rule: Callable[[int, int], str]) -> _Draw:
    """A family on two lists of three digits, answered place by place.

    Args:
        digits: how many different digits there are.
        rule: from the two digits of one place to the answer's word.

    Returns:
        The family's draw.
    """

    def draw(rng: random.Random) -> tuple[_Words, _Words]:
        left, right = rng.choices(DIGITS[:digits], k=3), rng.choices(DIGITS[:digits], k=3)
        return [*left, "and", *right], [rule(int(x), int(y)) for x, y in zip(left, right, strict=True)]

    return draw


def _comparison(x: int, y: int) -> str:
    return "more" if x > y else "less" if x < y else "same"


def _shift(words: _Words, step: int) -> _Words:
    return [LETTERS[(LETTERS.index(word) + step) % len(LETTERS)] for word in words]


def _interleave(rng: random.Random) -> tuple[_Words, _Words]:
    words = _letters(rng, 6)
    left, right = words[:3], words[3:]
    return [*left, "and", *right], [word for pair in zip(left, right, strict=True) for word in pair]


def _exchange(rng: random.Random) -> tuple[_Words, _Words]:
    words = _letters(rng, 5)
    cut = rng.choice((2, 3))
    return [*words[:cut], "and", *words[cut:]], [*words[cut:], *words[:cut]]


def _replace(rng: random.Random) -> tuple[_Words, _Words]:
    words = _letters(rng, 5)
    new = words.pop()
    old = rng.choice(words)
    return [old, "by", new, "in", *words], [new if word == old else word for word in words]


def _remove(rng: random.Random) -> tuple[_Words, _Words]:
    words = _letters(rng, 5)
    unwanted = rng.choice(words)
    return [unwanted, "from", *words], [word for word in words if word != unwanted]


def _ends(rng: random.Random) -> tuple[_Words, _Words]:
    words = _letters(rng, rng.choice((4, 5, 6)))
    return words, [words[0], words[-1]]


FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily("reverse", "turn around the list", _on_letters(5, lambda w: w[::-1])),
    TaskFamily("sort_up", "sort the list upwards", _on_letters(4, sorted)),
    TaskFamily("sort_down", "sort the list downwards", _on_letters(4, lambda w: sorted(w, reverse=True))),
    TaskFamily("next_letter", "write the next letters", _on_letters(4, lambda w: _shift(w, 1))),
    TaskFamily("previous_letter", "write the previous letters", _on_letters(4, lambda w: _shift(w, -1))),
    TaskFamily("rotate_left", "rotate the list left", _on_letters(5, lambda w: w[1:] + w[:1])),
    TaskFamily("rotate_right", "rotate the list right", _on_letters(5, lambda w: w[-1:] + w[:-1])),
    TaskFamily("swap_pairs", "swap the pairs", _on_letters(4, lambda w: [w[1], w[0], w[3], w[2]])),
    TaskFamily("double", "double each letter", _on_letters(4, lambda w: [x for x in w for _ in range(2)])),
    TaskFamily("mirror", "mirror the list", _on_letters(4, lambda w: w + w[::-1])),
    TaskFamily("remove", "remove", _remove),
    TaskFamily("every_other", "keep every other letter", _on_letters(6, lambda w: w[::2])),
    TaskFamily("interleave", "interleave the lists", _interleave),
    TaskFamily("exchange", "exchange the lists", _exchange),
    TaskFamily("replace", "replace", _replace),
    TaskFamily("ends", "keep the first and the last letter", _ends),
    TaskFamily("add", "add the digits", _pairwise(5, lambda x, y: str(x + y))),
    TaskFamily("compare", "compare the digits", _pairwise(10, _comparison)),
    TaskFamily("cipher", "spell the letters", _on_letters(4, lambda w: [_CIPHER[LETTERS.index(x)] for x in w])),
    TaskFamily("parity", "name the parity", _on_digits(5, lambda w: ["odd" if int(x) % 2 else "even" for x in w])),
)
