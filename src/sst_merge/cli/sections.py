"""A long help in sections: what most people need first, then one subject after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["SectionedCommand"]

_MESSAGES = ("as_json", "quiet", "verbose", "log_file", "help")
_REST = "Other options"


class SectionedCommand(click.Command):
    """Its options are shown by subject; the order within a subject is that of their declaration.

    Attributes:
        first: names of the options that come first, in this order.
        subjects: beginning of an option's name → heading.
    """

    def __init__(
        self, *given: Any, first: Sequence[str] = (), subjects: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        self.first, self.subjects = tuple(first), dict(subjects or {})
        super().__init__(*given, **more)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        titles = ["Start here", *dict.fromkeys(self.subjects.values()), _REST, "Messages"]
        sections: dict[str, dict[str, tuple[str, str]]] = {title: {} for title in titles}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                name = "help" if "--help" in option.opts else str(option.name)
                sections[self._title(name)][name] = record
        ordered = [name for name in self.first if name in sections["Start here"]]
        sections["Start here"] = {name: sections["Start here"][name] for name in ordered}
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(list(records.values()))

    def _title(self, name: str) -> str:
        if name in self.first:
            return "Start here"
        if name in _MESSAGES:
            return "Messages"
        return next((title for start, title in self.subjects.items() if name.startswith(start)), _REST)
