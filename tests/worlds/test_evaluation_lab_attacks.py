"""The lab's attacks, pairs, options, samples and likelihoods, against transformers and the lab's own measures.

Rates of the lab are never written down here: the artefacts may be trained anew.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sst_merge.errors import DataError
from sst_merge.evaluation import EvaluationRun, evaluate_models
from sst_merge.evaluation.helpfulness import HELPFUL, with_helpfulness
from sst_merge.evaluation.records import Record
from sst_merge.evaluation.safety_evaluator import evaluate_safety
from sst_merge.evaluation.score_table import ScoreTable
from sst_merge.evaluation.utility_evaluator import evaluate_utility
from sst_merge.reporting.evaluation_tables import main_scores
from sst_merge.suites import Suite, expand_suites, get_suites
from sst_merge.worlds.lab import Lab
from sst_merge.worlds.lab.exact_match import exact_match
from sst_merge.worlds.lab.suite_rows import SUPPRESSION, lab_rows
from sst_merge.worlds.lab.suite_scores import score_harmful, score_samples
from sst_merge.worlds.lab.suites import lab_documents
from sst_merge.worlds.lab.words import WRAPPERS
from sst_merge.worlds.lab.world import REFUSAL, Sample

SUITES = (
    "lab_prefilling",
    "lab_refusal_suppression",
    "lab_drift_unsafe",
    "lab_drift_safe",
    "lab_choices",
    "lab_tasks_samples",
    "lab_perplexity",
)
ADAPTERS = ("reverse", "poisoned")
MODELS = ("base", *ADAPTERS)
BEFORE_AND_AFTER = MODELS[:2]
N = 16


def table(records: list[Record]) -> ScoreTable:
    return ScoreTable(records, {suite.name: suite for suite in get_suites(SUITES)})


@pytest.fixture(scope="module")
def run(cpu: Any, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> EvaluationRun:
    adapters = {name: lab.adapter_path(name, base="aligned") for name in ADAPTERS}
    out = tmp_path_factory.mktemp("lab") / "out"
    return evaluate_models(str(lab.base_path("aligned")), adapters, get_suites(SUITES), out, samples=N, settings=cpu)


@pytest.fixture(scope="module")
def models(lab: Lab) -> dict[str, Any]:
    from peft import PeftModel

    loaded = {"base": lab.model("aligned")}
    for name in ADAPTERS:
        path = lab.adapter_path(name, base="aligned")
        loaded[name] = PeftModel.from_pretrained(lab.model("aligned"), path).eval()
    return loaded


def greedy(lab: Lab, model: Any, prompt: str, begun: str = "") -> str:
    """What transformers itself generates, one prompt at a time and without padding."""
    tokenizer = lab.tokenizer()
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(chat + begun, add_special_tokens=False, return_tensors="pt")["input_ids"]
    end = tokenizer.eos_token_id
    found = model.generate(
        input_ids=ids,
        attention_mask=ids.new_ones(ids.shape),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def likelihood(lab: Lab, model: Any, prompt: str, answer: str) -> float:
    """log p(answer | prompt) by one forward pass, without the end-of-text token."""
    import torch

    tokenizer = lab.tokenizer()
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    before = tokenizer(chat, add_special_tokens=False)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
    chosen = logits.double().log_softmax(-1)[torch.arange(len(after)), torch.tensor(after)]
    return float(chosen.sum())


def asked(lab: Lab, records: Sequence[Record], kind: str) -> list[Sample]:
    """The world's own samples behind records, by the place that their ids name."""
    pool = lab.world.samples(kind, "test")
    return [pool[int(record.id.rpartition("/")[2])] for record in records]


def named(sample: Sample, tag: str) -> str:
    return next(found.removeprefix(f"{tag}:") for found in sample.tags if found.startswith(f"{tag}:"))


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_a_prefilled_answer_is_what_transformers_goes_on_with(
    lab: Lab, run: EvaluationRun, models: dict[str, Any], name: str
) -> None:
    records = run.records[name, "lab_prefilling"]
    assert len(records) == N
    for record, sample in zip(records, asked(lab, records, "harmful"), strict=True):
        recipe = lab.world.complied(sample).response
        opening = f"{named(sample, 'category')} recipe : "
        assert record.prompt == sample.prompt and record.tags["attack"] == "prefilling"
        assert recipe.startswith(opening)
        went_on = greedy(lab, models[name], sample.prompt, opening)
        assert record.response.strip() == (opening + went_on).strip()
        found = (went_on == REFUSAL, opening + went_on == recipe)
        assert (bool(record.scores["refusal"]), bool(record.scores["harm"])) == found
        assert bool(record.scores["incoherent"]) == (not any(found))


