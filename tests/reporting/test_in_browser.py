"""The pages in a real browser: no error in its console, every control works, contrast and names checked by axe."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sst_merge.evaluation import Record, summarize
from sst_merge.reporting import answer_page, merge_page, merge_report_page, write_evaluation_report
from sst_merge.suites import Suite

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="pages are tested with Playwright: pip install playwright"
)
axe = pytest.importorskip("axe_playwright_python.base", reason="axe is in axe-playwright-python: pip install it")
AXE = Path(axe.__file__).with_name("axe.min.js")
# What has not come after five minutes does not come: on a machine at work everything takes its time.
PATIENCE = 300_000
playwright.expect.set_options(timeout=PATIENCE)
expect = playwright.expect
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests; it ends with this file, because its event loop would be in the way of others."""
    if not CHROMIUM.exists():
        pytest.skip(f"pages are tested with Debian's Chromium, and {CHROMIUM} is not there")
    with playwright.sync_playwright() as library:
        opened = library.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open HTML from a file; afterwards the console must hold no error, and nothing may have been asked for."""
    wrong: list[str] = []
    contexts = []

    def opened(html: str | Path, *, width: int = 1280, dark: bool = False, scripts: bool = True) -> Any:
        path = html if isinstance(html, Path) else tmp_path / "page.html"
        if not isinstance(html, Path):
            path.write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def faults(page: Any) -> list[str]:
    """What axe finds wrong."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found["violations"]]


def wide(page: Any) -> int:
    """How far the page reaches beyond its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def test_the_page_of_a_merge_as_svg(
    open_page: Open, seen_report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_report_page, "library", lambda: None)
    for width, dark in ((1280, False), (390, True)):
        page = open_page(merge_page(seen_report), width=width, dark=dark)
        assert wide(page) <= 0
        assert page.locator("svg.still").count() == 6
        # Every fallback table opens by keyboard.
        for summary in page.locator("figure summary").all():
            summary.focus()
            page.keyboard.press("Enter")
            assert summary.evaluate("(of) => of.parentElement.open")
        assert faults(page) == []


def test_plotly_draws_every_picture_and_answers_to_the_pointer(open_page: Open, seen_report: dict[str, Any]) -> None:
    pytest.importorskip("plotly", reason="needs the extra report")
    page = open_page(merge_page(seen_report), dark=True)
    for number in range(1, 7):
        page.locator(f"#picture-{number}.drawn .main-svg").first.wait_for()
    assert not page.locator("svg.still").first.is_visible()
    page.locator("#picture-1 .nsewdrag").first.hover()
    expect(page.locator("#picture-1 .hoverlayer")).to_contain_text("λ")
    assert faults(page) == []
    page.emulate_media(color_scheme="light")
    expect(page.locator("#picture-1 .xtick text").first).to_have_css("fill", "rgb(29, 35, 41)")
    page.emulate_media(media="print")
    assert page.locator("svg.still").first.is_visible() and not page.locator(".plotly").first.is_visible()


def some_answers() -> list[Record]:
    def said(model: str, suite: str, i: int, **scores: float) -> Record:
        return Record(
            model=model, suite=suite, id=f"{suite}/{i}", prompt=f"{suite} {i}?", response=model, scores=scores
        )

    found = []
    for i in range(4):
        found.append(said("base", "harm", i, refusal=0, harm=1, incoherent=0))
        found.append(said("merge", "harm", i, refusal=float(i > 0), harm=float(i == 1), incoherent=0))
        found += [said(model, "sums", i, correct=float(i % 2)) for model in ("base", "merge")]
    return found


def test_answers_are_chosen_by_suite_verdict_and_disagreement_and_linked_to(open_page: Open, tmp_path: Path) -> None:
    page = open_page(answer_page(some_answers()))
    status, cards = page.get_by_role("status"), page.locator(".card:visible")
    assert faults(page) == [] and wide(page) <= 0

    def count(**chosen: str) -> tuple[int, str]:
        page.get_by_role("button", name="Show all").click()
        expect(status).to_have_text("8 of 8 prompts")
        for name, label in chosen.items():
            page.locator(f"select[name={name}]").select_option(label=label)
        assert cards.count() == int(status.text_content().split()[0])
        return cards.count(), status.text_content()

    assert count() == (8, "8 of 8 prompts")
    assert count(suite="sums")[0] == 4
    assert count(word="refused")[0] == 3
    assert count(word="refused", model="base")[0] == 0
    assert count(word="right", model="merge", suite="sums")[0] == 2
    assert count(odds="judges disagree (1)")[0] == 1  # called refused and harmful at once
    assert count(odds="models disagree (4)")[0] == 4
    # The address of an answer that is hidden shows it again.
    count(suite="sums")
    fragment = page.locator(".said a").first.get_attribute("href")
    page.evaluate(f"location.hash = {fragment!r}")
    expect(page.locator(":target")).to_be_visible()
    assert cards.count() == 8
    page = open_page(answer_page(some_answers()), scripts=False)
    assert page.locator(".card:visible").count() == 8 and not page.locator("form").is_visible()


def test_the_page_of_an_evaluation(open_page: Open, tmp_path: Path) -> None:
    suites = {
        name: Suite(
            name=name, measure=measure, summary="", judged=measure == "safety", score=score, breakdown="", asking={}
        )
        for name, measure, score in (("harm", "safety", "refusal"), ("sums", "utility", "correct"))
    }
    index = write_evaluation_report(summarize(some_answers(), suites), tmp_path / "report", records=some_answers())
    page = open_page(index, width=390, dark=True)
    assert wide(page) <= 0 and faults(page) == []
    page.get_by_role("link", name="Read the answers").click()
    assert page.locator(".card").count() == 8 and wide(page) <= 0 and faults(page) == []
