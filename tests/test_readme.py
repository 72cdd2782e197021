"""README and quickstart: short, and the Japanese pages say what the English ones say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAIRS = [("README.md", "README.ja.md"), ("docs/quickstart.md", "docs/quickstart.ja.md")]
_CODE = re.compile(r"^(?:    [^\n]+|```.*?^```)$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LINK = re.compile(r"\]\(([^)]+)\)")


def commands(text: str) -> list[str]:
    """Lines of code without their comments, which may be in any language."""
    lines = "\n".join(_CODE.findall(text)).splitlines()
    return [code for line in lines if (code := re.sub(r"(?:^|\s+)#\s.*", "", line).strip())]


def table_figures(text: str) -> list[list[str]]:
    """Numbers of every row of a table, in order."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [_NUMBER.findall(row) for row in rows]


def test_the_readme_has_at_most_500_words() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([part for part in text.split() if re.search(r"\w", part)]) <= 500


@pytest.mark.parametrize(("english", "japanese"), PAIRS)
def test_both_languages_give_the_same_commands_and_figures(english: str, japanese: str) -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (english, japanese)]
    assert commands(texts[0]) == commands(texts[1]) != []
    assert table_figures(texts[0]) == table_figures(texts[1])


@pytest.mark.parametrize("name", [name for pair in PAIRS for name in pair])
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    targets = [link.partition("#")[0] for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(("english", "japanese"), PAIRS)
def test_both_languages_have_the_same_links(english: str, japanese: str) -> None:
    found = [_LINK.findall((ROOT / name).read_text(encoding="utf-8")) for name in (english, japanese)]
    # Each links to the other.
    plain = [{link.replace(".ja.md", ".md") for link in links} - {Path(english).name} for links in found]
    assert plain[0] == plain[1] != set()
