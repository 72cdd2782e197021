"""Names with markup in them print as they are, in every target; oracles are readers of these targets."""

import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sst_merge.errors import ConfigError, OutputExistsError, SSTMergeError
from sst_merge.files import file_name
from sst_merge.markup import csv_field, latex_text, markdown_code, markdown_text
from sst_merge.texts import bounded, escaped_json, shown, visible

ANY = st.text(max_size=30)
MARKUP = st.text(st.sampled_from("a_ *`[]()<>!&;#~|$\\:/w.@=-+'\"{}\n\t\x1b\u202e1é数"), max_size=20)


def printed(markdown: str) -> str:
    """What a reader of Markdown shows on one line, with its markup marked by angle brackets."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable(["strikethrough"]).parse(f"x {markdown} x")
    (inline,) = [token for token in tokens if token.type == "inline"]
    return "".join(
        f"<{t.type} {t.content}>" if t.type not in {"text", "text_special"} else t.content
        for t in inline.children or ()
    )


@example("__0__")
@given(ANY | MARKUP)
def test_markdown_shows_what_is_there_and_nothing_else(text: str) -> None:
    assert printed(markdown_text(text)) == f"x {visible(' '.join(text.split()))} x"


@given(ANY | MARKUP)
def test_a_code_span_holds_its_text(text: str) -> None:
    one_line = visible(" ".join(text.split()))
    assert printed(markdown_code(text)) == f"x <code_inline {one_line or '  '}> x"


@given(ANY | MARKUP)
def test_visible_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    found = visible(text)
    assert all(unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in found)
    assert found == text or not text.isprintable()


@given(ANY | MARKUP)
def test_json_for_a_terminal_has_the_same_values(text: str) -> None:
    found = escaped_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(found) == [text] and visible(found) == found


@given(ANY | MARKUP, ANY | MARKUP)
def test_file_names_are_plain_and_told_apart(first: str, second: str) -> None:
    names = [file_name(first), file_name(second)]
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*", name) and len(name) <= 90


def test_file_names_of_the_list_are_told_apart(nasty_names: tuple[str, ...]) -> None:
    half = "\ud800"
    long = ["x" * 89, "x" * 90, "x" * 91, "x" * 92, "数" * 40, "数" * 41, "", "=", half]
    names = [*nasty_names, *long, *map(file_name, (*nasty_names, *long))]
    assert len({file_name(name) for name in names}) == len(set(names))
    assert file_name("merged-v1.2_final") == "merged-v1.2_final"


def test_no_field_of_a_table_is_a_formula(nasty_names: tuple[str, ...]) -> None:
    fields = [csv_field(name) for name in nasty_names]
    assert len(set(fields)) == len(set(nasty_names))
    for field in fields:
        assert isinstance(field, str) and not field.lstrip().startswith(("=", "+", "-", "@"))
        assert next(csv.reader(io.StringIO(field.replace('"', '""').join('""'), newline=""))) == [field]
    for number in ("-0.5", "+3", "-0.031 [-0.04, ∞]", "12 %"):
        assert csv_field(number) == number


def test_latex_has_no_open_command(nasty_names: tuple[str, ...]) -> None:
    for name in nasty_names:
        plain = re.sub(
            r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", latex_text(name)
        )
        plain = re.sub(r"\\[&%$#_{}]", "", plain)
        assert not re.search(r"[\\&%#_{}~^]", plain.replace("$-$", "")), name


def test_html_shows_every_name(nasty_names: tuple[str, ...]) -> None:
    from sst_merge.reporting.pages import DemoPage, PageTable, demo_page

    class Texts(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.cells: list[str] = []
            self.inside = False

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            assert tag != "script"
            self.inside = tag == "td" or (tag == "th" and ("scope", "row") in attrs)
            self.cells += [""] * self.inside

        def handle_endtag(self, tag: str) -> None:
            self.inside = False

        def handle_data(self, data: str) -> None:
            if self.inside:
                self.cells[-1] += data

    reader = Texts()
    table = PageTable(caption="t", columns=("name",), rows=[(name,) for name in nasty_names])
    reader.feed(demo_page(DemoPage(title=nasty_names[0], summary="".join(nasty_names), tables=[table])))
    assert reader.cells == [visible(name) for name in nasty_names]


def test_messages_are_bounded_and_keep_their_end() -> None:
    for kind in (ConfigError, OutputExistsError, SSTMergeError):
        message = str(kind(f"file: {'x' * 10**7}; do this"))
        assert len(message) < 5000 and message.startswith("file: ") and message.endswith("; do this")
    assert str(ConfigError("short")) == "short" and str(OutputExistsError("there")) == "there"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**7, b"x" * 10**7, list(range(10**5)), 10**5000, deep):
        assert len(shown(value)) < 200
    assert bounded("abc", 3) == "abc"


@pytest.mark.parametrize("kind", [ConfigError, OutputExistsError])
def test_errors_survive_a_process_boundary(kind: type[Exception]) -> None:
    import pickle

    assert str(pickle.loads(pickle.dumps(kind("said")))) == "said"
