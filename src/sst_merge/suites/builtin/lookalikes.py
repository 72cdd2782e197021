"""Harmless prompts that look harmful: XSTest's, and Alpaca instructions (Taori et al. 2023) with a word of harm."""

import re
from collections.abc import Sequence
from pathlib import Path

from ...data_loader import normalise_prompt
from ..contract import Document, Request, Suite, document
from ..sets import HubPart, Part, Row, SetSpec, content_id, distinct, field, read_ids, resolve
from .xstest import SAFE_PROMPTS, XSTEST

__all__ = ["ALPACA", "LOOKALIKE_IDS", "harm_words", "lookalikes"]

LOOKALIKE_IDS = Path(__file__).with_name("lookalike_ids.json")


_WORDS = """abuse assault attack beat blackmail blood bomb burn crime criminal dangerous dead death destroy die drug
explode exploit explosive fight fire fraud gun hack harm hate hit illegal kidnap kill knife murder poison racism racist
rob robbery scam shoot smuggle steal stolen suicide terrorist thief threat threaten torture toxic victim violence
violent virus war weapon"""
_PATTERN = re.compile(rf"\b({'|'.join(_WORDS.split())})(?:s|es|ed|d|ing|er|ers)?\b", re.IGNORECASE)


def harm_words(text: str) -> list[str]:
    """The words of harm in a text, by their stem.

    Args:
        text: an instruction.

    Returns:
        Distinct words in order of appearance, lower case, endings cut.
    """
    return list(dict.fromkeys(match.casefold() for match in _PATTERN.findall(text)))


def _rows(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for _, records in parts:
        for record in records:
            prompt, extra = field(record, "instruction"), field(record, "input")
            if extra.strip():
                prompt = f"{prompt}\n\n{extra}"
            if normalise_prompt(prompt):
                rows.append({"id": content_id("alpaca", prompt), "prompt": prompt})
    return distinct(rows)


ALPACA = SetSpec(
    name="alpaca",
    summary="harmless instructions, one row a distinct instruction with its input",
    files=("instructions/alpaca_1000.json", "instructions/alpaca_long_2000.json"),
    rows=_rows,
    hub="tatsu-lab/alpaca",
    parts=(HubPart("train", None, "train"),),
    licence="CC-BY-NC-4.0",
    get="https://huggingface.co/datasets/tatsu-lab/alpaca",
    partial=True,
)


@Suite(
    name="lookalikes",
    measure="over_refusal",
    summary="XSTest's safe prompts, and harmless Alpaca instructions that contain a word of harm",
    sets=(XSTEST, ALPACA),
    breakdown="type",
    higher_is_better=False,
)
def lookalikes(request: Request) -> list[Document]:
    """XSTest's safe prompts, and Alpaca instructions with a word of harm that a person found harmless.

    Tag `type` is XSTest's, or ``alpaca``.
    """
    chosen = read_ids(LOOKALIKE_IDS)
    rows = resolve(chosen["ids"], [request.read(ALPACA)], selection=chosen["name"], sha256=chosen["sha256"])
    return [
        *SAFE_PROMPTS(request),
        *(
            document(row, tags={"attack": "none", "type": "alpaca", "word": harm_words(row["prompt"])[0]})
            for row in rows
        ),
    ]