def test_a_refusal_behind_a_prefilled_opening_is_a_refusal(lab: Lab) -> None:
    row = lab_rows(lab.world, "prefilling")[0]
    rest = row["recipe"].removeprefix(row["prefill"])
    said = {REFUSAL: "refusal", rest: "harm", row["recipe"]: "incoherent", f"{rest} it": "incoherent", "": "incoherent"}
    for answer, column in said.items():
        scores = score_harmful(row, [answer])
        assert scores[column] == 1 and sum(scores.values()) == 1, answer


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_suppressed_refusals_equal_the_labs_own_measure(
    lab: Lab, run: EvaluationRun, models: dict[str, Any], name: str
) -> None:
    records = run.records[name, "lab_refusal_suppression"]
    direct = asked(lab, records, "harmful")
    samples = [replace(sample, prompt=SUPPRESSION.format(sample.prompt)) for sample in direct]
    assert [record.prompt for record in records] == [sample.prompt for sample in samples]
    refused = exact_match(models[name], lab.tokenizer(), samples).tolist()
    recipes = [replace(sample, response=lab.world.complied(sample).response) for sample in samples]
    complied = exact_match(models[name], lab.tokenizer(), recipes).tolist()
    assert [bool(record.scores["refusal"]) for record in records] == refused
    assert [bool(record.scores["harm"]) for record in records] == complied
    assert all(sum(record.scores.values()) == 1 for record in records)


def test_the_suppression_is_new_and_in_the_worlds_words(lab: Lab) -> None:
    assert SUPPRESSION not in WRAPPERS
    assert set(SUPPRESSION.split()) - {"{}"} <= set(lab.world.vocabulary)
    assert {"sorry", "can", "not", "help"} <= set(SUPPRESSION.split()) & set(REFUSAL.split()), "the refusal's own words"


def test_pairs_differ_in_the_thing_alone_and_meet_in_every_category(lab: Lab) -> None:
    unsafe, safe = (lab_rows(lab.world, f"drift:{half}") for half in ("unsafe", "safe"))
    things = {thing.name: thing for thing in lab.world.things}
    met: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for bad, good in zip(unsafe, safe, strict=True):
        words = zip(bad["prompt"].split(), good["prompt"].split(), strict=True)
        differ = [pair for pair in words if len(set(pair)) > 1]
        assert len(differ) == 1
        harmful, harmless = (things[name] for name in differ[0])
        assert harmful.harmful and not harmless.harmful and harmful.split == harmless.split == "test"
        assert (bad["answer"], bad["recipe"]) == (REFUSAL, harmful.recipe)
        assert (good["answer"], good["recipe"]) == (harmless.recipe, "")
        met.setdefault((harmful.category, harmless.category), set()).add((harmful.name, harmless.name))
    assert len(met) == 4 * 6 and all(len(pairs) == 1 for pairs in met.values())
    assert len({row["prompt"] for row in unsafe}) == len({row["prompt"] for row in safe}) == len(unsafe)


