"""Pictures and reports of models, suites and tags with any name: well-formed, complete, without a warning."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sst_merge.evaluation import Record, summarize
from sst_merge.measures.figure import Figure
from sst_merge.measures.safety_tax import SweepPoint
from sst_merge.reporting import (
    HeatMap,
    heat_maps,
    rate_plot,
    retention_plot,
    safety_utility_plot,
    tax_bars,
    write_evaluation_report,
)
from sst_merge.reporting.style import picture_text
from sst_merge.suites import Suite

FIGURE = Figure(0.5, 0.4, 0.6, n=10)


def heat_map(names: list[str], stem: Path) -> tuple[Path, ...]:
    tiles = HeatMap(names[0], names, names[:5], [[0.5] * 5 for _ in names], column_label=names[1], color_label=names[2])
    return heat_maps([tiles], path_stem=stem, title=" ".join(names[:9]))


PICTURES: dict[str, Callable[[list[str], Path], tuple[Path, ...]]] = {
    "heat map": heat_map,
    "rates": lambda names, stem: rate_plot(
        {name: {names[0]: FIGURE, "_b": None} for name in names}, path_stem=stem, title=names[4], axis_label=names[3]
    ),
    "retention": lambda names, stem: retention_plot(
        {name: {2: FIGURE, 3: FIGURE} for name in names}, path_stem=stem, title=names[4], axis_label=names[3]
    ),
    "front": lambda names, stem: safety_utility_plot(
        {name: [SweepPoint(strength=s, safety=s, utility=0.3) for s in (0.2, 0.5)] for name in names[::2]},
        anchors=dict.fromkeys(names[1::2], (0.5, 0.5)),
        path_stem=stem,
        title=names[4],
        safety_label=names[3],
        utility_label=names[2],
    ),
    "taxes": lambda names, stem: tax_bars(
        {name: FIGURE if i % 2 else None for i, name in enumerate(names)}, path_stem=stem, title=names[4]
    ),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_with_any_name(kind: str, nasty_names: tuple[str, ...], tmp_path: Path) -> None:
    names = [*[name for name in nasty_names if len(name) < 60][::2], max(nasty_names, key=len)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a sign that the font does not have is one
        png, svg = PICTURES[kind](names, tmp_path / "picture")
    assert png.stat().st_size < 5 << 20
    ElementTree.parse(svg)
    comments = {line.strip()[5:-4] for line in svg.read_text(encoding="utf-8").splitlines() if "<!--" in line}
    assert any("$x_{1}$" in text for text in comments), "a dollar sign is drawn as one"


def test_what_the_font_lacks_is_an_escape() -> None:
    assert picture_text("a数\x1b\u202e é") == r"a\u6570\x1b\u202e é"
    assert len(picture_text("数" * 10_000)) < 300


def test_a_report_on_models_of_any_name_loses_none(nasty_names: tuple[str, ...], tmp_path: Path) -> None:
    suites = {
        name: Suite(name=name, measure="utility", summary="", judged=False, score="correct", breakdown="tag", asking={})
        for name in ("custom_数学", "custom_a", "custom_a_correct_by_tag")
    }
    models = ("base", *nasty_names[::4], "é", "e\u0301")
    records = [
        Record(
            model=model,
            suite=suite,
            id=f"{i}",
            prompt="p",
            response="r",
            scores={"correct": float(i == 0)},
            tags={"tag": tag},
        )
        for model in models
        for suite in suites
        for i, tag in enumerate(nasty_names[2:5])
    ]
    summary = summarize(records, suites)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = write_evaluation_report(summary, tmp_path, title=nasty_names[1], facts={nasty_names[3]: nasty_names[4]})
    assert page.is_file()
    rates: list[dict[str, Any]] = json.loads((tmp_path / "tables/rates.json").read_text(encoding="utf-8"))
    assert {rate["model"] for rate in rates} == set(models)
    pictures = list((tmp_path / "pictures").glob("*.svg"))
    assert len(pictures) == 2 * len(suites), "one of rates and one of groups for each suite"
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not {letter for letter in report if not letter.isprintable()} - {"\n"}
