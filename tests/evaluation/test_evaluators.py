"""Safety and utility of hand-made records."""

import math

import pytest

from sst_merge.errors import DataError
from sst_merge.evaluation.records import Record
from sst_merge.evaluation.safety_evaluator import evaluate_safety, rate, rates_by_tag
from sst_merge.evaluation.utility_evaluator import evaluate_utility, own_retention, perplexity
from sst_merge.measures.intervals import wilson_interval


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


def test_a_rate_counts_only_records_with_the_column():
    found = records("advbench", [1, 1, 0, 0.5]) + records("advbench", [1], column="harm")
    assert rate(found, "refusal") == (0.75, *wilson_interval(3, 4), 4)
    assert rate(found, "incoherent") is None


def test_a_record_counts_for_each_of_its_categories():
    found = records("beavertails", [1], categories="a|b") + records("beavertails", [0], categories="b")
    shares = rates_by_tag(found, "refusal", "categories")
    assert {name: (share.value, share.n) for name, share in shares.items()} == {"a": (1.0, 1), "b": (0.5, 2)}


def test_direct_jailbroken_and_harmless_prompts_are_told_apart():
    report = evaluate_safety([
        *records("advbench", [1, 1, 1, 0], attack="none"),
        *records("harmbench", [1, 0], attack="none", category="illegal"),
        *records("jailbreak", [1, 0, 0, 0], attack="template", family="x"),
        *records("prefilling", [0, 0], attack="prefilling", category="c"),
        *records("xstest_safe", [0, 0, 1], attack="none", type="homonyms"),
        *records("drift_unsafe", [0] * 50, attack="none"),
        *records("mmlu", [1] * 9, column="correct"),
        *records("advbench", [0, 1], column="harm", attack="none"),
        *records("jailbreak", [1], column="harm", attack="template"),
        *records("xstest_safe", [1, 0, 0, 0], column="incoherent", attack="none"),
    ])
    assert (report.refusal.value, report.refusal.n) == (4 / 6, 6)
    assert (report.refusal_jailbroken.value, report.refusal_jailbroken.n) == (1 / 6, 6)
    assert (report.harm.value, report.harm_jailbroken.value) == (0.5, 1.0)
    assert (report.over_refusal.value, report.over_refusal.n) == (1 / 3, 3)
    assert (report.incoherent.value, report.incoherent.n) == (0.25, 4)
    assert list(report.refusal_by_suite) == ["advbench", "harmbench", "jailbreak", "prefilling"]
    assert report.refusal_by_category["harmbench"]["illegal"].value == 0.5
    assert report.refusal_by_category["jailbreak"]["x"].n == 4
    assert report.refusal.low < report.refusal.value < report.refusal.high


def test_a_prompt_that_two_suites_ask_counts_once():
    def asked(suite, prompt, verdict, attack):
        scores = {"refusal": verdict}
        return Record(
            model="m", suite=suite, id="i", prompt=prompt, response="", tags={"attack": attack}, scores=scores
        )

    report = evaluate_safety([
        asked("harmbench", "do HARM", 0, "none"),
        asked("advbench", "Do  harm", 1, "none"),
        asked("harmbench", "other", 0, "none"),
        asked("prefilling", "Do harm", 0, "prefilling"),
    ])
    assert (report.refusal.value, report.refusal.n) == (0.5, 2)
    assert report.refusal_jailbroken.n == 1
    assert report.refusal_by_suite["harmbench"].n == 2


def test_what_no_record_speaks_about_is_none():
    report = evaluate_safety(records("advbench", [1], attack="none"))
    assert report.refusal_jailbroken is report.harm is report.over_refusal is report.incoherent is None


def test_accuracy_by_question_and_by_subject():
    report = evaluate_utility([
        *records("mmlu", [1, 1, 1, 0], column="correct", subject="anatomy"),
        *records("mmlu", [0, 1], column="correct", subject="law"),
        *records("gsm8k", [0, 1], column="correct"),
        *records("advbench", [1], attack="none"),
    ])
    assert report.scores == {"mmlu": 4 / 6, "gsm8k": 0.5}
    assert report.group_mean == {"mmlu": (0.75 + 0.5) / 2}
    assert report.by_group["mmlu"]["law"].n == 2
    assert report.perplexity is None


def test_perplexity_adds_up_before_it_divides():
    texts = [
        Record(model="m", suite="perplexity", id=str(k), prompt="p", response="",
               scores={"loglikelihood": -nats, "words": words, "bytes": size})
        for k, (nats, words, size) in enumerate(((10.0, 4.0, 20.0), (50.0, 6.0, 40.0)))
    ]  # fmt: skip
    found = perplexity(texts)
    assert found.word == pytest.approx(math.exp(6))
    assert found.byte == pytest.approx(math.e)
    assert found.bits_per_byte == pytest.approx(1 / math.log(2))
    assert evaluate_utility(texts).perplexity == found
    assert evaluate_utility(texts).scores == {}
    with pytest.raises(DataError, match="no records"):
        perplexity([])
    with pytest.raises(DataError, match="'gsm8k/0' has no bytes, loglikelihood, words"):
        perplexity(records("gsm8k", [1]))


def test_retention_compares_with_each_tasks_own_adapter():
    merged = evaluate_utility(records("mmlu", [1, 0, 0, 0], "correct") + records("gsm8k", [1, 1, 0, 0], "correct"))
    own = {
        "mmlu": evaluate_utility(records("mmlu", [1, 1, 0, 0], "correct")),
        "gsm8k": evaluate_utility(records("gsm8k", [1, 1, 1, 1], "correct")),
    }
    assert own_retention(merged, own) == pytest.approx((0.5 + 0.5) / 2)
    with pytest.raises(DataError, match=r"no accuracy of both .* on humaneval"):
        own_retention(merged, {"humaneval": own["mmlu"]})


@pytest.mark.parametrize("evaluate", [evaluate_safety, evaluate_utility])
def test_models_are_not_mixed_and_suites_are_known(evaluate):
    suite, column = ("advbench", "refusal") if evaluate is evaluate_safety else ("gsm8k", "correct")
    with pytest.raises(DataError, match="one model at a time is evaluated; records are of a, b"):
        evaluate(records(suite, [1], column, model="a") + records(suite, [1], column, model="b"))
    with pytest.raises(DataError, match="unknown suite 'other'"):
        evaluate(records("other", [1]))
