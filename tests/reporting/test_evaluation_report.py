"""Tables, pictures and pages of an evaluation: read back, drawn twice, complete and self-contained."""

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sst_merge.errors import DataError
from sst_merge.evaluation import summarize
from sst_merge.evaluation.merge_sources import MergeSource
from sst_merge.measures.figure import Figure
from sst_merge.reporting import (
    HeatMap,
    PageTable,
    answer_page,
    csv_table,
    evaluation_markdown,
    evaluation_page,
    figure_text,
    heat_maps,
    json_table,
    latex_table,
    rate_plot,
    retention_plot,
    tax_bars,
    write_evaluation_report,
)
from sst_merge.reporting.answer_page import disputed, verdict_words
from sst_merge.reporting.evaluation_pictures import draw_summary
from sst_merge.reporting.evaluation_tables import (
    RATE_COLUMNS,
    breakdown_table,
    comparison_table,
    headline_table,
    overview_table,
    rate_rows,
    suite_table,
    tax_table,
)
from sst_merge.reporting.table_formats import latex_text
from sst_merge.suites import Suite, available_suites

ROWS = [("a_b & 50 %", -0.123456789, None), ("[x] {y} $z$ #1", 2.0, "0.93 [0.90, 0.95]"), ("*~^\\<>|", None, "–")]
COLUMNS = ("name", "a value", "rate [95 %]")
UNESCAPED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    "$-$": "−",
    r"$\pm$": "±",
    r"$\times$": "×",
    r"$\leq$": "≤",
    r"$\geq$": "≥",
    r"$\rightarrow$": "→",
    r"$\kappa$": "κ",
    r"$\Delta$": "Δ",
    r"$^\circ$": "°",
    r"$\infty$": "∞",
    "--": "–",
}


def from_latex(text):
    """What LaTeX would print; fails on a special character that is not escaped."""
    pattern = "|".join([*map(re.escape, UNESCAPED), r"\\[&%$#_{}]", r"[^\\&%$#_{}~^<>|]"])
    found = re.findall(pattern, text)
    assert "".join(found) == text, text
    return "".join(
        UNESCAPED.get(part, part[1:] if part.startswith("\\") and len(part) == 2 else part) for part in found
    )


KNOWN = {**available_suites(), "s": Suite(name="s", measure="safety", summary="", sets=())}


@pytest.fixture(scope="module")
def summary(some_records):
    return summarize(some_records(), required=("base", "maths", "safety"), reference="base")


# --- formats -----------------------------------------------------------------------------------------------------


def test_csv_round_trip():
    rows = list(csv.reader(io.StringIO(csv_table(ROWS, COLUMNS))))
    assert rows[0] == list(COLUMNS)
    assert [row[0] for row in rows[1:]] == [row[0] for row in ROWS]
    assert [float(row[1]) if row[1] else None for row in rows[1:]] == [row[1] for row in ROWS]
    with pytest.raises(DataError, match="table row 1 has 1 cells"):
        csv_table([(1,)], COLUMNS)


TEXTS = st.text(st.characters(exclude_characters="\r\x00", codec="utf-8"))


@given(st.lists(st.tuples(TEXTS, st.floats(allow_nan=False)), max_size=4))
def test_csv_keeps_every_text_and_float(rows):
    """Whatever begins like a formula has one apostrophe more, and nothing else has."""
    found = list(csv.reader(io.StringIO(csv_table(rows, ("a", "b")), newline="")))[1:]
    assert [float(value) for _, value in found] == [value for _, value in rows]
    for (name, _), (kept, _) in zip(found, rows, strict=True):
        assert name in {kept, f"'{kept}"} and not name.lstrip().startswith(("=", "+", "@"))


def test_json_round_trip():
    found = json.loads(json_table(ROWS, COLUMNS))
    assert [tuple(row.values()) for row in found] == ROWS
    assert list(found[0]) == list(COLUMNS)
    with pytest.raises(DataError, match="table row 1"):
        json_table([(1,)], COLUMNS)


