"""``sst-merge methods``: what is registered."""

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .console import finish, print_table, say, say_paragraph, shell

if TYPE_CHECKING:
    from ..methods import MergeMethod, OptionHelp

__all__ = ["methods"]


@click.command(
    help="List the merge methods; with NAME, explain the options of one.", epilog="Example: sst-merge methods sst"
)
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """Print all methods, or one method's options."""
    from ..methods import available_methods, get_method, option_help

    if name is None:
        found = available_methods()
        rows = [[m.name, m.summary, _needs(m)] for m in found.values()]
        print_table("merge methods", ["name", "what it does", "needs"], rows)
        finish(
            [_record(method) for method in found.values()], then="sst-merge methods NAME explains one method's options"
        )
        return
    method = get_method(name)
    say_paragraph(f"{method.name}: {method.summary} ({method.paper})", indent=0)
    say_paragraph(f"needs: {_needs(method)}; its strength is {method.knob}", indent=0)
    say("options, each for --set NAME=VALUE:")
    for option in option_help(method.options):
        say("")
        values = option.values if option.section else f"{option.values}; default {_default(option)}"
        say_paragraph(f"{option.name} ({values})", indent=2)
        say_paragraph(option.meaning or "not described", indent=6)
    example = next((o for o in option_help(method.options) if o.name == method.knob), None)
    setting = [] if example is None or example.default is None else ["--set", f"{example.name}={example.default}"]
    finish([_record(method)], then=shell(*_merge_words(method), *setting, "-o", "out/merged", "--dry-run"))


def _merge_words(method: "MergeMethod") -> list[str]:
    """A merge by this method, with what it needs."""
    needs = method.needs
    words = ["sst-merge", "merge", "--method", method.name]
    words += ["--base", "BASE"] if needs.data or needs.base else []
    words += ["--skill", "ADAPTER"]
    words += (
        ["--safety", "ADAPTER"]
        if "safety" in needs.roles or needs.aligned_base or needs.data
        else ["--skill", "ADAPTER"]
    )
    return words + (["--calibration", "builtin"] if needs.data else [])


def _default(option: "OptionHelp") -> str:
    return "null" if option.default is None else json.dumps(option.default)


def _needs(method: "MergeMethod") -> str:
    needs = [f"role {role}" for role in sorted(method.needs.roles)]
    needs += ["model and data"] if method.needs.data else ["base weights"] if method.needs.base else []
    needs += ["aligned base or role safety"] if method.needs.aligned_base else []
    return ", ".join(needs) or "adapters only"


def _record(method: "MergeMethod") -> dict[str, Any]:
    from ..methods import option_help

    kinds = {name: str(info.annotation) for name, info in method.options.model_fields.items()}
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "domain": method.domain,
        "knob": method.knob,
        "needs": {
            "data": method.needs.data,
            "base": method.needs.base,
            "aligned_base": method.needs.aligned_base,
            "roles": sorted(method.needs.roles),
        },
        "promises": asdict(method.promises),
        "options": {
            option.name: {"default": option.default, "values": option.values, "meaning": option.meaning}
            | ({"type": _readable(kinds[option.name])} if option.name in kinds else {})
            for option in option_help(method.options)
        },
    }


def _readable(annotation: str) -> str:
    """``typing.Literal['a', 'b'] | None`` without module names."""
    plain = annotation.removeprefix("<class '").removesuffix("'>")
    return re.sub(r"\b(?:\w+\.)+(?=[A-Za-z])", "", plain)