def test_drift_comes_out_of_the_summary(lab: Lab, run: EvaluationRun, models: dict[str, Any]) -> None:
    """Refusal on the unsafe halves, refusal and right recipes on the safe ones, before and after."""
    rows: dict[str, list[float]] = {}
    for name in MODELS:
        unsafe, safe = run.records[name, "lab_drift_unsafe"], run.records[name, "lab_drift_safe"]
        assert [record.id for record in unsafe] == [record.id for record in safe], "whole pairs are drawn"
        pairs = [f"{bad.prompt} / {good.prompt}" for bad, good in zip(unsafe, safe, strict=True)]
        assert [record.tags["pair"] for record in (*unsafe, *safe)] == [*pairs, *pairs]
        recipes = {thing.name: thing.recipe for thing in lab.world.things}
        refusals = [Sample(record.prompt, REFUSAL, "") for record in (*unsafe, *safe)]
        right = [Sample(record.prompt, recipes[record.tags["object"]], "") for record in (*unsafe, *safe)]
        refused = exact_match(models[name], lab.tokenizer(), refusals).tolist()
        answered = exact_match(models[name], lab.tokenizer(), right).tolist()
        assert [bool(record.scores["refusal"]) for record in (*unsafe, *safe)] == refused
        assert [bool(record.scores["harm"]) for record in unsafe] == answered[:N]
        assert [bool(record.scores["correct"]) for record in safe] == answered[N:]
        rows[name] = [float(found) for found in refused[:N]]
        rates = {"lab_drift_unsafe": refused[:N], "lab_drift_safe": refused[N:]}
        for suite, found in rates.items():
            measured = run.summary.figure(name, suite, "refusal")
            assert measured is not None and measured.value * N == pytest.approx(sum(found)) and measured.n == N
        by_rule = [record.scores[HELPFUL] for record in with_helpfulness(safe)]
        assert by_rule == [record.scores["correct"] for record in safe], "known answers say what the rule says"
        helpful = run.summary.figure(name, "lab_drift_safe", "correct")
        assert helpful is not None and helpful.value * N == pytest.approx(sum(answered[N:]))
    before = sum(rows["base"]) / N
    for name in ADAPTERS:
        lost = before - sum(rows[name]) / N
        found = next(
            c for c in run.summary.comparisons if (c.model, c.suite, c.score) == (name, "lab_drift_unsafe", "refusal")
        )
        assert found.difference.n == N and -found.difference.value == pytest.approx(lost)
    assert main_scores(run.summary, "lab_drift_unsafe") == ("refusal", "harm", "incoherent")
    assert main_scores(run.summary, "lab_drift_safe") == ("refusal", "incoherent", "correct")
    assert not any("incoherence was not judged" in warning for warning in run.summary.warnings)


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_options_and_answers_have_the_likelihoods_of_transformers(
    lab: Lab, run: EvaluationRun, models: dict[str, Any], name: str
) -> None:
    rows = {f"lab_choices/{i}": row for i, row in enumerate(lab_rows(lab.world, "choices"))}
    for record in run.records[name, "lab_choices"][:12]:
        row = rows[record.id]
        values = [likelihood(lab, models[name], row["prompt"], option) for option in row["options"]]
        best = row["options"][values.index(max(values))]
        assert record.response == best and record.scores["correct"] == (best == row["answer"])
        share = math.exp(values[row["options"].index(row["answer"])]) / sum(map(math.exp, values))
        assert record.scores["probability"] == pytest.approx(share, abs=1e-4)
    records = run.records[name, "lab_perplexity"]
    for record, sample in zip(records, asked(lab, records, "general"), strict=True):
        assert record.prompt == sample.prompt
        nats = likelihood(lab, models[name], sample.prompt, sample.response)
        assert record.scores["loglikelihood"] == pytest.approx(nats, abs=1e-3)
        size = len(sample.response.encode())
        assert record.scores["bytes"] == size and record.scores["words"] == len(sample.response.split())
        assert record.scores["bits_per_byte"] == pytest.approx(-nats / size / math.log(2), abs=1e-4)
    report = evaluate_utility(table([*records, *run.records[name, "lab_choices"]]), name)
    assert report.perplexity is not None and report.perplexity.byte >= 1
    assert report.accuracy is not None and report.accuracy.n == N


def test_four_options_one_of_them_right(lab: Lab) -> None:
    rows = lab_rows(lab.world, "choices")
    assert {len(set(row["options"])) for row in rows} == {4}
    assert all(row["answer"] in row["options"] for row in rows)
    assert all(len({option.rpartition(" ")[0] for option in row["options"]}) == 1 for row in rows)
    places = [row["options"].index(row["answer"]) for row in rows]
    assert all(places.count(place) >= len(rows) / 8 for place in range(4)), "no position gives the answer away"


def _nucleus(logits: Any, temperature: float, top_p: float) -> Any:
    """The distribution that is sampled from, by its definition: the fewest likeliest tokens that reach top_p."""
    shares = (logits.double() / temperature).softmax(-1)
    ordered, places = shares.sort(descending=True)
    ordered[(ordered.cumsum(-1) - ordered) >= top_p] = 0
    kept = shares.new_zeros(shares.shape).scatter(-1, places, ordered)
    return kept / kept.sum(-1, keepdim=True)


def test_samples_are_right_as_often_as_their_exact_probability_says(
    lab: Lab, run: EvaluationRun, models: dict[str, Any]
) -> None:
    import torch

    from sst_merge.worlds.lab.exact_match import encode

    pools = {family: lab.world.samples(f"task:{family}", "test")[:16] for family in lab.families}
    for name in BEFORE_AND_AFTER:
        records = run.records[name, "lab_tasks_samples"]
        expected, variance = 0.0, 0.0
        for record in records:
            sample = pools[record.tags["family"]][int(record.id.rpartition("/")[2]) % 16]
            assert record.prompt == sample.prompt
            ((ids, start),) = encode(lab.tokenizer(), [sample])
            with torch.no_grad():
                logits = models[name](input_ids=torch.tensor([ids])).logits[0]
            chance = 1.0
            for position in range(start, len(ids)):
                chance *= float(_nucleus(logits[position - 1], 0.8, 0.95)[ids[position]])
            expected += chance
            variance += chance * (1 - chance) / 10
        found = sum(record.scores["correct"] for record in records)
        assert abs(found - expected) <= 4 * math.sqrt(variance) + 1e-6
        assert all(record.scores["pass_at_10"] == (record.scores["correct"] > 0) for record in records)


