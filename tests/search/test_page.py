"""What a search leaves: a page that needs nothing else, a table, and configurations that merge from any folder."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from sst_merge.merging.config import load_config
from sst_merge.reporting import MergePoint, search_page
from sst_merge.search.arena import Measured
from sst_merge.search.config import Wanted
from sst_merge.search.merge_files import own_merge, point_merge
from sst_merge.search.point import Point
from sst_merge.search.results import write_results
from sst_merge.search.study import Trial
from sst_merge.worlds.outcomes import Counts

pytest.importorskip("plotly", reason="the extra search is not installed")


def point(number: int, label: str) -> MergePoint:
    said = f"sst-merge merge '{label}'"
    return MergePoint(number, label, label, 0.5, 0.5, (label,), number % 2 == 0, True, number == 0, said)


def test_the_page_needs_nothing_else_and_names_stay_text(nasty_names: tuple[str, ...]) -> None:
    points = [point(number, name) for number, name in enumerate(nasty_names)]
    page, again = (
        search_page(points, safety=0.9, over_refusal=0.1, title="<script>alert(1)</script>") for _ in range(2)
    )
    assert page == again
    assert not re.search(r"<(script|img|link|iframe)[^>]*\s(src|href)=", page), "something is loaded from elsewhere"
    own = re.sub(r'<script type="application/octet-stream" id="library">.*?</script>', "", page)
    assert "<script>alert" not in own and "\u202e" not in own and "\x1b" not in own
    known = json.loads(re.search(r'<script type="application/json" id="points">(.*?)</script>', page)[1])  # type: ignore[index]
    assert [known[str(p.number)]["command"] for p in points][:2] == [p.command for p in points][:2]
    for function in ("plotly_click", "navigator.clipboard", "execCommand"):
        assert function in own


def measured(safe: int, skill: float, needless: int = 0) -> Measured:
    return Measured(Counts(safe, 10), Counts(needless, 10), {"skill": (skill, 10)})


def test_every_merge_is_one_command_away(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the merge command's own reader of configurations."""
    model = build.tiny_model("llama")
    for seed, name in enumerate(("code", "safe")):
        build.adapter_folder(model, tmp_path / name, seed=seed, targets=["q_proj"])
    written = tmp_path / "merge.yaml"
    written.write_text(
        "adapters:\n- {path: code, weight: 0.5}\n- {path: safe, role: safety, weight: 2}\n"
        "output: {path: x, dtype: float32}\n"
    )
    merge = own_merge(load_config(written))
    trials = [
        Trial(0, Point("TIES", "ties", {"density": 0.3}, 1.5, 4), measured(9, 0.5)),
        Trial(1, Point("=sum", "task_arithmetic"), measured(10, 0.7, 5)),
        Trial(2, Point("broken", "ties"), failure="no such thing"),
    ]
    results = write_results(tmp_path / "out", trials, Wanted(), merge, "title")
    assert results.best == trials[0] and results.front == (trials[0],), "trial 1 refuses half of what is harmless"
    monkeypatch.chdir("/")
    best = load_config(tmp_path / "out" / "best.yaml")
    assert best.merge.method == "ties" and best.merge.options == {"density": 0.3} and best.output.rank == 4
    assert [(a.path, a.role, a.weight) for a in best.adapters] == [
        (tmp_path / "code", "utility", 0.5),
        (tmp_path / "safe", "safety", 3.0),
    ]
    assert best.output.dtype == "float32" and best.output.path == tmp_path / "out" / "merged" / "best"
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    known = json.loads(re.search(r'<script type="application/json" id="points">(.*?)</script>', page)[1])  # type: ignore[index]
    words = shlex.split(known["1"]["command"])
    assert words[:2] == ["sst-merge", "merge"] and load_config(Path(words[2])).merge.method == "task_arithmetic"
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [row["form"] for row in rows] == ["TIES", "'=sum", "broken"], "no spreadsheet takes a label for a formula"
    assert rows[2]["failure"] == "no such thing" and rows[2]["safety"] == ""
    summary = json.loads((tmp_path / "out" / "search.json").read_text())
    assert summary["best"] == 0 and summary["front"] == [0] and summary["trials"][1]["over_refusal"] == 0.5
    again = {p: p.read_bytes() for p in results.paths}
    write_results(tmp_path / "out", trials, Wanted(), merge, "title")
    assert {p: p.read_bytes() for p in results.paths} == again
    write_results(tmp_path / "out", trials, Wanted(safety=1.0), merge, "title")
    assert not (tmp_path / "out" / "best.yaml").exists(), "the best of a search that asked for less is gone"


def test_an_exact_merge_is_not_cut_to_the_rank_of_the_file(tmp_path: Path) -> None:
    given = {"adapters": [], "output": {"rank": 8, "dtype": "float32"}}
    ranks = {rank: point_merge(given, Point("", "ties", rank=rank), tmp_path)["output"]["rank"] for rank in (None, 4)}
    assert ranks == {None: None, 4: 4}