def test_an_interval_without_ends_is_null_in_json_and_infinite_in_csv():
    # A mean of a single value, such as one MMLU question of a subject, has such an interval.
    table = [("a", 0.5, -math.inf, math.inf)]
    names = ("name", "value", "low", "high")
    assert json.loads(json_table(table, names)) == [{"name": "a", "value": 0.5, "low": None, "high": None}]
    assert csv_table(table, names).splitlines()[1] == "a,0.5,-inf,inf"
    with pytest.raises(ValueError, match="JSON"):
        json_table([("a", math.nan, 0.0, 1.0)], names)


def test_tables_without_rows_and_with_equal_headings():
    assert csv_table([], ("a", "b")) == "a,b\n"
    assert json_table([], ("a", "b")) == "[]\n"
    for rows in ([], [("1", 2.0)]):
        assert "\\toprule\nn & n \\\\\n\\midrule\n" in latex_table(rows, ("n", "n"))


def test_latex_round_trip():
    text = latex_table(ROWS, COLUMNS, caption="Rates of 100 % & more", label="tab:rates")
    assert text.startswith("\\begin{table}[t]\n\\centering\n")
    parts = ("\\label{tab:rates}\n\\begin{tabular}{lrr}\n\\toprule\n", "\\midrule\n")
    for part in (*parts, "\\bottomrule\n\\end{tabular}\n\\end{table}\n"):
        assert part in text
    assert from_latex(re.search(r"\\caption\{(.*)\}\n", text)[1]) == "Rates of 100 % & more"
    head, body = text.split("\\toprule\n")[1].split("\\bottomrule")[0].split("\\midrule\n")
    rows = [line.removesuffix(" \\\\").removeprefix("{}") for line in (head + body).splitlines()]
    cells = [[from_latex(cell) for cell in row.split(" & ")] for row in rows]
    assert cells == [
        list(COLUMNS),
        ["a_b & 50 %", "−0.1235", "–"],
        ["[x] {y} $z$ #1", "2", "0.93 [0.90, 0.95]"],
        ["*~^\\<>|", "–", "–"],
    ]
    # A line break takes a bracket or star after it for its argument.
    assert not re.search(r"\\\\\n[\[*]", text)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"))))
def test_latex_escapes_everything(text):
    assert from_latex(latex_text(text)).replace("–", "--") == re.sub(r"(?<![\w.,)-])-(?=\d)", "−", text).replace(
        "–", "--"
    )


# --- tables of a summary -----------------------------------------------------------------------------------------


def test_overview_shows_every_model_and_dashes_for_what_is_missing(summary):
    table = overview_table(summary)
    assert table.columns == (
        "Model",
        "beavertails: refusal",
        "beavertails: harm",
        "beavertails: incoherent",
        "mmlu",
        "perplexity: perplexity",
    )
    assert [row[0] for row in table.rows] == ["base", "maths", "safety", "merge"]
    assert table.rows[3][4:] == ["–", "–"]
    assert table.rows[2][2] == figure_text(summary.figure("safety", "beavertails", "harm"), digits=2)
    assert all(table.numeric[1:])
    assert overview_table(summary, ["mmlu"]).columns == ("Model", "mmlu")


def test_suite_and_breakdown_tables(summary):
    table = suite_table(summary, "beavertails")
    assert table.columns == ("Model", "refusal", "harm", "incoherent", "n")
    assert [row[-1] for row in table.rows] == [60] * 4
    assert suite_table(summary, "mmlu").rows[3] == ["merge", "–", None]
    parts = breakdown_table(summary, "beavertails", "refusal")
    assert parts.columns == ("category", "base", "maths", "safety", "merge", "n")
    assert [row[0] for row in parts.rows] == ["c0", "c1", "c2"]
    with pytest.raises(DataError, match="no suite 'x'"):
        suite_table(summary, "x")
    with pytest.raises(DataError, match="'mmlu' is not broken down"):
        breakdown_table(summary, "mmlu", "correct")


def test_comparison_table(record, summary):
    table = comparison_table(summary)
    assert len(table.rows) == len(summary.comparisons) == 3 * 3 + 2 * 2
    for row, found in zip(table.rows, summary.comparisons, strict=True):
        assert row[:3] == (found.model, found.suite, found.score)
        assert row[3].startswith(f"{found.difference.value:.3f} [")
        assert (row[4] is None) == (found.suite == "perplexity")
    with pytest.raises(DataError, match="no reference"):
        comparison_table(summarize([record("a", "s", 0, {"correct": 1.0})], KNOWN))


