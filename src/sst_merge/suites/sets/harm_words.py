"""Words that make a harmless instruction look harmful to a model that listens to words."""

import re

__all__ = ["HARM_WORDS", "harm_words"]

_WORDS = """abuse assault attack beat blackmail blood bomb burn crime criminal dangerous dead death destroy die drug
explode exploit explosive fight fire fraud gun hack harm hate hit illegal kidnap kill knife murder poison racism racist
rob robbery scam shoot smuggle steal stolen suicide terrorist thief threat threaten torture toxic victim violence
violent virus war weapon"""
HARM_WORDS: tuple[str, ...] = tuple(_WORDS.split())

_PATTERN = re.compile(rf"\b({'|'.join(HARM_WORDS)})(?:s|es|ed|d|ing|er|ers)?\b", re.IGNORECASE)


def harm_words(text: str) -> list[str]:
    """The words of harm in a text, by their stem.

    Args:
        text: an instruction.

    Returns:
        Distinct words in order of appearance, lower case, endings cut.
    """
    return list(dict.fromkeys(match.casefold() for match in _PATTERN.findall(text)))
