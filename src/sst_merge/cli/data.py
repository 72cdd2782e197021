"""``sst-merge data``: what a file of prompts and answers is taken for, before anything is made of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data_loader import DataSource
from ..hub_names import HubName, is_here
from ..yaml_config import validated
from .console import finish, print_table, say, warn
from .flags import config_flags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data_loader import LoadedRows, Row

__all__ = ["data"]

_FLAGS = [flag for flag in config_flags(DataSource) if flag.field not in {"path", "dataset"}]
_COUNTS = {
    "records": "records read",
    "kept": "kept by --where",
    "usable": "with a prompt and an answer",
    "distinct": "distinct prompts",
}


def _with_fields(function: Callable[..., Any]) -> Callable[..., Any]:
    for flag in reversed(_FLAGS):
        function = flag.declare()(function)
    return function


@click.group(help="Look at calibration data.")
def data() -> None:
    """Group of commands."""


@data.command(
    help="Show what FILE (or a data set of the hub, user/set[@revision][/folder]) is recognised as: which fields are "
    "prompt and answer, how many rows there are, and some of them with the answer marked, as tokens where --tokenizer "
    "names one.",
    epilog="Example: sst-merge data show refusals.jsonl --tokenizer meta-llama/Llama-2-7b-chat-hf",
)
@click.argument("place", metavar="FILE|ID")
@_with_fields
@click.option(
    "--tokenizer", metavar="FOLDER|ID", help="mark the answer's tokens, as this tokenizer and template make them"
)
@click.option("--rows", "shown", default=3, show_default=True, type=click.IntRange(min=0), help="rows to show")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of --samples")
def show(place: str, tokenizer: str | None, shown: int, seed: int, **values: Any) -> None:
    """Read, count, show."""
    source = _source(place, values)
    from ..data_loader import load_tokenizer, read_rows

    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    found = read_rows(source, seed=seed)
    rows = [_shown_row(row, source, loaded) for row in found.rows[:shown]]
    print_table(source.name, ["what", "found"], _table(found, source.turns))
    for number, row in enumerate(rows, start=1):
        say("")
        say(f"row {number}" + (f": {row['prompt_tokens']} tokens, then {row['answer_tokens']}" if loaded else ""))
        for message in row.get("before", ()):
            say(f"  {message['role']}: {message['content']}")
        say(f"  prompt  {row['prompt']}")
        answer = row.get("tokens")
        say(f"  answer  {row['answer'] if answer is None else ''.join(f'[{token}]' for token in answer)}")
        if row.get("cut"):
            say(f"  {row['cut']} tokens are left out: longer than max_length = {source.max_length}")
    for note in found.notes:
        warn(note)
    field = "path" if source.path is not None else "dataset"
    finish(
        {"source": source.name, **_recognised(found), "notes": list(found.notes), "rows": rows},
        then=f"sst-merge merge --dry-run, with this as data.harm.{field} or data.benign.{field}",
    )


def _source(place: str, values: Mapping[str, Any]) -> DataSource:
    """A file that is here, else a data set of the hub where it reads like one."""
    on_hub = not is_here(place) and HubName.parse(place) is not None
    a_set = on_hub and not place.endswith((".jsonl", ".json", ".csv", ".gz", ".xz", ".parquet"))
    raw: dict[str, object] = {"dataset" if a_set or Path(place).is_dir() else "path": place}
    given = [flag for flag in _FLAGS if values.get(flag.parameter) not in (None, ())]
    raw |= {flag.field: flag.value(values[flag.parameter]) for flag in given}
    return validated(DataSource, raw, source="command line", flags={flag.field: flag.option for flag in given})


def _recognised(found: "LoadedRows") -> dict[str, Any]:
    form = found.recognised
    assert form is not None, "rows come from records"
    return {"form": form._asdict(), "counts": {**found.counts, "rows": len(found.rows)}}


def _table(found: "LoadedRows", turns: str) -> list[list[str]]:
    form = found.recognised
    assert form is not None, "rows come from records"
    read = "every question and answer" if turns == "all" else "the first question and answer"
    prompt = form.prompt + (f" ({read})" if form.chat else "")
    rows = [
        ["recognised as", form.kind],
        ["prompt", " + ".join([*form.before, prompt, *form.after])],
        ["answer", form.answer or (form.prompt if form.chat else "the fixed answer")],
    ]
    rows += [[title, str(found.counts[name])] for name, title in _COUNTS.items()]
    return [*rows, ["rows", str(len(found.rows))]]


def _shown_row(row: "Row", source: DataSource, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    if tokenizer is None:
        before = [{"role": role, "content": text} for role, text in row.before]
        return {"prompt": row.prompt, "answer": row.response} | ({"before": before} if before else {})
    from ..data_loader import encode_each

    (encoded,) = encode_each(
        [row], tokenizer, template=source.template, template_name=source.template_name, max_length=source.max_length
    )
    asked, answered = list(encoded.ids[: encoded.asked]), list(encoded.ids[encoded.asked :])
    return {
        "prompt": tokenizer.decode(asked),
        "answer": tokenizer.decode(answered),
        "prompt_tokens": len(asked),
        "answer_tokens": len(answered),
        "tokens": [tokenizer.decode([token]) for token in answered],
        "cut": encoded.cut,
    }
