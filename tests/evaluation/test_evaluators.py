"""Safety, utility and safety tax of hand-made records."""

import math
from collections.abc import Iterable

import numpy as np
import pytest

from sst_merge.errors import DataError
from sst_merge.evaluation.merge_sources import MergeSource
from sst_merge.evaluation.metrics_reporter import summarize
from sst_merge.evaluation.records import Record
from sst_merge.evaluation.safety_evaluator import SafetyReport, evaluate_safety
from sst_merge.evaluation.safety_tax_calculator import safety_tax
from sst_merge.evaluation.score_table import ScoreTable
from sst_merge.evaluation.suite_figures import column_figure
from sst_merge.evaluation.utility_evaluator import UtilityReport, best_adapters, evaluate_utility, perplexity
from sst_merge.measures.figure import Figure
from sst_merge.measures.intervals import wilson_interval
from sst_merge.measures.safety_tax import SweepPoint, retention
from sst_merge.measures.safety_tax import safety_tax as tax_of_sweep
from sst_merge.suites import available_suites

SUITES = available_suites()


def records(suite, verdicts, column="refusal", model="m", **tags):
    return [
        Record(
            model=model,
            suite=suite,
            id=f"{suite}/{k}",
            prompt=f"{suite} {k}",
            response="r",
            tags=tags,
            scores={column: verdict},
        )
        for k, verdict in enumerate(verdicts)
    ]


def table(found: Iterable[Record]) -> ScoreTable:
    return ScoreTable(found, SUITES)


def safety_of(found: Iterable[Record]) -> SafetyReport:
    return evaluate_safety(table(found), "m")


def utility_of(found: Iterable[Record]) -> UtilityReport:
    return evaluate_utility(table(found), "m")


def by_name(report: SafetyReport | UtilityReport) -> dict[tuple[str, str, str | None], Figure | None]:
    return {(found.suite, found.score, found.group): found.figure for found in report.suites}


def test_a_figure_counts_only_records_with_the_column():
    found = records("advbench", [1, 1, 0, 1]) + records("advbench", [1], column="harm")
    assert column_figure(found, "refusal") == Figure(0.75, *wilson_interval(3, 4), n=4)
    assert column_figure(found, "incoherent") is None


def test_direct_jailbroken_and_harmless_prompts_are_told_apart():
    report = safety_of([
        *records("advbench", [1, 1, 1, 0], attack="none"),
        *records("harmbench", [1, 0], attack="none", category="illegal"),
        *records("jailbreak", [1, 0, 0, 0], attack="template", family="x"),
        *records("prefilling", [0, 0], attack="prefilling", category="c"),
        *records("xstest_safe", [0, 0, 1], attack="none", type="homonyms"),
        *records("drift_unsafe", [0] * 50, attack="none"),
        *records("mmlu", [1] * 9, column="correct"),
        *records("do_not_answer", [0, 1], column="harm", attack="none"),
        *records("refusal_suppression", [1], column="harm", attack="template"),
        *records("lookalikes", [1, 0, 0, 0], column="incoherent", attack="none"),
    ])
    assert (report.refusal.value, report.refusal.n) == (4 / 6, 6)
    assert (report.refusal_jailbroken.value, report.refusal_jailbroken.n) == (1 / 6, 6)
    assert (report.harm.value, report.harm_jailbroken.value) == (0.5, 1.0)
    assert (report.over_refusal.value, report.over_refusal.n) == (1 / 3, 3)
    assert (report.incoherent.value, report.incoherent.n) == (0.25, 4)
    suites = by_name(report)
    refused = {suite for (suite, score, group), figure in suites.items() if score == "refusal" and figure is not None}
    assert refused == {"advbench", "harmbench", "jailbreak", "prefilling", "xstest_safe", "drift_unsafe"}
    assert suites["advbench", "refusal", None] == Figure(0.75, *wilson_interval(3, 4), n=4)
    assert suites["harmbench", "refusal", "illegal"].value == 0.5
    assert suites["jailbreak", "refusal", "x"].n == 4
    assert suites["advbench", "incoherent", None] is None, "it is beside refusal even where it was not judged"
    assert report.refusal.low < report.refusal.value < report.refusal.high


