"""What docstrings have and Markdown does not know: roles (``:class:`.Adapter```) become plain code, examples code."""

import re
from typing import Any

import griffe

# griffe takes the plural for doctests, and the singular for a box of text.
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|obj):`([^`]+)`")


def plain(text: str) -> str:
    """The same text with the last part of every name as code, or all of it where no ``~`` shortens it."""
    return _ROLE.sub(lambda role: f"`{_shown(role[1])}`", text)


def _shown(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("~") else name.removeprefix(".")


class Roles(griffe.Extension):
    """Run by mkdocstrings on everything that it reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", plain(obj.docstring.value))
