import copy
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sst_merge.errors import DataError
from sst_merge.measures.safety_tax import SweepPoint
from sst_merge.reporting import (
    AnswerCard,
    AnswerGroup,
    DemoPage,
    PageTable,
    SaidBy,
    demo_page,
    markdown_table,
    merge_page,
    model_card,
    rate_with_interval,
    rich_table,
    safety_utility_plot,
)

SHA = {name: f"{i:064x}" for i, name in enumerate("abcde")}
REPORT = {
    "format": "sst_merge.merge_report/1",
    "method": "sst",
    "paper": "this project",
    "options": {"fisher": {"structure": "kronecker", "point": "merged"}, "mu": 0.5, "strengths": [0.5, 1.0]},
    "seed": 7,
    "rank": None,
    "energy": 0.99,
    "compute_dtype": "float32",
    "base_model": "meta-llama/Llama-2-7b-chat-hf",
    "adapters": [
        {
            "name": "code <b>",
            "role": "utility",
            "weight": 1.0,
            "path": "adapters/code",
            "base_model": "meta-llama/Llama-2-7b-chat-hf",
            "files": {"adapter_config.json": SHA["a"], "adapter_model.safetensors": SHA["b"]},
        },
        {"name": "safety", "role": "safety", "weight": -0.5, "path": None, "base_model": None, "files": {}},
    ],
    "modules": {
        f"layers.{i}.q_proj": {
            "rank": 4 + i,
            "kept_energy": 1.0 - 0.001 * i,
            "norm": 2.5,
            "effective_rank": 3.25,
            "core_shape": [8, 8],
        }
        for i in range(14)
    },
    "method_report": {"mu": 0.25, "heldout": {"median": 1.5, "top": [2.0, 1.75]}},
    "warnings": ["The filter keeps <everything>."],
    "versions": {"sst_merge": "0.1.0", "torch": "2.13"},
    "output": {"dtype": "bfloat16", "rank": 17, "files": {"adapter_model.safetensors": SHA["c"]}},
}
OPTIONAL = ("paper", "rank", "energy", "compute_dtype", "base_model", "method_report", "warnings", "output", "format")
REQUIRED = ("method", "options", "seed", "adapters", "modules", "versions")


def sweep(gain: float = 1.0) -> list[SweepPoint]:
    return [
        SweepPoint(strength=x, safety=x, utility=1 - gain * x * x / 2, n_safety=64, n_utility=40)
        for x in (1.0, 0.0, 0.5, 0.95)
    ]


# --- tables ------------------------------------------------------------------------------------------------------


def test_rates_with_intervals():
    assert rate_with_interval(0.934, (0.897, 0.951)) == "0.93 [0.90, 0.95]"
    assert rate_with_interval(0.934, (0.897, 0.951), digits=3) == "0.934 [0.897, 0.951]"
    assert rate_with_interval(0.934) == "0.93"
    assert rate_with_interval(None, (0, 1)) == "–"


def test_markdown_table():
    table = markdown_table([("a|b", 0.123456, "0.93 [0.90, 0.95]"), ("two\nlines", None, "1")], ("name", "x", "rate"))
    assert table == (
        "| name | x | rate |\n| --- | ---: | ---: |\n| a\\|b | 0.1235 | 0.93 [0.90, 0.95] |\n| two lines | – | 1 |\n"
    )
    assert markdown_table([], ("a", "b")) == "| a | b |\n| --- | --- |\n"
    with pytest.raises(DataError, match="row 2 has 1 cells for 2 columns: a, b"):
        markdown_table([(1, 2), (3,)], ("a", "b"))


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False) | st.none()), max_size=5))
def test_markdown_tables_keep_their_shape(rows):
    lines = markdown_table(rows, ("a", "b")).split("\n")
    assert len(lines) == len(rows) + 3
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines[:-1])


def test_rich_table_prints_brackets():
    from rich.console import Console

    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(rich_table([("sst", "0.93 [0.90, 0.95]")], ("method", "rate [95 %]"), title="Table"))
    text = console.export_text()
    for part in ("Table", "method", "rate [95 %]", "sst", "0.93 [0.90, 0.95]"):
        assert part in text


# --- the picture -------------------------------------------------------------------------------------------------


