"""A page, read back."""

import html.parser
from typing import Any

import pytest

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Text, tables and tags of a page; fails on tags that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.tags, self.text, self.rows, self.links = [], set(), "", [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"} and not value.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        if {"style", "script"} & set(self.open):
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    return Page


@pytest.fixture
def seen_report() -> dict[str, Any]:
    """A merge report with all that the page has pictures of: four modules in two layers."""
    kinds = ("self_attn.q_proj", "mlp.up_proj")
    modules = [f"model.layers.{i}.{kind}" for i in range(2) for kind in kinds]
    candidates = [(10.0, -3.0, 0.001), (1.0, -1.5, 0.04), (0.1, -0.5, 0.4)]
    return {
        "method": "sst",
        "options": {"tax_budget": 0.05},
        "seed": 0,
        "adapters": [{"name": "code", "role": "utility", "weight": 1.0, "base_model": None, "files": {}}],
        "versions": {"torch": "2.13"},
        "modules": {
            name: {"rank": 4 + i, "kept_energy": 1.0, "norm": 1.0 + i, "effective_rank": 2.0, "core_shape": [8, 8]}
            for i, name in enumerate(modules)
        },
        "method_report": {
            "mu": 1.0,
            "strength": 1.0,
            "spectrum": {
                "directions": 96,
                "eigenvalues": [8.0, 1.0, 0.25],
                "passed": [8 / 9, 0.5, 0.2],
                "by_module": {name: [8.0 / (1 + i), 0.25] for i, name in enumerate(modules)},
            },
            "by_module": {
                name: {"moved": moved, "captured": captured}
                for name, moved, captured in zip(modules, (1.0, 2.0, 1.0, 4.0), (0.1, 0.2, 0.3, None), strict=True)
            },
            "path": [{"mu": mu, "strength": 1.0, "refusal": said, "divergence": far} for mu, said, far in candidates],
            "held_out_quotients": {"by_module": {name: [8.0 / (1 + i), 2.0] for i, name in enumerate(modules)}},
        },
    }
