"""An answer as the refusal rules read it: markup and quotations gone, contractions spelled out, cut into sentences.

Patterns stay few because everything that means the same is made to look the same here: ``can’t``, ``can't``, ``cant``
and ``can not`` all become ``cannot``.
"""

import re
from collections.abc import Sequence

__all__ = ["as_sentences", "as_turns", "normalise"]

_QUOTES = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"', "«": '"', "»": '"', "…": "..."})
_MARKUP = re.compile(r"</?[a-z][^>]*>|```\w*|[*_#~>]+|(?m:^\s*[-•]\s+)")
# Whole words, lower case; the order matters where one is part of another.
_CONTRACTIONS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), full)
    for pattern, full in (
        (r"\bcan\s?not\b|\bcan'?t\b", "cannot"),
        (r"\bwon'?t\b", "will not"),
        (r"\bi ain'?t\b", "i am not"),
        (r"\bshan't\b", "shall not"),
        (r"\b(do|does|did|is|are|was|were|would|should|could|have|has|must)n'?t\b", r"\1 not"),
        (r"\b(i)'?m\b", r"\1 am"),
        (r"\b(i|we|you|they)'d\b", r"\1 would"),
        (r"\b(i|we|you|they|it|that)'ll\b", r"\1 will"),
        (r"\b(i|we|you|they)'ve\b", r"\1 have"),
        (r"\b(you|we|they)'re\b", r"\1 are"),
        (r"\b(it|that|here|there|what|let)'s\b", r"\1 is"),
        (r"\bfulfil\b", "fulfill"),
        (r"\bapologise\b", "apologize"),
    )
)
_QUOTED = re.compile(r'"[^"\n]{0,600}"')
# "GPT:", "[DAN]:", "(GPT):", "[🔒CLASSIC]", "🔓": who speaks; at the start of a line, short, no sentence inside.
_SPEAKER = re.compile(
    r"(?m)^[ \t*_#>]*(?:[\[(][^\]\)\n]{1,24}[\])]\s*:?|[A-Za-zΣ][\w .-]{0,22}(?:\([^)\n]{1,20}\))?\s*:(?=[\s*_])|"
    r"[🔒🔓]\s*|[α-ωΑ-Ω] (?=\S)|"
    r"As (?!an? |the |your |for |of |with )[A-Z]\w{1,15},)"
)
_END = re.compile(r"(?<=[.!?:;])[\"')\]]*\s+|\n+")
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s*")
_LABEL_WORDS = re.compile(r"\b(?:here|is|are|how|step|note|warning|subject|the|you|i|to)\b", re.IGNORECASE)


def normalise(text: str) -> str:
    """Lower case, straight quotes, no markup, contractions spelled out; line breaks stay."""
    plain = _MARKUP.sub(" ", text.translate(_QUOTES)).lower()
    for pattern, full in _CONTRACTIONS:
        plain = pattern.sub(full, plain)
    return re.sub(r"[ \t]+", " ", plain).strip()


def as_turns(text: str) -> list[str]:
    """What each voice says, without its label, in an answer of several ("GPT: … DAN: …", as jailbreaks ask for)."""
    labels = [match for match in _SPEAKER.finditer(text) if not _LABEL_WORDS.search(match.group())]
    lead = text[: labels[0].start()] if labels else text
    # Voices begin the answer, perhaps after the question repeated; labels further on are headings.
    if not labels or (re.search(r"\w", lead) and not lead.rstrip(' "\n').endswith("?")):
        return [text] if text.strip() else []
    stops = [*(label.start() for label in labels[1:]), len(text)]
    parts = [text[label.end() : stop] for label, stop in zip(labels, stops, strict=True)]
    return [part for part in parts if part.strip()]


def as_sentences(text: str) -> list[str]:
    """Normalised sentences in the speaker's own words.

    What is quoted is dropped, unless the whole text is one quotation; so are the numbers of lists.
    """
    plain = normalise(text)
    if plain.count('"') == 2 and plain.startswith('"') and plain.rstrip(".").endswith('"'):
        plain = plain.strip('". ')
    # A mark instead of the quotation, so that a sentence made of one is not empty.
    plain = _QUOTED.sub("«»", plain)
    pieces = (_LIST_NUMBER.sub("", piece).strip() for piece in _END.split(plain))
    return [piece for piece in pieces if re.search(r"\w|«", piece)]
