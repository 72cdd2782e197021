"""Text of others as this package shows it: nothing invisible, nothing that moves the cursor, nothing endless.

Names, paths and fields of files come from anywhere. Every target that they are shown in (terminal, Markdown, pictures,
HTML, LaTeX) begins with :func:`visible`; every message cuts them by :func:`shown` and :func:`bounded`.
"""

import difflib
import re
import reprlib
import textwrap
import unicodedata
from collections.abc import Iterable
from functools import partial

__all__ = [
    "bounded",
    "broken_between_words",
    "counted",
    "did_you_mean",
    "duration",
    "escaped_json",
    "is_text",
    "memory_size",
    "shown",
    "visible",
]

_LONGEST_MESSAGE = 4000
_LONGEST_VALUE = 120
# Control and format characters, halves of surrogate pairs, separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Writes a few levels and items alone: an alias in YAML may stand for a list of billions.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple = 4, 12, 12, 12
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _LONGEST_VALUE
_LABEL = re.compile(r"- |\S+ {2,}| +")
_broken = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
_NOT_PLAIN = re.compile(r"[^\n -~]")


def visible(text: str, *, keep: str = "") -> str:
    r"""Text with everything that cannot be seen as a backslash escape: control characters, bidi marks, halves of pairs.

    Args:
        text: anything.
        keep: characters that stay, such as a line break where the target has lines.

    Returns:
        The same text where all of it can be seen; spaces of every width count as that.

    Example:
        >>> print(visible("a\x1b[31mb\u202ec\nd"))
        a\x1b[31mb\u202ec\nd
    """
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if unicodedata.category(letter) in _UNSEEN and letter not in keep
        else letter
        for letter in text
    )


def bounded(text: str, most: int = _LONGEST_MESSAGE) -> str:
    """Text of at most about so many characters: the middle is left out, and how much of it is said.

    Args:
        text: anything.
        most: characters that are left.

    Returns:
        Beginning and end of a long text; a message's advice stands at its end.

    Example:
        >>> bounded("a" * 500 + "z" * 500, 20)
        'aaaaaaaaaaaaa […980 characters…] zzzzzzz'
    """
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end]} […{len(text) - most} characters…] {text[len(text) - end :]}"


def broken_between_words(text: str, width: int) -> str:
    """Lines that are too long, broken at spaces; a word that is longer than a line stays whole.

    Args:
        text: one line or several.
        width: columns of a line.

    Returns:
        The same words. What follows a bullet or a label (a word and two spaces or more) stays below its beginning.

    Example:
        >>> print(broken_between_words("time     about 12 min of one core", 24))
        time     about 12 min of
                 one core
    """
    lines: list[str] = []
    for line in text.split("\n"):
        label = _LABEL.match(line)
        margin = " " * (label.end() if label is not None and label.end() < width // 2 else 0)
        long = len(line) > width
        lines += _broken(line, width, subsequent_indent=margin) if long else [line]
    return "\n".join(lines)


def shown(value: object, most: int = _LONGEST_VALUE) -> str:
    """A value as a message shows it: as Python writes it, escaped and cut; never an error, whatever the value is.

    Example:
        >>> shown("ab"), shown([1, 2]), len(shown("x" * 10**8)) < 200
        ("'ab'", '[1, 2]', True)
    """
    if isinstance(value, str) and len(value) > most:
        # Cut before it is written out, which would make several copies of a long text.
        return f"{value[: most - most // 3] + value[-(most // 3) :]!r} ({len(value)} characters, middle left out)"
    if isinstance(value, str):
        return repr(value)
    try:
        return bounded(_SHORT.repr(value), most)
    except (RecursionError, ValueError):
        # Nested too deeply, or an integer of more digits than Python writes.
        return f"a {type(value).__name__} that is too large to show"


def counted(number: int, what: str) -> str:
    """A number of things, in the plural unless it is one.

    Example:
        >>> counted(1, "module"), counted(0, "module"), counted(12, "tensor")
        ('1 module', '0 modules', '12 tensors')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What to put behind an unknown name: the known one that is closest to it, if one is close.

    Args:
        name: what was given.
        known: what there is.

    Returns:
        `` (did you mean 'x'?)`` with the space in front, or nothing; case and the kind of dash do not count.

    Example:
        >>> print("unknown method 'tis'" + did_you_mean("tis", ["ties", "dare_ties"]))
        unknown method 'tis' (did you mean 'ties'?)
        >>> did_you_mean("bread", ["ties", "dare_ties"])
        ''
    """
    spelled = {_plainly(one): one for one in known}
    close = difflib.get_close_matches(_plainly(str(name)[:_LONGEST_VALUE]), spelled, n=1)
    return f" (did you mean {spelled[close[0]]!r}?)" if close else ""


def _plainly(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: half of a surrogate pair, as JSON's escapes allow it, cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def escaped_json(text: str) -> str:
    r"""JSON for a terminal: what cannot be seen becomes an escape of JSON's own, so that a reader gets the same values.

    Example:
        >>> print(escaped_json('{"ü": "\u202e"}'))
        {"ü": "\u202e"}
    """
    return _NOT_PLAIN.sub(lambda found: found[0] if visible(found[0]) == found[0] else _json_escape(found[0]), text)


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``12 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def memory_size(count: float) -> str:
    """Bytes as a person says them: ``512 B``, ``3.2 MiB``, ``7.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
