"""Rows of a text world's sources: prompts, answers, options, template families, each with the file it came from."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...data_loader import DataSource, load_rows, normalise_prompt
from ...data_loader.formats import Record, read_file
from ...errors import DataError
from ...suites.builtin.jailbreak import templates
from ...suites.registry import load_set
from .config import DATA_VARIABLE, Part, Source, TextConfig

__all__ = ["PLACEHOLDER", "Asked", "Template", "TextQuestion", "read_prompts", "read_templates"]

PLACEHOLDER = "[INSERT PROMPT HERE]"
"""Where a jailbreak template takes the request."""

Asked = Literal["refusal", "choice", "answer", "likelihood"]
_NO_ANSWER = "-"
# Half of the families for test, as the evaluation suites have it; the rest for calibration and dev in turn.
_TURNS: tuple[Part, ...] = ("test", "calibration", "test", "dev")


@dataclass(frozen=True)
class TextQuestion:
    """A prompt, and what is known about its answer.

    Attributes:
        kind: of prompt.
        prompt: what the user says.
        response: the right answer, or the refusal; empty where only refusals are looked for.
        asked: how a model's answer is taken.
        options: of a ``choice``.
        origin: file or set that it came from.
    """

    kind: str
    prompt: str
    response: str
    asked: Asked
    options: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True)
class Template:
    """A jailbreak wrapper.

    Attributes:
        text: with :data:`PLACEHOLDER` once.
        family: wrappers of one family share phrases, so they are in one part.
    """

    text: str
    family: str


def read_prompts(config: TextConfig, source: Source, kind: str, asked: Asked) -> list[TextQuestion]:
    """The rows of one source.

    Args:
        config: says where the data folder is.
        source: a file or a set.
        kind: of prompt that they become.
        asked: ``choice`` needs options, ``likelihood`` answers.

    Returns:
        Distinct prompts in the source's order.

    Raises:
        DataError: the source cannot be read, lacks a field, or has no rows left.
    """
    read = _choices if asked == "choice" else _prompts if source.set is None else _set_prompts
    found = [replace(question, kind=kind, asked=asked) for question in read(config, source)]
    first: dict[str, TextQuestion] = {}
    for question in found:
        key = normalise_prompt(question.prompt)
        if source.span[0] <= _place(key) < source.span[1] and len(question.prompt) <= (source.longest or 1 << 30):
            first.setdefault(key, question)
    if not first:
        raise DataError(
            f"{_name(config, source)}: none of {len(found)} prompts is left for {kind}; check where, span and longest"
        )
    return list(first.values())


def read_templates(config: TextConfig) -> dict[Part, list[Template]]:
    """Jailbreak templates by part; a family is in one part alone.

    Args:
        config: names the sources.

    Returns:
        Templates for ``calibration``, ``dev`` and ``test``.

    Raises:
        DataError: a template without its placeholder, or too few families for three parts.
    """
    found: list[Template] = []
    for source in config.templates:
        for row in _template_rows(config, source):
            if row.text.count(PLACEHOLDER) != 1:
                raise DataError(
                    f"{_name(config, source)}: template {row.text[:60]!r} holds {PLACEHOLDER} "
                    f"{row.text.count(PLACEHOLDER)} times, expected once"
                )
            if len(row.text) <= (source.longest or 1 << 30):
                found.append(row)
    sizes = Counter(row.family for row in found)
    ranked = sorted(sizes, key=lambda name: (-sizes[name], name))
    part_of = {family: _TURNS[i % len(_TURNS)] for i, family in enumerate(ranked)}
    parts: dict[Part, list[Template]] = {part: [] for part in ("calibration", "dev", "test")}
    for row in found:
        parts[part_of[row.family]].append(row)
    empty = [part for part, rows in parts.items() if not rows]
    if empty:
        raise DataError(
            f"templates ({', '.join(source.name for source in config.templates)}): {len(ranked)} families, none is "
            f"left for {empty[0]}; expected at least 4"
        )
    return parts


def _prompts(config: TextConfig, source: Source) -> Iterator[TextQuestion]:
    assert source.path is not None
    bare = not source.response and source.response_field is None and not _answered(config, source)
    data = DataSource(
        path=config.place(source.path),
        where=dict(source.where) or None,
        prompt_field=source.prompt_field,
        response_field=source.response_field,
        response=(_NO_ANSWER,) if bare else source.response or None,
    )
    for row in load_rows(data):
        yield TextQuestion("", row.prompt, "" if bare else row.response, "refusal", origin=data.name)


def _answered(config: TextConfig, source: Source) -> bool:
    """Whether the file has answers that a model may learn; targets of attackers are none."""
    first = _records(config, source)[0]
    return bool({name.casefold() for name in first} & {"response", "completion", "output", "answer", "messages"})


def _records(config: TextConfig, source: Source) -> list[Record]:
    assert source.path is not None
    path = config.place(source.path)
    if config.root is None and not path.is_absolute():
        raise DataError(
            f"{source.path}: relative paths start at the data folder; set {DATA_VARIABLE}, or `data` in the world's "
            "file"
        )
    records = read_file(path)
    if not records:
        raise DataError(f"{path}: holds no rows")
    return records


def _set_rows(config: TextConfig, source: Source) -> tuple[str, list[Mapping[str, str]]]:
    assert source.set is not None
    found = load_set(source.set, config.root)
    rows = [row for row in found.rows if all(str(row.get(k, "")) == str(v) for k, v in source.where.items())]
    return f"set {found.name} ({found.origin})", rows


def _set_prompts(config: TextConfig, source: Source) -> Iterator[TextQuestion]:
    origin, rows = _set_rows(config, source)
    for row in rows:
        # A row's answer depends on its words alone, so that it stays the same in any sample.
        answers = source.response
        answer = answers[int(_place(row["prompt"]) * len(answers))] if answers else ""
        yield TextQuestion("", row["prompt"], answer, "refusal", origin=origin)


def _choices(config: TextConfig, source: Source) -> Iterator[TextQuestion]:
    """Questions with options: of MMLU by letters, of own files as they are written.

    Raises:
        DataError: a row without prompt, options and response.
    """
    if source.set is not None:
        origin, rows = _set_rows(config, source)
        for row in rows:
            if "choices" not in row:
                raise DataError(f"{origin}: has no options; general knowledge needs questions with options, as in mmlu")
            listed = "\n".join(f"{k}. {text}" for k, text in zip("ABCD", json.loads(row["choices"]), strict=False))
            prompt = f"{row['prompt'].strip()}\n{listed}\nAnswer with the letter alone."
            yield TextQuestion("", prompt, row["answer"], "choice", tuple("ABCD"), origin)
        return
    path = str(config.place(source.path or ""))
    for number, record in enumerate(_records(config, source), start=1):
        options = record.get("options")
        known = options if isinstance(options, list) else []
        if record.get("response") not in known or not isinstance(record.get("prompt"), str):
            raise DataError(f"{path}, row {number}: expected prompt, options (a list) and response, one of the options")
        yield TextQuestion("", record["prompt"], record["response"], "choice", tuple(known), path)


def _template_rows(config: TextConfig, source: Source) -> Sequence[Template]:
    if source.set is not None:
        rows = [row for part in ("calibration", "test") for row in templates(_set_rows(config, source)[1], part)]
        return [Template(row["prompt"], row["family"]) for row in rows]
    rows = _records(config, source)
    lacking = next((i for i, row in enumerate(rows, start=1) if not {"template", "family"} <= set(row)), None)
    if lacking is not None:
        raise DataError(f"{_name(config, source)}, row {lacking}: expected the fields template and family")
    return [Template(str(row["template"]), str(row["family"])) for row in rows]


def _name(config: TextConfig, source: Source) -> str:
    return source.name if source.path is None else str(config.place(source.path))


def _place(text: str) -> float:
    digest = hashlib.sha256(f"place: {normalise_prompt(text)}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
