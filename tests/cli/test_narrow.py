"""Tables in a narrow terminal: nothing is cut, and no word is broken."""

import io

import pytest
from rich.console import Console

from sst_merge.cli.narrow import fitted
from sst_merge.reporting import rich_table

COLUMNS = ["adapter", "what it is for", "a number with its interval", "module"]
ROWS = [
    [f"code{i}", "some words that may wrap anywhere", "0.123 [0.100, 0.200]", f"{i}.self_attn.q_proj"] for i in range(4)
]


def printed(width: int) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for part in fitted(rich_table(ROWS, COLUMNS, title="Title"), console):
        console.print(part)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(("width", "turned"), [(200, False), (80, False), (45, True)])
def test_every_word_is_there_and_whole(width: int, turned: bool) -> None:
    lines = printed(width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in ROWS:
        for word in " ".join(row).split():
            assert word in text
    # On its side a table has a line per column, and its first rows begin with the headings.
    assert any(line.split()[:1] == ["module"] for line in lines) == turned
    assert text.count("Title") == 1
