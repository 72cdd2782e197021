"""Records to summary: rates, comparisons, what is refused, what is a dash; and records to sweeps."""

import json
import random

import numpy as np
import pytest
from scipy import stats

from sst_merge.errors import DataError
from sst_merge.evaluation import (
    ScoreTable,
    Summary,
    compare_over_seeds,
    rates_over_seeds,
    read_summary,
    summarize,
    sweep_samples,
    write_summary,
)
from sst_merge.evaluation.records import Record
from sst_merge.measures.intervals import mcnemar, paired_bootstrap, seed_interval, wilson_interval
from sst_merge.measures.seeds import hierarchical_bootstrap, seed_rate_interval
from sst_merge.measures.sweep_intervals import sweep_intervals

BREAKDOWN = {"beavertails": "category"}


def parts(figure):
    """Value and ends, for comparisons within a tolerance."""
    return figure.value, figure.low, figure.high


def record(model, suite, i, scores, **more):
    return Record(model=model, suite=suite, id=f"{suite}/{i}", prompt="p", response="r", scores=scores, **more)


def some_records(models=("base", "maths", "safety", "merge"), n=60):
    rng = random.Random(0)
    found = []
    for place, model in enumerate(models):
        for i in range(n):
            scores = {"incoherent": float(rng.random() < 0.1), "harm": float(rng.random() < 0.3)}
            if i % 20:
                scores["refusal"] = float(rng.random() < 0.2 + 0.2 * place)
            found.append(record(model, "beavertails", i, scores, tags={"category": f"c{i % 3}"},
                                judges={name: f"{name} 1" for name in scores}))  # fmt: skip
            if model != "merge":
                found.append(record(model, "mmlu", i, {"correct": float(rng.random() < 0.5)}))
                found.append(record(model, "perplexity", i, {"perplexity": rng.uniform(2, 9)}))
    return found


def test_rates_against_counts():
    records = some_records()
    summary = summarize(records, breakdown=BREAKDOWN)
    assert summary.models == ("base", "maths", "safety", "merge")
    assert summary.suites == ("beavertails", "mmlu", "perplexity")
    assert summary.scores["beavertails"] == ("refusal", "harm", "incoherent")
    for model in summary.models:
        values = [r.scores["refusal"] for r in records if r.model == model and "refusal" in r.scores]
        rate = summary.rate(model, "beavertails", "refusal")
        assert (rate.k, rate.n, rate.undecided, rate.interval) == (sum(values), 57, 3, "wilson")
        assert rate.value == pytest.approx(np.mean(values))
        assert rate.ends == wilson_interval(int(sum(values)), 57)
    values = [r.scores["perplexity"] for r in records if r.model == "base" and r.suite == "perplexity"]
    rate = summary.rate("base", "perplexity", "perplexity")
    assert (rate.value, rate.low, rate.high) == pytest.approx(parts(seed_interval(values)))
    assert (rate.k, rate.interval) == (None, "t")
    assert summary.rate("merge", "mmlu", "correct") is None


def test_groups_add_up_to_the_suite():
    records = some_records()
    summary = summarize(records, breakdown=BREAKDOWN)
    assert summary.groups("beavertails") == ("c0", "c1", "c2")
    assert summary.groups("mmlu") == ()
    for score in ("refusal", "harm"):
        parts = [summary.rate("maths", "beavertails", score, g) for g in ("c0", "c1", "c2")]
        whole = summary.rate("maths", "beavertails", score)
        for name in ("k", "n", "undecided"):
            assert sum(getattr(part, name) for part in parts) == getattr(whole, name)
    assert {part.tag for part in parts} == {"category"}


def test_comparisons_are_paired_by_id():
    records = some_records()
    summary = summarize(records, reference="base", breakdown={}, seed=4)
    found = {(c.model, c.suite, c.score): c for c in summary.comparisons if c.suite != "perplexity"}
    assert {model for model, *_ in found} == {"maths", "safety", "merge"}
    assert ("merge", "mmlu", "correct") not in found
    scores = {m: {r.id: r.scores["harm"] for r in records if r.model == m and "harm" in r.scores}
              for m in ("base", "safety")}  # fmt: skip
    ids = sorted(scores["base"])
    a, b = ([scores[m][i] for i in ids] for m in ("safety", "base"))
    comparison = found["safety", "beavertails", "harm"]
    assert (comparison.difference, comparison.low, comparison.high) == parts(paired_bootstrap(a, b, seed=4))
    assert comparison.p_value == mcnemar([bool(x) for x in a], [bool(x) for x in b])
    assert (comparison.n, comparison.unpaired) == (60, 0)
    [perplexity] = [c for c in summary.comparisons if (c.model, c.suite) == ("maths", "perplexity")]
    assert perplexity.p_value is None