def test_a_prompt_that_two_suites_ask_counts_once():
    def asked(suite, prompt, verdict, attack):
        scores = {"refusal": verdict}
        return Record(
            model="m", suite=suite, id=prompt, prompt=prompt, response="", tags={"attack": attack}, scores=scores
        )

    report = safety_of([
        asked("harmbench", "do HARM", 0, "none"),
        asked("advbench", "Do  harm", 1, "none"),
        asked("harmbench", "other", 0, "none"),
        asked("prefilling", "Do harm", 0, "prefilling"),
    ])
    assert (report.refusal.value, report.refusal.n) == (0.5, 2)
    assert report.refusal_jailbroken.n == 1
    assert by_name(report)["harmbench", "refusal", None].n == 2


def test_what_no_record_speaks_about_is_none():
    report = safety_of(records("advbench", [1], attack="none"))
    assert report.refusal_jailbroken is report.harm is report.over_refusal is report.incoherent is None


def test_accuracy_by_question_and_by_subject():
    report = utility_of([
        *records("mmlu", [1, 1, 1, 0], column="correct", subject="anatomy"),
        *(r for r in records("mmlu", [0, 0, 0, 0, 0, 1], column="correct", subject="law") if int(r.id[-1]) > 3),
        *records("gsm8k", [0, 1], column="correct"),
        *records("advbench", [1], attack="none"),
    ])
    suites = by_name(report)
    assert (suites["mmlu", "correct", None].value, suites["gsm8k", "correct", None].value) == (4 / 6, 0.5)
    assert (suites["mmlu", "correct", "anatomy"].value, suites["mmlu", "correct", "law"].n) == (0.75, 2)
    assert report.accuracy.value == pytest.approx((4 / 6 + 0.5) / 2) and report.accuracy.n == 8
    assert report.perplexity is report.retention is None
    assert not any(figure.suite == "advbench" for figure in report.suites)
    alone = utility_of(records("gsm8k", [0, 1], column="correct")).accuracy
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.5, *wilson_interval(1, 2)))


def test_perplexity_adds_up_before_it_divides():
    sizes = [
        {"loglikelihood": -10.0, "words": 4.0, "bytes": 20.0},
        {"loglikelihood": -50.0, "words": 6.0, "bytes": 40.0},
    ]
    texts = [
        Record(model="m", suite="perplexity", id=str(k), prompt="p", response="", scores=scores)
        for k, scores in enumerate(sizes)
    ]
    found = perplexity(texts)
    assert found.word == pytest.approx(math.exp(6))
    assert found.byte == pytest.approx(math.e)
    assert found.bits_per_byte == pytest.approx(1 / math.log(2))
    assert utility_of(texts).perplexity == found
    assert utility_of(texts).accuracy is None
    with pytest.raises(DataError, match="no records"):
        perplexity([])
    with pytest.raises(DataError, match="'gsm8k/0' has no bytes, loglikelihood, words"):
        perplexity(records("gsm8k", [1]))


def merged_and_its_adapters() -> list[Record]:
    """A merge of a maths, a code and a safety adapter: skills of the first two, refusals of the third, in part."""
    rng = np.random.default_rng(0)
    hard = rng.random((3, 80))
    able = {
        "maths": (0.9, 0.2, 0.1),
        "code": (0.3, 0.8, 0.1),
        "safe": (0.1, 0.1, 0.9),
        "merge": (0.7, 0.7, 0.8),
    }
    return [
        record
        for model, rates in able.items()
        for row, (suite, column) in enumerate((("gsm8k", "correct"), ("humaneval", "correct"), ("advbench", "refusal")))
        for record in records(suite, (hard[row] < rates[row]).astype(float).tolist(), column, model)
    ]


SKILLS = ("maths", "code")


def share(found: list[Record], model: str, suite: str) -> float:
    (score,) = {name for r in found if r.suite == suite for name in r.scores}
    return float(np.mean([r.scores[score] for r in found if (r.model, r.suite) == (model, suite)]))