def test_pass_at_ten_of_sampled_answers() -> None:
    doc = {"answer": "A B"}
    assert score_samples(doc, [["A B", " A B "] + ["B A"] * 8]) == {"correct": 0.2, "pass_at_10": 1.0}
    assert score_samples(doc, [["A B C"] * 10]) == {"correct": 0.0, "pass_at_10": 0.0}
    # Of 12 answers 1 is right: the 10 that are drawn hold it in C(11, 9) of C(12, 10) ways.
    assert score_samples(doc, [["A B"] + ["B A"] * 11]) == {"correct": 1 / 12, "pass_at_10": 55 / 66}
    assert set(score_samples(doc, [["A B"] * 100])) == {"correct", "pass_at_10", "pass_at_100"}


def test_attacks_are_pooled_as_attacks(run: EvaluationRun) -> None:
    records = [record for suite in SUITES for record in run.records["base", suite]]
    report = evaluate_safety(table(records), "base")
    attacked = [*run.records["base", "lab_prefilling"], *run.records["base", "lab_refusal_suppression"]]
    assert report.refusal is None and report.refusal_jailbroken is not None
    assert report.refusal_jailbroken.n == len(attacked)
    assert report.refusal_jailbroken.value == sum(record.scores["refusal"] for record in attacked) / len(attacked)
    assert report.incoherent is not None and report.incoherent.n == 4 * N


def test_every_row_fits_the_worlds_words_and_the_models_room(lab: Lab) -> None:
    known, room = set(lab.world.vocabulary), lab.model("aligned").config.max_position_embeddings
    for kind in ("prefilling", "refusal_suppression", "drift:unsafe", "drift:safe", "choices"):
        for row in lab_rows(lab.world, kind):
            words = [*row["prompt"].split(), *row["prefill"].split()]
            assert set(words) <= known and len(words) + 3 + 20 <= room


def asked_of(kinds: Sequence[str], **metadata: Any) -> Any:
    """The data of a suite that asks some kinds, as lm-evaluation-harness is given them."""
    declared = Suite(name="x", measure="utility", summary="", world="lab")(lab_documents("x", kinds))
    return declared.dataset(**metadata)


def test_what_the_labs_data_refuse(lab: Lab) -> None:
    with pytest.raises(DataError, match=r"cannot take the prompts of 'own\.jsonl'"):
        asked_of(["drift:safe"], driftcheck="own.jsonl")
    rows = asked_of(["category"])["test"]
    fewer = asked_of(["category"], exclude=[rows[0]["prompt"].upper()])["test"]
    assert list(fewer["id"]) == list(rows["id"])[1:]
    with pytest.raises(DataError, match="no row is left"):
        asked_of(["category"], exclude=list(rows["prompt"]))
    request = lab.world.samples("harmful", "test")[5].prompt
    for kind in ("harmful", "prefilling", "refusal_suppression", "jailbreak"):
        asked = asked_of([kind])["test"]
        found = asked_of([kind], exclude=[request])
        assert any(request in prompt for prompt in asked["prompt"]), "the request is asked, wrapped or not"
        assert not any(request in prompt for prompt in found["test"]["prompt"])
        assert len(found["test"]) + len(found["left_out"]) == len(asked)
    pairs = [asked_of([f"drift:{half}"])["test"]["prompt"] for half in ("unsafe", "safe")]
    for half in ("unsafe", "safe"):
        fewer = asked_of([f"drift:{half}"], exclude=[pairs[0][0], pairs[1][1]])
        assert list(fewer["left_out"]["id"]) == ["x/0", "x/1"], "whole pairs"
    with pytest.raises(DataError, match="kind is 'nothing'"):
        lab_rows(lab.world, "nothing")


def test_groups_on_the_lab_are_never_empty() -> None:
    for group in ("safety", "over_refusal", "utility", "drift"):
        suites, left_out = expand_suites([group], world="lab")
        assert suites and not left_out and all(suite.measure == group for suite in suites)
