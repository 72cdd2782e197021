"""The how-to of a new figure, done: its code runs, and the figure is in the table and the summary."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sst_merge.experiments import safety_tax_report, tax_figures
from sst_merge.measures.sweeps import MatchedSweep, SeedSamples, SweepSamples, seed_sweeps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending" / "figure.md"


def test_a_figure_costs_a_measure_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, entry = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {"SweepFigure": tax_figures.SweepFigure}
    exec(measure, names)
    figures = (*tax_figures.SWEEP_FIGURES, eval(entry, names))
    for module in (tax_figures, safety_tax_report):
        monkeypatch.setattr(module, "SWEEP_FIGURES", figures)

    rng = np.random.default_rng(0)
    draws = rng.random(60)
    sweep = SweepSamples(
        strengths=(1.0, 2.0),
        safety=[(draws < share).astype(float) for share in (0.5, 0.97)],
        utility={"maths": [(rng.random(60) < share).astype(float) for share in (0.9, 0.6)]},
    )
    samples = {0: SeedSamples(sweeps={"ours": sweep}, utility_only={"maths": np.ones(60)})}
    found = tax_figures.sweep_figures(seed_sweeps(samples, [0.9], seed=0, n_resamples=200)[0.9])
    figure = found["ours"]["weaker side"]
    assert figure.value == pytest.approx(np.mean(sweep.utility["maths"][1]))
    assert 0 <= figure.low < figure.value < figure.high <= 1
    table = safety_tax_report._tax_table("one skill", 0.9, found)
    assert dict(zip(table.columns, table.rows[0], strict=True))["Weaker side"].startswith(f"{figure.value:.3f} [")


def test_every_name_that_the_page_tells_of_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`sweep\.(\w+)", text):
        assert hasattr(MatchedSweep, name) or name in MatchedSweep.__dataclass_fields__
    for path in re.findall(r"`((?:measures|experiments)/\w+\.py)`", text):
        assert (PAGE.parents[2] / "src" / "sst_merge" / path).is_file(), path
