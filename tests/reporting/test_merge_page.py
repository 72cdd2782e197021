"""The page of a merge: every picture says what the report says, as SVG, for Plotly and as a table."""

import base64
import gzip
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sst_merge.errors import DataError
from sst_merge.markup import plotly_text, script_json
from sst_merge.reporting import merge_page, merge_report_page
from sst_merge.reporting.chart_svg import axis_ticks, chart_svg
from sst_merge.reporting.charts import Chart, Curve
from sst_merge.reporting.merge_pictures import merge_pictures, most_changed
from sst_merge.reporting.plotly_charts import Library

KINDS = ("self_attn.q_proj", "mlp.up_proj")
SVG = "{http://www.w3.org/2000/svg}"


def picture(found: list[Any], title: str) -> Any:
    [shown] = [shown for shown in found if shown.title.startswith(title)]
    return shown


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Plotly is not installed."""
    monkeypatch.setattr(merge_report_page, "library", lambda: None)


def test_every_part_of_a_report_has_its_picture(seen_report: dict[str, Any]) -> None:
    found = merge_pictures(seen_report)
    spectrum = picture(found, "What pays")
    assert [row[1:] for row in spectrum.table.rows] == [["8", "0.8889"], ["1", "0.5000"], ["0.25", "0.2000"]]
    assert [y for _, y in spectrum.picture.curves[0].points] == [8.0, 1.0, 0.25]
    path = picture(found, "The path")
    assert [row[4] for row in path.table.rows] == ["", "chosen", ""], "sorted by divergence"
    assert path.picture.curves[-1].look == "chosen" and path.picture.curves[-1].points == [(0.04, -1.5)]
    assert path.picture.limits == [(0.05, "tax_budget 0.05")]
    captured = picture(found, "How much").picture
    assert captured.rows == ["q_proj", "up_proj"] and captured.columns == ["0", "1"]
    assert captured.values == [[0.1, 0.3], [0.2, None]], "one module has nothing to move"
    assert picture(found, "Rank").picture.values == [[4.0, 6.0], [5.0, 7.0]]
    assert picture(found, "Where safety").picture.values[0][0] == pytest.approx(0.90309, abs=1e-5)  # log10 of 8
    held = picture(found, "In-sample")
    assert held.table.rows[0] == ("model.layers.0.self_attn.q_proj", "8", "2")
    most = most_changed(seen_report)
    assert most is not None
    assert [row[0] for row in most.rows][:2] == ["model.layers.1.mlp.up_proj", "model.layers.0.mlp.up_proj"]
    assert most.shares[0] == 1.0 and most.rows[0][2] == "72.7 %"  # 16 of 1 + 4 + 1 + 16


def test_the_limit_of_a_path_is_the_budget_in_force(seen_report: dict[str, Any]) -> None:
    said = seen_report["method_report"] | {"tax_budget": 0.02}
    found = merge_pictures(seen_report | {"options": {"tax_budget": None}, "method_report": said})
    assert picture(found, "The path").picture.limits == [(0.02, "tax_budget 0.02")]


def test_a_safety_target_shows_what_it_tested(seen_report: dict[str, Any]) -> None:
    steps = [
        {"theta": t, "mu": 1.0, "refused": k, "prompts": 20, "bound": b, "accepted": b > 0.8, "divergence": d}
        for t, k, b, d in ((1.0, 20, 0.89, 0.9), (0.5, 19, 0.82, 0.1), (0.0, 2, 0.02, 0.0))
    ]
    target = {"target": 0.8, "confidence": 0.9, "path": steps, "chosen": steps[1]}
    report = seen_report | {"method_report": {"safety_target": target}}
    shown = picture(merge_pictures(report), "The path")
    assert [row[2:] for row in shown.table.rows] == [
        ["20 of 20", "0.890", "accepted"],
        ["19 of 20", "0.820", "chosen"],
        ["2 of 20", "0.020", "missed"],
    ]
    assert shown.picture.floors == [(0.8, "safety_target 0.8")]
    # A logarithmic axis has no place for a divergence of 0.
    assert len(shown.picture.drawn(shown.picture.curves[0])) == 2


def test_a_report_that_says_little_has_few_pictures(seen_report: dict[str, Any], plain: None) -> None:
    report = seen_report | {"method_report": {}}
    assert [shown.title for shown in merge_pictures(report)] == ["Rank of what was written"]
    assert "The 4 most changed of 4 modules" in merge_page(report)
    assert (
        merge_pictures(seen_report | {"method_report": {"spectrum": None, "by_module": {}, "path": []}, "modules": {}})
        == []
    )
    assert most_changed(seen_report | {"modules": {}}) is None
    # Another method may mean something else by the same words.
    others = seen_report | {"method": "others", "method_report": {"path": "a/b", "by_module": 3, "spectrum": [1]}}
    assert [shown.title for shown in merge_pictures(others)] == ["Rank of what was written"]
    assert "a/b" in merge_page(others)


def test_the_svg_alone_says_every_figure(seen_report: dict[str, Any], read_page: Any, plain: None) -> None:
    source = merge_page(seen_report)
    page = read_page(source)
    assert "script" not in page.tags and page.links == []
    assert "pip install 'sst-merge[report]'" in page.text
    drawings = re.findall(r'<svg class="still".*?</svg>', source, re.DOTALL)
    assert len(drawings) == len(merge_pictures(seen_report)) == 6
    for drawing in drawings:
        element = ElementTree.fromstring(drawing.replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))
        assert element.get("role") == "img" and element.get("aria-label")
    titles = re.findall(r"<title>(.*?)</title>", "".join(drawings))
    for said in ("λ = 1: 50.0 % passes", "q_proj, 1: 0.3", "up_proj, 1: –", "chosen: μ = 1, strength 1"):
        assert any(said in title for title in titles), said
    # Every row of every fallback table is on the page.
    for shown in merge_pictures(seen_report):
        for row in shown.table.cells:
            assert row in page.rows


def test_with_plotly_its_library_is_in_the_page_and_says_the_same(seen_report: dict[str, Any]) -> None:
    offline = pytest.importorskip("plotly.offline", reason="needs the extra report")
    source = merge_page(seen_report)
    assert len(source.encode()) < 5e6
    packed = re.search(r'id="library">(.*?)</script>', source)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == offline.get_plotlyjs()
    found = re.search(r'id="figures">(.*?)</script>', source)
    assert found is not None
    figures = json.loads(found[1])
    for shown, figure in zip(merge_pictures(seen_report), figures, strict=True):
        if isinstance(shown.picture, Chart):
            for curve, trace in zip(shown.picture.curves, figure["data"], strict=True):
                assert list(zip(trace["x"], trace["y"], strict=True)) == [tuple(point) for point in curve.points]
        else:
            assert figure["data"][0]["z"] == [list(row) for row in shown.picture.values]
    assert merge_page(seen_report) == source


def test_names_of_any_kind_are_text(
    seen_report: dict[str, Any], nasty_names: tuple[str, ...], read_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Page and figures as with Plotly, without the time to read its library.
    monkeypatch.setattr(merge_report_page, "library", lambda: Library("", "1"))
    said = seen_report["method_report"]
    modules = {
        f"layers.{i % 2}.{name}": seen_report["modules"]["model.layers.0.mlp.up_proj"]
        for i, name in enumerate(nasty_names)
    }
    report = seen_report | {
        "modules": modules,
        "method_report": said
        | {
            "by_module": {name: {"moved": 1.0, "captured": 0.5} for name in modules},
            "held_out_quotients": {"by_module": dict.fromkeys(modules, (2.0, 1.0))},
        },
    }
    source = merge_page(report)
    assert read_page(source).links == []
    assert source.count("<script") == source.count("</script>") <= 3
    assert "alert(1)</script" not in source.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")


@settings(max_examples=25)
@given(st.text())
def test_text_cannot_leave_a_script_and_is_no_tag_for_plotly(text: str) -> None:
    assert json.loads(script_json([text])) == [text]
    assert not set("<>&") & set(script_json(text))
    assert not set("<>") & set(plotly_text(text))


@settings(max_examples=25)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    ticks = axis_ticks(low, low + span, log=False)
    assert 1 <= len(ticks) <= 12
    assert all(low - 1e-6 * span <= value <= low + 1.000001 * span for value, _ in ticks)


@settings(max_examples=25)
@given(st.floats(1e-9, 1e3), st.floats(1.01, 1e12))
def test_ticks_of_a_logarithmic_axis_are_powers_of_ten(low: float, ratio: float) -> None:
    ticks = axis_ticks(low, low * ratio, log=True)
    assert 2 <= len(ticks) <= 8
    assert all(0.999 * low <= value <= 1.001 * low * ratio for value, _ in ticks)


def test_points_lie_where_the_ticks_say() -> None:
    chart = Chart(
        x="x", y="y", curves=[Curve(name="c", points=[(1, 10), (100, 1000)], look="points")], x_log=True, y_log=True
    )
    drawn = ElementTree.fromstring(str(chart_svg(chart, label="c")))
    places = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in drawn.iter("circle")]
    ticks = [t for t in drawn.iter("text") if t.get("class") == "tick"]
    across = {t.text: float(t.get("x", 0)) for t in ticks if t.get("text-anchor") == "middle"}
    up = {t.text: float(t.get("y", 0)) - 4 for t in ticks if t.get("text-anchor") == "end"}
    assert places[0] == pytest.approx((across["10⁰"], up["10¹"]), abs=0.2)
    assert places[1] == pytest.approx((across["10²"], up["10³"]), abs=0.2)
    nothing = Chart(x="x", y="y", curves=[Curve(name="c", points=[(0, 1)])], x_log=True)
    with pytest.raises(DataError, match="no point that its axes can show"):
        chart_svg(nothing, label="c")


def test_an_effective_rank_that_nobody_knows_has_no_column(seen_report: dict[str, Any]) -> None:
    assert "Effective rank" in merge_page(seen_report)
    for figures in seen_report["modules"].values():
        figures["effective_rank"] = None
    page = merge_page(seen_report)
    assert "Effective rank" not in page
    assert "8×8" in page