def test_rates_in_full_precision(summary):
    found = list(csv.DictReader(io.StringIO(csv_table(rate_rows(summary), RATE_COLUMNS))))
    for row, cell in zip(found, summary.figures, strict=True):
        assert [float(row[name]) for name in ("value", "low", "high")] == [
            cell.figure.value,
            cell.figure.low,
            cell.figure.high,
        ]
        assert (row["model"], row["group"] or None, int(row["n"])) == (cell.model, cell.group, cell.figure.n)


def test_headlines_show_what_some_model_has(summary):
    table = headline_table(summary)
    assert table.columns == ("Model", "Refusal", "Harm", "Incoherent", "Accuracy")
    assert [row[0] for row in table.rows] == list(summary.models)
    merge, safety = dict(zip(table.columns, table.rows[3], strict=True)), summary.safety["merge"]
    assert merge["Refusal"] == figure_text(safety.refusal, digits=2) and merge["Accuracy"] == "–"


def test_the_tax_is_shown_beside_the_safety_that_it_pays_for(record, read_page):
    answers = {"maths": ([0, 0, 0, 0], [1, 1, 1, 0]), "merge": ([1, 1, 1, 0], [1, 0, 1, 0])}
    found = [
        record(model, suite, i, {score: float(x)})
        for model, (refused, right) in answers.items()
        for suite, score, values in (("advbench", "refusal", refused), ("gsm8k", "correct", right))
        for i, x in enumerate(values)
    ]
    sources = (MergeSource("maths", "utility"), MergeSource("safe", "safety"))
    summary = summarize(found, merges={"merge": sources})
    [row] = tax_table(summary).rows
    assert (row[0], row[1][:4], row[2], row[-2:]) == ("merge", "0.75", "–", [4, "gsm8k: maths"])
    assert (row[3][:4], row[4][:4], row[5][:5]) == ("0.75", "0.50", "0.250")
    assert headline_table(summary).columns == ("Model", "Refusal", "Accuracy", "Retention")
    page = read_page(evaluation_page(summary))
    assert "Safety tax of merges" in page.text and [str(cell) for cell in row] in page.rows


def test_figures_with_open_intervals():
    assert figure_text(None) == "–"
    assert figure_text(Figure(0.1, -math.inf, 0.25, 9)) == "0.100 [−∞, 0.250]"
    assert figure_text(Figure(0.1, -0.05, math.inf, 9), digits=1) == "0.1 [-0.1, ∞]"


# --- pictures ----------------------------------------------------------------------------------------------------

LONG = "a model with a name that is much longer than others"


def figure(value, low, high):
    return Figure(value, low, high, n=5)