def test_unpaired_samples_are_counted_and_left_out():
    records = [record("a", "s", i, {"correct": 1.0}) for i in range(5)]
    records += [record("b", "s", i, {"correct": 0.0}) for i in range(3, 10)]
    summary = summarize(records, reference="a")
    [found] = summary.comparisons
    assert (found.n, found.unpaired, found.difference) == (2, 8, -1)
    assert summary.warnings == ("s: models answered different numbers of samples (a 5, b 7).",)
    lone = summarize([*records[:3], *records[5:]], reference="a")
    assert [c.n for c in lone.comparisons] == []


def test_order_of_records_does_not_matter():
    records = some_records()
    shuffled = records.copy()
    random.Random(1).shuffle(shuffled)
    required = ("base", "maths", "safety", "merge")
    shuffled.sort(key=lambda r: ("beavertails", "mmlu", "perplexity").index(r.suite))
    shuffled.sort(key=lambda r: required.index(r.model))
    first, second = (summarize(r, reference="base", breakdown=BREAKDOWN) for r in (records, shuffled))
    assert first == second


def test_base_and_single_adapters_are_in_every_table():
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


def test_incoherence_stands_beside_refusal_and_harm_even_unjudged():
    summary = summarize([record("a", "s", 0, {"refusal": 1.0, "extra": 0.5})])
    assert summary.scores["s"] == ("refusal", "incoherent", "extra")
    rate = summary.rate("a", "s", "incoherent")
    assert (rate.value, rate.ends, rate.n, rate.undecided) == (None, None, 0, 1)
    assert any("incoherence was not judged" in warning for warning in summary.warnings)
    assert summary.rate("a", "s", "extra").ends is None
    assert summarize([record("a", "s", 0, {"correct": 1.0})]).scores["s"] == ("correct",)


def test_warnings_name_what_is_missing():
    warnings = summarize(some_records()).warnings
    assert "mmlu: not evaluated for merge." in warnings
    assert any("refusal is undecided for some samples" in w and "base 3" in w for w in warnings)
    two = [record(m, "s", 0, {"harm": 0.0, "incoherent": 0.0}, judges={"harm": j}) for m, j in ("ab", "cd")]
    [warning] = summarize(two).warnings
    assert "different judges (b, d)" in warning
    assert summarize(two).judges == {"s": {"harm": ("b", "d")}}


def test_graded_shares_keep_their_interval_within_0_and_1():
    summary = summarize([record("a", "s", i, {"pass": x}) for i, x in enumerate((0.0, 0.1, 1.0))])
    rate = summary.rate("a", "s", "pass")
    assert rate.ends == (0, 1)
    low, high = stats.ttest_1samp([0.0, 0.1, 1.0], 0).confidence_interval()
    assert low < 0
    assert high > 1


def test_bad_records_are_refused():
    twice = [record("a", "s", 0, {"correct": 1.0})] * 2
    with pytest.raises(DataError, match="a, s, s/0 is there twice"):
        summarize(twice)
    with pytest.raises(DataError, match="expected finite numbers"):
        summarize([record("a", "s", 0, {"correct": float("nan")})])


def test_summary_round_trip(tmp_path):
    summary = summarize(some_records(), required=("base",), reference="base", breakdown=BREAKDOWN)
    path = tmp_path / "new" / "summary.json"
    write_summary(path, summary)
    assert read_summary(path) == summary
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]
    fields = json.loads(path.read_text())
    assert Summary.from_json(fields) == summary
    path.write_text("[]")
    with pytest.raises(DataError, match="a list; expected"):
        read_summary(path)
    path.write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        read_summary(path)
    for broken in ({}, {"format": "other"}, fields | {"rates": [{}]}, {k: v for k, v in fields.items() if k != "seed"}):
        with pytest.raises(DataError, match="evaluate again"):
            Summary.from_json(broken)


# --- several seeds -----------------------------------------------------------------------------------------------


def seed_records():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(5):
        hard = rng.random(40)
        for method, rate in (("ours", 0.9), ("theirs", 0.6)):
            found += [record(f"{method}/{seed}", "s", i, {"refusal": float(h < rate), "length": 10 * h + seed})
                      for i, h in enumerate(hard)]  # fmt: skip
    return found


