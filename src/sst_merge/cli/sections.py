"""A long help in sections: what most people need first, then one subject after the other."""

import click

__all__ = ["SectionedCommand"]

_FIRST = ("base_model", "base", "skills", "safety", "output__path", "merge__method", "data__calibration", "dry_run")
_PREFIXES = {
    "data__": "Calibration data",
    "merge__": "Method",
    "output__": "Output",
}
_VOICE = ("as_json", "quiet", "verbose", "log_file", "help")


class SectionedCommand(click.Command):
    """Its options are shown by subject; the order within a subject is that of their declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {"Start here": []}
        sections |= {title: [] for title in _PREFIXES.values()} | {"Other options": [], "Messages": []}
        params = sorted(self.get_params(ctx), key=lambda p: _FIRST.index(str(p.name)) if p.name in _FIRST else 99)
        for param in params:
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is None:
                continue
            name = "help" if "--help" in param.opts else str(param.name)
            subject = next((title for start, title in _PREFIXES.items() if name.startswith(start)), "Other options")
            subject = "Method" if name == "settings" else "Messages" if name in _VOICE else subject
            sections["Start here" if name in _FIRST else subject].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