HALVES = np.linspace(0, 1, 40).reshape(2, 20).tolist()
MAPS = {
    "heat": HeatMap("by x", [LONG, "b"], ["hate speech, weapons", "d"], [[0.1, None], [0.5, 1.0]], color_label="Rate"),
    "wide": HeatMap("by x", ["a", LONG], [f"s{i}" for i in range(20)], HALVES),
}
TAXES = {LONG: figure(0.1, -0.05, 0.2), "b": figure(0.3, 0.2, math.inf), "c": None}
RATES = {
    LONG: {"refusal": figure(0.9, 0.8, 1.0), "harm": None},
    "b": {"refusal": figure(0.0, 0.0, 0.1), "harm": figure(0.5, -math.inf, math.inf)},
}
RETENTIONS = {LONG: {1: figure(1.0, 0.9, 1.1), 4: figure(0.8, 0.7, 0.9)}, "b": {2: figure(0.5, 0.4, 0.6), 4: None}}
LONG_TITLE = "A title that is much wider than its picture " * 3
PICTURES = {
    "heat": lambda stem: heat_maps([MAPS["heat"]], path_stem=stem, title="Rates"),
    "wide": lambda stem: heat_maps([MAPS["wide"]], path_stem=stem, title=LONG_TITLE),
    "tax": lambda stem: tax_bars(TAXES, path_stem=stem, title="Tax", highlight="b"),
    "rates": lambda stem: rate_plot(RATES, path_stem=stem, title="Rates"),
    "retention": lambda stem: retention_plot(RETENTIONS, path_stem=stem, title="Retention", highlight="b"),
}
SAID = {
    "heat": ["Rates", LONG, "hate speech, weapons", "0.10", "–", "1.00", "Rate"],
    "wide": [LONG, "s19", LONG_TITLE.strip()],
    "tax": ["Tax", LONG, "0.100", "never reaches the safety asked for", "–"],
    "rates": ["refusal", "harm", "b", " –"],
    "retention": ["Retention", "b", "Merged experts"],
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_repeat_byte_for_byte_and_keep_everything_inside(name, tmp_path, monkeypatch):
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    figures = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), original(self, *a, **k))[1])
    first, second = (PICTURES[name](tmp_path / folder / "v1.0") for folder in ("one", "two"))
    assert [path.name for path in first] == ["v1.0.png", "v1.0.svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert sorted(path.name for path in first[0].parent.iterdir()) == ["v1.0.png", "v1.0.svg"]
    height, width = imread(first[0]).shape[:2]
    assert width >= 800
    assert height >= 200
    assert ET.parse(first[1]).getroot().tag.endswith("svg")
    svg = first[1].read_text()
    assert "<dc:date>" not in svg
    texts = [text.get_text() for text in figures[0].findobj(match=lambda artist: hasattr(artist, "get_text"))]
    for said in SAID[name]:
        assert said in texts or said in [text.replace("\n", " ") for text in texts], said
    for said in SAID[name]:
        if name != "retention" and said.isascii() and len(said) < 60:  # a wrapped title is written line by line
            assert f"<!-- {said} -->" in svg
    # Whatever is cut off leaves ink on the edge.
    pixels = imread(first[0])[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 1).all()


def test_pictures_refuse_nonsense(tmp_path):
    stem = tmp_path / "p"
    one = Figure(1, 0, 3, n=2)
    cases = (
        (lambda: tax_bars({}, path_stem=stem, title="t"), "no values to draw"),
        (lambda: tax_bars({"a": None}, path_stem=stem, title="t"), "no values to draw for a"),
        (lambda: tax_bars({"a": one}, path_stem=stem, title="t", highlight="b"), "not one of the names"),
        (lambda: rate_plot({"a": {"x": one}, "b": {}}, path_stem=stem, title="t"), "the same for every model"),
        (lambda: retention_plot({}, path_stem=stem, title="t"), "no values to draw"),
        (lambda: retention_plot({"a": {1: one}}, path_stem=stem, title="t", highlight="b"), "not one of the names"),
    )
    for draw, message in cases:
        with pytest.raises(DataError, match=message):
            draw()
    assert list(tmp_path.iterdir()) == []


# --- the report --------------------------------------------------------------------------------------------------


def test_report_is_complete_and_self_contained(read_page, summary, tmp_path):
    page_path = write_evaluation_report(
        summary, tmp_path, title="A & B", facts={"Decoding": {"temperature": 0}}, highlight="merge"
    )
    assert page_path == tmp_path / "index.html"
    source = page_path.read_text()
    page = read_page(source)
    assert page.links == []
    assert "script" not in page.tags
    assert "url(http" not in source
    for text in (
        "A & B",
        "Decoding.temperature",
        "refusal 1",
        "not evaluated for merge",
        "are against base",
        "Wilson",
        "beavertails: refusal by category",
    ):
        assert text in page.text, text
    rows = [tuple(row) for row in page.rows]
    for table in (overview_table(summary), comparison_table(summary), suite_table(summary, "mmlu")):
        for row in table.cells:
            assert tuple(row) in rows
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= set(ids)
    assert set(re.findall(r'href="#([^"]+)"', source)) <= set(ids)
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    for stem in ("headlines", "overview", "comparisons", "suite_1", "suite_1_harm", "suite_2", "judges"):
        assert {f"{stem}{suffix}" for suffix in (".md", ".csv", ".json", ".tex")} <= names
    assert {"rates.csv", "rates.json"} <= names
    report = (tmp_path / "report.md").read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert len(pictures) == 2 + 3
    assert all((tmp_path / picture).is_file() for picture in pictures)
    for table in (overview_table(summary), suite_table(summary, "beavertails")):
        assert f"## {table.caption}\n" in report
        for row in table.cells:
            assert f"| {' | '.join(row)} |" in report
    again = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_evaluation_report(summary, tmp_path, title="A & B", facts={"Decoding": {"temperature": 0}}, highlight="merge")
    assert again == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_report_of_little(record, read_page, tmp_path):
    summary = summarize([record("a <b>", "s", 0, {"correct": 1.0})], KNOWN)
    assert "a <b>" in read_page(evaluation_page(summary)).text
    text = evaluation_markdown(summary)
    assert text.startswith("# Evaluation\n\n1 model on 1 suite.\n")
    assert "Pictures" not in text
    more = PageTable(caption="More", columns=("x",), rows=[("cell of more",)])
    [picture] = draw_summary(summary, tmp_path / "elsewhere")
    page = write_evaluation_report(summary, tmp_path / "report", more_tables=[more], more_pictures=[picture])
    assert "cell of more" in read_page(page.read_text()).text
    report = (tmp_path / "report" / "report.md").read_text()
    assert "## More" in report
    assert "(../elsewhere/s.png)" in report
    assert (tmp_path / "report" / "tables" / "more_1.tex").is_file()
    assert picture.caption == "s: correct, n = 1, 95 % intervals"


# --- answers side by side ----------------------------------------------------------------------------------------


def test_answers_of_all_models_stand_together_in_order(record, read_page):
    found = [record(model, "s", i, {"correct": 1.0}) for i in (10, 9) for model in ("base", "merge <b>")]
    source = answer_page(found)
    page = read_page(source)
    assert page.links == ["index.html"]
    assert source.index("s/9</span>") < source.index("s/10</span>")
    assert page.text.count("merge <b>") == 3  # twice an answer, once a choice
    anchors = re.findall(r'\bid="(a[0-9a-f]+)"', source)
    assert len(anchors) == len(set(anchors)) == 1 + 2 + 4
    assert set(re.findall(r'href="#(.+?)"', source)) <= set(anchors)
    # The same prompt keeps its address, whatever else is asked.
    alone = answer_page([of for of in found if of.id == "s/9"])
    assert set(re.findall(r'\bid="(a[0-9a-f]+)"', alone)) < set(anchors)


def test_a_page_of_many_answers_says_what_it_leaves_out(record, read_page):
    found = [record("base", suite, i, {"correct": 1.0}) for suite in ("s", "t") for i in range(50)]
    page = read_page(answer_page(found, room=20_000))
    shown = re.findall(r"(\d+) of 50", page.text)
    assert len(shown) == 2 and 0 < int(shown[0]) < 50 and abs(int(shown[0]) - int(shown[1])) <= 1
    assert "its first prompts are here" in page.text
    assert "first prompts" not in read_page(answer_page(found)).text


def test_verdicts_in_words_and_judges_that_contradict_each_other():
    assert verdict_words({"refusal": 1.0, "harm": 0.0, "incoherent": 0.0}) == ("refused",)
    assert verdict_words({"refusal": 0.0, "incoherent": 1.0}) == ("incoherent",)
    assert verdict_words({"correct": 0.0}) == ("wrong",) and verdict_words({"perplexity": 3.0}) == ()
    assert disputed({"refusal": 1.0, "harm": 1.0}) and disputed({"refusal": 1.0, "refusal (x)": 0.0})
    assert not disputed({"refusal": 1.0, "harm": 0.0, "harm_probability": 0.9})


def test_answers_of_any_name_and_text_are_text(record, nasty_names, read_page):
    found = [
        replace(record(name, name, i, {"correct": 1.0}, tags={name: name}), prompt=name, response=name)
        for i, name in enumerate(nasty_names)
    ]
    source = answer_page(found)
    assert read_page(source).links == ["index.html"]
    assert source.count("<script") == source.count("</script>") == 1
    assert "<img" not in source and "\u202e" not in source
