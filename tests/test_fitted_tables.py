"""Tables in narrow and wide terminals: nothing is cut, and no word and no interval is broken."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sst_merge.fitted_tables import best_marked, print_fitted
from sst_merge.reporting import rich_table

COLUMNS = ["adapter", "what it is for", "a number with its interval", "module"]
ROWS = [
    [f"code{i}", "some words that may wrap anywhere", "0.123 [0.100, 0.200]", f"{i}.self_attn.q_proj"] for i in range(4)
]
MODELS = ["suite", "score", "n", "base", "safety", "reverse"]
RATES = [["lab_harmful_direct", "incoherent", "30", *["0.00 [0.00, 0.11]"] * 3]] * 3


def printed(
    width: int, rows: list[list[str]] = ROWS, columns: list[str] = COLUMNS, elsewhere: str | None = None
) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    print_fitted(rich_table(rows, columns, title="Title"), console, intervals=elsewhere)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(("width", "turned"), [(200, False), (80, False), (45, True)])
def test_every_word_is_there_and_whole(width: int, turned: bool) -> None:
    lines = printed(width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in ROWS:
        assert row[0] in text and row[3] in text
        assert all(word in text for word in row[1].split())
        assert "[0.100, 0.200]" in text, "an interval is whole"
    # On its side a table has a line per column, and its first rows begin with the headings.
    assert any(line.split()[:1] == ["module"] for line in lines) == turned
    assert text.count("Title") == 1


def test_intervals_go_below_the_figures_or_to_the_page_before_the_table_is_turned() -> None:
    assert "│" not in "".join(wide := printed(160, RATES, MODELS)) and any("0.00 [0.00, 0.11]" in line for line in wide)
    below = printed(90, RATES, MODELS)
    assert max(map(len, below)) <= 90
    assert any(line.split() == [["[0.00,", "0.11]"][0], "0.11]"] * 3 for line in below)
    points = printed(66, RATES, MODELS, elsewhere="out/index.html")
    assert points[-1] == "intervals: out/index.html"
    assert max(map(len, points)) <= 66 and "[" not in "".join(points[:-1])
    assert any(line.split() == ["lab_harmful_direct", "incoherent", "30", "0.00", "0.00", "0.00"] for line in points)
    assert any(line.split()[:1] == ["reverse"] for line in printed(66, RATES, MODELS)), "turned where there is no page"


WORDS = st.text("abc_.数é", min_size=1, max_size=12)


@settings(max_examples=40)
@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1, max_size=4), st.integers(44, 160))
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(rows: list[list[str]], width: int) -> None:
    from rich.cells import cell_len

    rows = [[name, "0.5 [0.4, 0.6]", f"{a} {b}"] for name, a, b in rows]
    lines = printed(width, rows, ["name", "rate", "words of it"])
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert all(word in text for row in rows for cell in row for word in cell.split())


def test_the_best_has_a_star_that_needs_no_colour() -> None:
    cells, values = ["0.5 [0, 1]", "0.7 [0, 1]", "–"], [0.5, 0.7, None]
    assert best_marked(cells, values, higher=False) == ["0.5* [0, 1]", "0.7 [0, 1]", "–"]
    assert best_marked(cells, values, higher=None) == cells
    assert best_marked(["1", "1"], [1.0, 1.0], higher=True) == ["1", "1"]
    assert best_marked(["2", "1", "2"], [2.0, 1.0, 2.0], higher=True) == ["2*", "1", "2*"]