def test_plot_is_written_and_repeats_byte_for_byte(tmp_path):
    from matplotlib.image import imread

    curves = {"SST-Merge": sweep(0.2), "Task Arithmetic": sweep()}
    written = [
        safety_utility_plot(
            curves,
            anchors={"skill alone": (0.0, 1.0)},
            path_stem=tmp_path / name / "v1.0",
            title="T",
            highlight="SST-Merge",
        )
        for name in ("one", "two")
    ]
    assert [path.name for path in written[0]] == ["v1.0.png", "v1.0.svg"]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    root = ET.parse(written[0][1]).getroot()
    assert root.tag.endswith("svg")
    text = written[0][1].read_text()
    assert "<dc:date>" not in text
    pixels = np.round(imread(written[0][0])[..., :3] * 255).astype(int)
    assert pixels.shape[1] >= 1500
    for color in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):
        assert (abs(pixels - color).max(-1) == 0).sum() > 1000


def drawn(monkeypatch, tmp_path, *args, **options):
    """The axes that a plot is drawn on."""
    from matplotlib.figure import Figure

    figures = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), original(self, *a, **k))[1])
    safety_utility_plot(*args, path_stem=tmp_path / "plot", title="T", **options)
    return figures[0].axes[0]


def test_plot_shows_every_point_interval_and_name(tmp_path, monkeypatch):
    curves = {f"method {i}": sweep(i / 9) for i in range(9)}
    axes = drawn(monkeypatch, tmp_path, curves, anchors={"base": (0.1, 0.3)})
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*curves, "base", "smallest strength with\nsafety ≥ 0.9 as drawn"]
    named = {line.get_label(): line for line in axes.get_lines()}
    for name, points in curves.items():
        ordered = sorted(points, key=lambda point: point.strength)
        assert list(named[name].get_xdata()) == [point.safety for point in ordered]
        assert list(named[name].get_ydata()) == [point.utility for point in ordered]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in map(named.get, curves)}
    assert len(looks) == len(curves)
    wanted = curves["method 3"][2].interval_of_safety()
    assert any(tuple(line.get_xdata()) == wanted for line in axes.get_lines())
    rings = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata()[0] for line in rings] == [0.95] * 9
    without = drawn(monkeypatch, tmp_path, curves, anchors={}, threshold=None)
    assert not [line for line in without.get_lines() if line.get_markerfacecolor() == "none"]


def test_plot_keeps_everything_inside_the_picture(tmp_path, monkeypatch):
    curves = {f"a method with quite a long name {i}": sweep() for i in range(8)}
    axes = drawn(monkeypatch, tmp_path, curves, anchors={"base": (-0.1, 1.4)})
    renderer = axes.figure.canvas.get_renderer()
    legend = axes.get_legend().get_window_extent(renderer)
    whole = axes.figure.bbox
    assert legend.x1 <= whole.x1
    assert legend.y0 >= whole.y0
    assert axes.get_xlim()[0] < -0.1
    assert axes.get_ylim()[1] > 1.4


def test_plot_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    safety_utility_plot({"a": sweep()}, anchors={}, path_stem=tmp_path / "a", title="T")
    assert dict(matplotlib.rcParams) == before


def test_plot_refuses_nothing(tmp_path):
    for curves in ({}, {"empty": []}):
        with pytest.raises(DataError, match="no points to draw"):
            safety_utility_plot(curves, anchors={}, path_stem=tmp_path / "a", title="T")
    with pytest.raises(DataError, match="highlight = 'b' is not one of the curves a"):
        safety_utility_plot({"a": sweep()}, anchors={}, path_stem=tmp_path / "a", title="T", highlight="b")


# --- pages -------------------------------------------------------------------------------------------------------


def test_demo_page_is_self_contained_and_escapes(read_page, tmp_path):
    _, svg = safety_utility_plot({"a": sweep()}, anchors={}, path_stem=tmp_path / "a", title="T")
    table = PageTable(
        caption="Test prompts, n = 64",
        columns=("Method", "Safety"),
        rows=[("SST <i>", rate_with_interval(0.9, (0.8, 0.95)))],
        highlight="SST <i>",
    )
    source = demo_page(
        DemoPage(
            title="A & B",
            summary="<script>alert(1)</script>",
            figure_svg=svg.read_text(),
            figure_caption="Caption",
            tables=[table],
            notes=["A note"],
            facts={"Seed": 0, "Samples": {"harm": 256}},
            command="sst-merge merge config.yaml > log",
        )
    )
    page = read_page(source)
    assert "script" not in page.tags
    assert page.links == []
    assert "@import" not in source
    assert "url(http" not in source
    assert "svg" in page.tags
    assert page.rows == [["Method", "Safety"], ["SST <i>", "0.90 [0.80, 0.95]"]]
    for text in (
        "A & B",
        "<script>alert(1)</script>",
        "Caption",
        "A note",
        "Samples.harm",
        "256",
        "sst-merge merge config.yaml > log",
    ):
        assert text in page.text
    assert 'class="strong"' in source
    assert "prefers-color-scheme: dark" in source
    with pytest.raises(DataError, match="no <svg> element"):
        demo_page(DemoPage(title="t", summary="s", figure_svg=str(svg)))
    assert "svg" not in read_page(demo_page(DemoPage(title="t", summary="s"))).tags


