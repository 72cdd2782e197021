"""Reference pages made from the code when the site is built: commands from their parsers, methods from the registry."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.testing import CliRunner
from roles import plain

from sst_merge.cli.main import cli

Record = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Page, by its path in the repository → Markdown."""
    return {
        "docs/reference/commands.md": "\n".join(_commands()),
        "docs/reference/methods.md": "\n".join(_methods()),
    }


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "What `--help` says, made from the parsers themselves when this site was built.\n"
    yield from _command(cli, click.Context(cli, info_name="sst-merge"), level=2)


def _command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    """A command, then the commands of a group."""
    yield f"{'#' * level} {context.command_path}\n"
    yield f"{_cell(command.help or '')}\n"
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    records = [option.get_help_record(context) for option in command.get_params(context)]
    # An argument has a place in the line above, and no text.
    rows = [(f"<code>{_cell(record[0])}</code>", _cell(record[1])) for record in records if record and record[1]]
    yield from _table(("option", "what it is"), rows)
    if command.epilog:
        yield f"{_cell(command.epilog)}\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, info_name=name, parent=context), level + 1)


def _methods() -> Iterator[str]:
    yield "# Methods\n"
    yield "Every registered method, from its declaration: what it needs, where it comes from, and its options.\n"
    yield "What was measured: [Which method, when](../choosing.md). `sst-merge methods NAME` shows the options too.\n"
    asked = CliRunner().invoke(cli, ["methods", "--json"], catch_exceptions=False)
    records: list[Record] = json.loads(asked.stdout)
    rows = [(f"[{record['name']}](#{record['name']})", _cell(record["summary"]), _needs(record)) for record in records]
    yield from _table(("method", "what it does", "needs"), rows)
    for record in records:
        yield from _method(record)


def _method(record: Record) -> Iterator[str]:
    yield f"## {record['name']} {{: #{record['name']} }}\n"
    yield f"{record['summary'][0].upper()}{record['summary'][1:]}.\n"
    yield f"- from: {record['paper']}"
    yield f"- needs: {_needs(record)}"
    yield f"- works on: {_DOMAINS[record['domain']]}"
    yield f"- strength is swept by: `{record['knob']}`\n"
    rows = [
        (
            f"`{name}`",
            _cell(option["meaning"]),
            _cell(option["values"]),
            f"`{json.dumps(option['default'])}`",
        )
        for name, option in record["options"].items()
    ]
    yield from _table(("option", "what it is", "values", "default"), rows)


_DOMAINS = {"core": "core matrices", "delta": "ΔW, one layer at a time"}


def _needs(record: Record) -> str:
    needs = record["needs"]
    found = [f"an adapter of role {role}" for role in needs["roles"]]
    found += ["model and data"] if needs["data"] else ["base weights"] if needs["base"] else []
    found += ["an aligned base, or an adapter of role safety"] if needs["aligned_base"] else []
    return ", ".join(found) or "adapters only"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield "\n".join(f"| {' | '.join(row)} |" for row in [columns, ("---",) * len(columns), *rows]) + "\n"


def _cell(text: str) -> str:
    """One line without what a table or HTML would take for markup."""
    safe = (
        " "
        .join(plain(text).split())
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "&#124;")
        .replace("[", "&#91;")
    )
    return safe.replace("``", "`")