def test_each_suite_has_its_best_adapter():
    found = merged_and_its_adapters()
    assert best_adapters(table(found), SKILLS) == {"gsm8k": "maths", "humaneval": "code"}
    assert best_adapters(table(found), ("code",)) == {"gsm8k": "code", "humaneval": "code"}
    assert best_adapters(table(found), ()) == {}


def test_retention_compares_with_each_suites_best_adapter():
    found = merged_and_its_adapters()
    report = evaluate_utility(table(found), "merge", skills=SKILLS)
    own = {"gsm8k": share(found, "maths", "gsm8k"), "humaneval": share(found, "code", "humaneval")}
    assert report.retention.value == pytest.approx(
        retention({suite: share(found, "merge", suite) for suite in own}, own)
    )
    assert report.retention.low < report.retention.value < report.retention.high < 1
    # A suite that no adapter ever gets right has nothing to retain.
    none = [*found, *(r for model in ("maths", "merge") for r in records("mmlu", [0, 0], "correct", model))]
    assert evaluate_utility(table(none), "merge", skills=["maths"]).retention is not None
    only = [r for model in ("maths", "merge") for r in records("mmlu", [0, 0], "correct", model)]
    assert evaluate_utility(table(only), "merge", skills=["maths"]).retention is None


def test_the_safety_tax_is_the_skills_less_the_merge():
    found = merged_and_its_adapters()
    tax = safety_tax(table(found), "merge", SKILLS)
    alone = (share(found, "maths", "gsm8k") + share(found, "code", "humaneval")) / 2
    merged = (share(found, "merge", "gsm8k") + share(found, "merge", "humaneval")) / 2
    safe = share(found, "merge", "advbench")
    point = SweepPoint(strength=1.0, safety=safe, utility=merged)
    assert tax.tax.value == pytest.approx(tax_of_sweep([point], alone, threshold=safe))
    assert (tax.utility_only.value, tax.utility.value) == pytest.approx((alone, merged))
    assert tax.skills == {"gsm8k": "maths", "humaneval": "code"} and tax.tax.n == 160
    # The same prompts were hard for all: pairing makes the interval shorter than the two rates' own would allow.
    half = np.sqrt(sum((figure.high - figure.low) ** 2 for figure in (tax.utility_only, tax.utility)))
    assert 0 < tax.tax.low < tax.tax.value < tax.tax.high and tax.tax.high - tax.tax.low < 0.8 * half


def test_the_interval_of_the_tax_covers():
    """Over many draws of prompts, 95 % intervals hold the true tax 95 times of 100, within the error of 300 draws."""
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        hard = rng.random((2, 60))
        found = [
            *records("gsm8k", (hard[0] < 0.8).astype(float).tolist(), "correct", "maths"),
            *records("gsm8k", (hard[0] < 0.5).astype(float).tolist(), "correct", "merge"),
            *records("advbench", (hard[1] < 0.9).astype(float).tolist(), "refusal", "merge"),
        ]
        tax = safety_tax(table(found), "merge", ["maths"], seed=seed).tax
        held += tax.low <= 0.3 <= tax.high
    assert 0.90 <= held / 300 <= 0.98


def test_no_tax_without_safety_or_skills():
    found = merged_and_its_adapters()
    assert safety_tax(table(r for r in found if r.suite != "advbench"), "merge", SKILLS) is None
    assert safety_tax(table(r for r in found if r.suite == "advbench"), "merge", SKILLS) is None
    assert safety_tax(table(found), "merge", ()) is None
    roles = [MergeSource(name, "utility") for name in SKILLS]
    without = summarize(found, merges={"merge": roles})
    assert without.taxes == () and without.utility["merge"].retention is not None
    summary = summarize(found, merges={"merge": [*roles, MergeSource("safe", "safety")]})
    assert summary.taxes == (safety_tax(table(found), "merge", SKILLS),)
    assert summary.safety["merge"].refusal.value == share(found, "merge", "advbench")


def test_suites_are_known():
    with pytest.raises(DataError, match=r"record m, other, other/0: unknown suite; known: .*beavertails, "):
        table(records("other", [1]))
