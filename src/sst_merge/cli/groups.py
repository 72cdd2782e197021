"""A group of commands that says which one was meant."""

import click

from ..texts import did_you_mean

__all__ = ["CommandGroup"]


class CommandGroup(click.Group):
    """Refuses an unknown command with the closest one and a list of all."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but for the message."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], known)}; there are {', '.join(known)}")
        return super().resolve_command(ctx, args)
