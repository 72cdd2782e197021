"""``sst-merge methods``: what is registered."""

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .console import print_json, print_table

if TYPE_CHECKING:
    from ..methods import MergeMethod

__all__ = ["methods"]


@click.command(help="List the merge methods; with NAME, the options of one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
def methods(name: str | None, as_json: bool) -> None:
    """Print all methods, or one method's options."""
    from ..methods import available_methods, get_method

    if as_json:
        chosen = available_methods().values() if name is None else [get_method(name)]
        print_json(json.dumps([_record(method) for method in chosen], indent=2, ensure_ascii=False))
    elif name is None:
        rows = [[m.name, m.summary, _needs(m), m.knob, m.paper] for m in available_methods().values()]
        print_table("merge methods", ["name", "what it does", "needs", "strength knob", "paper"], rows)
    else:
        options = _record(get_method(name))["options"]
        rows = [[option, str(o["type"]), json.dumps(o["default"])] for option, o in options.items()]
        print_table(f"options of {name}", ["option", "type", "default"], rows)


def _needs(method: "MergeMethod") -> str:
    needs = [f"role {role}" for role in sorted(method.needs.roles)]
    needs += ["model and data"] if method.needs.data else ["base weights"] if method.needs.base else []
    needs += ["aligned base or role safety"] if method.needs.aligned_base else []
    return ", ".join(needs) or "adapters only"


def _record(method: "MergeMethod") -> dict[str, Any]:
    kinds = {name: str(info.annotation) for name, info in method.options.model_fields.items()}
    defaults = method.options().model_dump(mode="json")
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
        "options": {name: {"type": _readable(kinds[name]), "default": defaults[name]} for name in kinds},
    }


def _readable(annotation: str) -> str:
    """``typing.Literal['a', 'b'] | None`` without module names."""
    plain = annotation.removeprefix("<class '").removesuffix("'>")
    return re.sub(r"\b(?:\w+\.)+(?=[A-Za-z])", "", plain)