def test_rates_over_seeds():
    records = seed_records()
    groups = {name: [f"{name}/{seed}" for seed in range(5)] for name in ("ours", "theirs")}
    found = {(r.model, r.score): r for r in rates_over_seeds(records, groups)}
    assert set(found) == {(m, s) for m in groups for s in ("refusal", "length")}
    counts = [(int(sum(r.scores["refusal"] for r in records if r.model == m)), 40) for m in groups["ours"]]
    ours = found["ours", "refusal"]
    assert (ours.value, ours.low, ours.high) == parts(seed_rate_interval(counts))
    assert (ours.k, ours.n, ours.interval) == (sum(k for k, _ in counts), 200, "logit-t")
    assert found["ours", "length"].interval == "t"
    with pytest.raises(DataError, match=r"no records of \['x'\]"):
        rates_over_seeds(records, {"a": ["ours/0", "x"]})
    with pytest.raises(DataError, match="at least 2"):
        rates_over_seeds(records, {"a": ["ours/0"]})


def test_comparison_over_seeds():
    records = seed_records()
    ours, theirs = ([f"{name}/{seed}" for seed in range(5)] for name in ("ours", "theirs"))
    found = compare_over_seeds(records, ("ours", ours), ("theirs", theirs), seed=3)
    assert {c.score for c in found} == {"refusal", "length"}
    [refusal] = [c for c in found if c.score == "refusal"]
    table = ScoreTable(records)
    oracle = hierarchical_bootstrap(
        table.matrix(ours, ["s"], "refusal"), table.matrix(theirs, ["s"], "refusal"), seed=3
    )
    assert (refusal.difference, refusal.low, refusal.high) == parts(oracle)
    assert refusal.low > 0
    assert refusal.n == 40
    with pytest.raises(DataError, match="5 seeds of a, 4 of b"):
        compare_over_seeds(records, ("a", ours), ("b", theirs[:4]), seed=0)


# --- sweeps from records -----------------------------------------------------------------------------------------


def sweep_records():
    rng = np.random.default_rng(0)
    hard = rng.random((3, 50))
    found = []
    for model, safe, skill in (("m0", 0.2, 0.9), ("m1", 0.95, 0.8), ("t1", 0.92, 0.5), ("skill", 0.1, 0.95)):
        for i in range(50):
            found += [
                record(model, "advbench", i, {"refusal": float(hard[0, i] < safe)}),
                record(model, "harmbench", i, {"refusal": float(hard[1, i] < safe)}),
                record(model, "mmlu", i, {"correct": float(hard[2, i] < skill)}),
            ]
    random.Random(0).shuffle(found)
    return found


def test_sweeps_from_records():
    records = sweep_records()
    table = ScoreTable(records)
    sweeps = sweep_samples(
        table,
        {"ours": {0.0: "m0", 1.0: "m1"}, "theirs": {1.0: "t1"}},
        safety=["advbench", "harmbench"],
        utility={"mmlu": "correct"},
        dev_safety=["advbench"],
    )
    assert np.shape(sweeps["ours"].safety) == (2, 100)
    assert np.shape(sweeps["theirs"].dev_safety) == (1, 50)
    alone = {"mmlu": table.matrix(["skill"], ["mmlu"], "correct")[0]}
    found = sweep_intervals(sweeps, alone, seed=0, against="theirs", n_resamples=300)

    def mean(model, suite, score):
        return np.mean([r.scores[score] for r in records if (r.model, r.suite) == (model, suite)])

    taxes = {m: mean("skill", "mmlu", "correct") - mean(m, "mmlu", "correct") for m in ("m1", "t1")}
    assert found["ours"].tax.value == pytest.approx(taxes["m1"])
    assert found["theirs"].tax.value == pytest.approx(taxes["t1"])
    assert found["ours"].tax_reduction.value == pytest.approx(1 - taxes["m1"] / taxes["t1"])


def test_sweeps_need_every_model_on_every_sample():
    records = sweep_records()
    gone = next(i for i, r in enumerate(records) if (r.model, r.suite) == ("m1", "mmlu"))
    table = ScoreTable(records[:gone] + records[gone + 1 :])
    with pytest.raises(DataError, match=r"mmlu, correct: samples without a score per model: \{'m1': 1\}"):
        sweep_samples(table, {"a": {0.0: "m0", 1.0: "m1"}}, safety=["advbench"], utility={"mmlu": "correct"})
    with pytest.raises(DataError, match="without a score per model: all"):
        table.matrix(["m0"], ["unknown"], "refusal")