def test_answers_stand_side_by_side_with_their_verdicts(read_page):
    said = [
        SaidBy(model="base", text="Sure:\n<b>1.</b>", verdict="bad", word="answered"),
        SaidBy(model="merge", text="", verdict="neither", word="no sense"),
    ]
    group = AnswerGroup(caption="Harmful", cards=[AnswerCard(prompt="How?\nTell me.", said=said)])
    source = demo_page(DemoPage(title="t", summary="s", answers=[group]))
    page = read_page(source)
    for text in ("Harmful", "How?", "Tell me.", "base · answered", "<b>1.</b>", "merge · no sense", "(nothing)"):
        assert text in page.text
    assert "How?<br>Tell me." in source and "\\n" not in source
    assert 'class="bad"' in source and 'class="neither"' in source and 'class="good"' not in source


def test_merge_page_shows_the_whole_report(read_page):
    page = read_page(merge_page(REPORT))
    rows = [tuple(row) for row in page.rows]
    base = "meta-llama/Llama-2-7b-chat-hf"
    assert ("code <b>", "utility", "1", base, "adapter_model.safetensors", SHA["b"]) in rows
    assert ("safety", "safety", "-0.5", "not recorded", "in memory", "–") in rows
    assert ("fisher.structure", "kronecker") in rows
    assert ("strengths", "0.5, 1") in rows
    assert ("heldout.top", "2, 1.75") in rows
    assert ("layers.13.q_proj", "17", "0.9870", "2.5", "3.2", "8×8") in rows
    assert ("adapter_model.safetensors", SHA["c"]) in rows
    assert ("torch", "2.13") in rows
    assert ("seed", "7") in rows
    assert "The filter keeps <everything>." in page.text
    assert page.links == []


@pytest.mark.parametrize("render", [merge_page, model_card])
def test_only_optional_sections_may_be_absent(render):
    for name in OPTIONAL:
        assert render({key: value for key, value in REPORT.items() if key != name})
    assert render({key: value for key, value in REPORT.items() if key not in OPTIONAL})
    for name in REQUIRED:
        with pytest.raises(DataError, match=f"merge report without {name}"):
            render({key: value for key, value in REPORT.items() if key != name})
    with pytest.raises(DataError, match="without an entry in adapters"):
        render(REPORT | {"adapters": []})


# --- the card ----------------------------------------------------------------------------------------------------


def test_model_card_front_matter_and_contents():
    text = model_card(REPORT)
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "peft"
    assert fields["base_model"] == "meta-llama/Llama-2-7b-chat-hf"
    assert {"lora", "merge"} <= set(fields["tags"])
    for part in (
        SHA["a"],
        SHA["b"],
        SHA["c"],
        "| code \\<b> | utility | 1 |",
        "| safety | safety | -0.5 |",
        "| fisher.point | merged |",
        "| seed | 7 |",
        "| energy | 0.99 |",
        "The filter keeps \\<everything>.",
        "PeftModel.from_pretrained(base",
        "--max-lora-rank 32",
        "bfloat16",
        "| torch | 2.13 |",
    ):
        assert part in body, part
    assert model_card(copy.deepcopy(REPORT)) == text


def test_model_card_is_accepted_by_the_hub_library():
    from huggingface_hub import ModelCard

    assert ModelCard(model_card(REPORT)).data.base_model == REPORT["base_model"]


@pytest.mark.parametrize(
    ("rank", "served"), [(1, "rank 8 "), (8, "rank 8 "), (9, "rank 16 "), (257, "rank 320 "), (513, "ranks up to 512")]
)
def test_model_card_names_a_rank_that_vllm_takes(rank, served):
    assert served in model_card(REPORT | {"output": {"rank": rank}}).split("## Use")[1]


@pytest.mark.parametrize("render", [merge_page, model_card])
@pytest.mark.parametrize("base", ["/home/someone/models/base", "C:\\Users\\someone\\models\\base", "./models/base"])
def test_folders_of_one_machine_stay_out(render, base):
    report = copy.deepcopy(REPORT) | {"base_model": base}
    report["adapters"][0]["base_model"] = base
    text = render(report)
    assert "someone" not in text
    assert "models/base" not in text
    assert "base_model:" not in text
