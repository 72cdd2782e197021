"""Records to summary: figures, comparisons, the tax of merges, what is refused, what is a dash."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sst_merge.errors import DataError
from sst_merge.evaluation import Summary, read_summary, summarize, write_summary
from sst_merge.evaluation.merge_sources import MergeSource
from sst_merge.measures.figure import Figure
from sst_merge.measures.intervals import mcnemar, paired_bootstrap, seed_interval, wilson_interval
from sst_merge.suites import Suite, available_suites

SUITES = available_suites()
KNOWN = {**SUITES, "s": Suite(name="s", measure="safety", summary="", sets=())}
WHOLE = {**KNOWN, "beavertails": replace(SUITES["beavertails"], breakdown=None)}


def test_figures_against_counts(some_records):
    records = some_records()
    summary = summarize(records)
    assert summary.models == ("base", "maths", "safety", "merge")
    assert summary.suites == ("beavertails", "mmlu", "perplexity")
    assert summary.scores["beavertails"] == ("refusal", "harm", "incoherent")
    for model in summary.models:
        values = [r.scores["refusal"] for r in records if r.model == model and "refusal" in r.scores]
        figure = summary.figure(model, "beavertails", "refusal")
        assert (figure.value, figure.n) == (pytest.approx(np.mean(values)), 57)
        assert summary.answered(model, "beavertails") == 60
        assert (figure.low, figure.high) == wilson_interval(int(sum(values)), 57)
    values = [r.scores["perplexity"] for r in records if r.model == "base" and r.suite == "perplexity"]
    assert summary.figure("base", "perplexity", "perplexity") == seed_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert summary.figure("base", "perplexity", "perplexity").low == pytest.approx(low)
    assert summary.figure("base", "perplexity", "perplexity").high == pytest.approx(high)
    assert summary.figure("merge", "mmlu", "correct") is None
    assert summary.answered("merge", "mmlu") is None


def test_groups_add_up_to_the_suite(some_records):
    summary = summarize(some_records())
    assert summary.groups("beavertails") == ("c0", "c1", "c2")
    assert summary.groups("mmlu") == ()
    found = {(f.score, f.group): f for f in summary.figures if (f.model, f.suite) == ("maths", "beavertails")}
    for score in ("refusal", "harm"):
        parts = [found[score, group] for group in ("c0", "c1", "c2")]
        whole = found[score, None]
        assert sum(part.undecided for part in parts) == whole.undecided
        assert sum(part.figure.n for part in parts) == whole.figure.n
        assert sum(part.figure.n * part.figure.value for part in parts) == pytest.approx(
            whole.figure.n * whole.figure.value
        )
        assert {part.tag for part in parts} == {"category"} and whole.tag is None
        assert summary.figure("maths", "beavertails", score, "c1") == parts[1].figure


def test_comparisons_are_paired_by_id(some_records):
    records = some_records()
    summary = summarize(records, WHOLE, reference="base", seed=4)
    assert summary.groups("beavertails") == ()
    found = {(c.model, c.suite, c.score): c for c in summary.comparisons if c.suite != "perplexity"}
    assert {model for model, *_ in found} == {"maths", "safety", "merge"}
    assert ("merge", "mmlu", "correct") not in found
    scores = {
        m: {r.id: r.scores["harm"] for r in records if r.model == m and "harm" in r.scores} for m in ("base", "safety")
    }
    ids = sorted(scores["base"])
    a, b = ([scores[m][i] for i in ids] for m in ("safety", "base"))
    comparison = found["safety", "beavertails", "harm"]
    assert comparison.difference == paired_bootstrap(a, b, seed=4)
    assert comparison.p_value == mcnemar([bool(x) for x in a], [bool(x) for x in b])
    assert (comparison.difference.n, comparison.unpaired) == (60, 0)
    [perplexity] = [c for c in summary.comparisons if (c.model, c.suite) == ("maths", "perplexity")]
    assert perplexity.p_value is None


def test_unpaired_samples_are_counted_and_left_out(record):
    records = [record("a", "s", i, {"correct": 1.0}) for i in range(5)]
    records += [record("b", "s", i, {"correct": 0.0}) for i in range(3, 10)]
    summary = summarize(records, KNOWN, reference="a")
    [found] = summary.comparisons
    assert (found.difference.n, found.unpaired, found.difference.value) == (2, 8, -1)
    assert summary.warnings == ("s: models answered different numbers of samples (a 5, b 7).",)
    lone = summarize([*records[:3], *records[5:]], KNOWN, reference="a")
    assert lone.comparisons == ()


def test_order_of_records_does_not_matter(some_records):
    records = some_records()
    shuffled = records.copy()
    random.Random(1).shuffle(shuffled)
    required = ("base", "maths", "safety", "merge")
    shuffled.sort(key=lambda r: required.index(r.model))
    first, second = (summarize(r, reference="base") for r in (records, shuffled))
    assert first == second


def test_base_and_single_adapters_are_in_every_table(some_records):
    records = some_records()
    required = ("safety", "base", "maths")
    assert summarize(records, required=required).models == ("safety", "base", "maths", "merge")
    with pytest.raises(DataError, match="no records of 'code' on beavertails, mmlu, perplexity; every table"):
        summarize(records, required=("base", "code"))
    with pytest.raises(DataError, match="no records of 'merge' on mmlu, perplexity"):
        summarize(records, required=("base", "merge"))
    with pytest.raises(DataError, match="no records of 'other'"):
        summarize(records, reference="other")
    with pytest.raises(DataError, match="no records to summarize"):
        summarize([])


def test_incoherence_is_beside_refusal_and_harm_even_unjudged(record):
    summary = summarize([record("a", "s", 0, {"refusal": 1.0, "extra": 0.5})], KNOWN)
    assert summary.scores["s"] == ("refusal", "incoherent", "extra")
    [found] = [f for f in summary.figures if f.score == "incoherent"]
    assert (found.figure, found.undecided, found.answered) == (None, 1, 1)
    assert any("incoherence was not judged" in warning for warning in summary.warnings)
    assert summary.figure("a", "s", "extra") == Figure(0.5, -np.inf, np.inf, n=1)
    assert summarize([record("a", "s", 0, {"correct": 1.0})], KNOWN).scores["s"] == ("correct",)


def test_warnings_name_what_is_missing(record, some_records):
    warnings = summarize(some_records()).warnings
    assert "mmlu: not evaluated for merge." in warnings
    assert any("refusal is undecided for some samples" in w and "base 3" in w for w in warnings)
    assert not any("harm was not judged" in warning for warning in warnings)
    alone = [replace(r, scores={k: v for k, v in r.scores.items() if k != "harm"}) for r in some_records()]
    unjudged = [warning for warning in summarize(alone).warnings if "harm was not judged" in warning]
    assert len(unjudged) == 1 and unjudged[0].startswith("beavertails: ") and "--judge" in unjudged[0]
    two = [record(m, "s", 0, {"harm": 0.0, "incoherent": 0.0}, judges={"harm": j}) for m, j in ("ab", "cd")]
    [warning] = summarize(two, KNOWN).warnings
    assert "different judges (b, d)" in warning
    assert summarize(two, KNOWN).judges == {"s": {"harm": ("b", "d")}}


def test_graded_shares_keep_their_interval_within_0_and_1(record):
    summary = summarize([record("a", "s", i, {"pass": x}) for i, x in enumerate((0.0, 0.1, 1.0))], KNOWN)
    figure = summary.figure("a", "s", "pass")
    assert (figure.low, figure.high) == (0, 1)
    low, high = stats.ttest_1samp([0.0, 0.1, 1.0], 0).confidence_interval()
    assert low < 0
    assert high > 1


def test_bad_records_are_refused(record):
    twice = [record("a", "s", 0, {"correct": 1.0})] * 2
    with pytest.raises(DataError, match="a, s, s/0 is there twice"):
        summarize(twice, KNOWN)
    with pytest.raises(DataError, match="expected finite numbers"):
        summarize([record("a", "s", 0, {"correct": float("nan")})], KNOWN)
    with pytest.raises(DataError, match=r"record a, s, s/0: unknown suite; known: .*beavertails, "):
        summarize(twice[:1])


def test_summary_round_trip(record, some_records, tmp_path):
    merges = {"merge": (MergeSource("maths", "utility"), MergeSource("safety", "safety"))}
    records = [*some_records(), *(record("merge", "mmlu", i, {"correct": float(i % 2)}) for i in range(60))]
    records.append(record("base", "s", 0, {"graded": 0.25}))
    summary = summarize(records, KNOWN, reference="base", merges=merges)
    assert [tax.merge for tax in summary.taxes] == ["merge"]
    path = tmp_path / "new" / "summary.json"
    write_summary(path, summary)
    assert read_summary(path) == summary
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]
    assert "Infinity" not in path.read_text(), "JSON that any program reads"
    fields = json.loads(path.read_text())
    path.write_text("[]")
    with pytest.raises(DataError, match=r"summary\.json: no evaluation summary"):
        read_summary(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: no evaluation summary"):
        read_summary(path)
    wrong = (
        {},
        fields | {"format": "sst_merge.evaluation_summary/1"},
        fields | {"taxes": [{}]},
        {k: v for k, v in fields.items() if k != "seed"},
    )
    for broken in wrong:
        with pytest.raises(DataError, match="evaluate again"):
            Summary.from_json(json.dumps(broken))
