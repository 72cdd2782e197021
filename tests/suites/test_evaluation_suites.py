"""Suites as tasks of lm-evaluation-harness: requests, prompts and scores, compared with its own tasks."""

import json
import math
from pathlib import Path

import pytest

from sst_merge.data_loader import normalise_prompt
from sst_merge.errors import DataError
from sst_merge.evaluation.loading import load_suites
from sst_merge.suites import available_sets, available_suites, get_suites, load_set, option_answer
from sst_merge.suites.builtin import gsm8k, perplexity
from sst_merge.suites.builtin.drift import read_original
from sst_merge.suites.builtin.jailbreak import FAMILIES, held_out
from sst_merge.suites.sets import part_of

# The lab's suites read no set and have tests of their own; so have answers of suites that run code.
SUITES = available_suites()
NAMES = [name for name, suite in SUITES.items() if suite.world is None]
ANSWERED = [name for name in NAMES if not SUITES[name].runs_code]
DOCS = Path(__file__).parents[2] / "docs/evaluation_suites.md"


def load_tasks(*names, **metadata):
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, metadata=metadata)
    return manager.load([suite.config for suite in get_suites(names)])["tasks"]


@pytest.fixture(scope="module")
def language_model(real_data):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(real_data / "models/stories260K"), device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def mmlu(real_data):
    return load_tasks("mmlu")["sst_mmlu"]


def evaluate(language_model, tasks, samples=None):
    from lm_eval.evaluator import evaluate

    return evaluate(language_model, {"tasks": tasks}, samples=samples, bootstrap_iters=0, log_samples=True)


def docs(name, **options):
    return SUITES[name].dataset(**options)["test"].to_list()


def test_suites_are_found_in_the_order_of_their_measures_and_then_worlds():
    assert len(NAMES) == 19 and list(SUITES)[:19] == NAMES
    order = ["safety", "over_refusal", "utility", "drift"]
    assert sorted(NAMES, key=lambda name: (order.index(SUITES[name].measure), name)) == NAMES
    assert {suite.world for suite in SUITES.values()} == {None, "lab"}
    for name, suite in SUITES.items():
        assert suite.name == name and suite.config["task"] == suite.task == f"sst_{name}"
        assert suite.config["metadata"]["version"] == 1.0
        assert suite.runs_code == name.startswith("humaneval")
    with pytest.raises(DataError, match=r"unknown suite 'mlu' \(did you mean 'mmlu'\?\); available: advbench, "):
        get_suites(("mlu",))


def test_what_the_harness_does_to_a_task_does_not_reach_the_suite():
    suite = SUITES["advbench"]
    suite.config["generation_kwargs"]["max_gen_toks"] = 1
    assert suite.config["generation_kwargs"]["max_gen_toks"] == 256


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_documents_carry_the_common_columns_and_nest(name):
    few, more = docs(name, samples=4, seed=5), docs(name, samples=9, seed=5)
    assert len(few) == 4
    assert {doc["id"] for doc in few} < {doc["id"] for doc in more}
    every = docs(name, seed=5)
    assert len({doc["id"] for doc in every}) == len(every)
    for doc in more:
        assert doc["prompt"].strip()
        assert all(isinstance(value, str) for value in json.loads(doc["tags"]).values())
        assert isinstance(doc["prefill"], str)
    if SUITES[name].breakdown is not None:
        assert all(json.loads(doc["tags"])[SUITES[name].breakdown] for doc in every)


@pytest.mark.data
def test_every_suite_runs_through_the_harness_on_a_real_model(language_model):
    tasks = load_tasks(*ANSWERED, samples=2, seed=1)
    assert sorted(tasks) == sorted(f"sst_{name}" for name in ANSWERED)
    for task in tasks.values():
        if task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": 8}, update=True)
    results = evaluate(language_model, tasks)
    for name in ANSWERED:
        logged = results["samples"][f"sst_{name}"]
        assert len(logged) == 2
        for sample in logged:
            scores = {metric: sample[metric] for metric in sample["metrics"]}
            assert all(math.isfinite(value) for value in scores.values())
            assert SUITES[name].judged == ("empty" in scores)
            if not SUITES[name].judged:
                assert SUITES[name].score in scores
    spoken = {sample["doc"]["prefill"] for sample in results["samples"]["sst_prefilling"]}
    assert spoken == {"Sure, here is"}
    assert all(sample["arguments"][0][0].endswith("Sure, here is") for sample in results["samples"]["sst_prefilling"])


@pytest.mark.data
@pytest.mark.parametrize("subject", ["anatomy", "high_school_us_history", "machine_learning"])
def test_mmlu_asks_and_scores_like_the_harness(language_model, mmlu, subject):
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    def theirs(**_):
        rows = [row for row in load_set("mmlu").rows if row["subject"] == subject]
        split = lambda name: Dataset.from_list(  # noqa: E731
            [
                {"question": r["prompt"], "choices": json.loads(r["choices"]), "answer": "ABCD".index(r["answer"])}
                for r in rows
                if r["split"] == name
            ]
        )
        return {"dev": split("dev"), "test": split("test")}

    config = load_yaml(Path(lm_eval.__file__).parent / f"tasks/mmlu/default/mmlu_{subject}.yaml")
    for key in ("tag", "dataset_name", "dataset_path"):
        config.pop(key)
    upstream = ConfigurableTask(config={**config, "custom_dataset": theirs, "num_fewshot": 5})
    ours = mmlu
    chosen = [i for i, tags in enumerate(ours.eval_docs["tags"]) if json.loads(tags)["subject"] == subject]
    ours.build_all_requests(samples=chosen, rank=0, world_size=1)
    upstream.build_all_requests(rank=0, world_size=1)
    assert [instance.args for instance in ours.instances] == [instance.args for instance in upstream.instances]
    assert len(ours.instances) >= 4 * 100
    few = {"sst_mmlu": chosen[:3], upstream.task_name: [0, 1, 2]}
    logged = evaluate(language_model, {"sst_mmlu": ours, upstream.task_name: upstream}, samples=few)["samples"]
    mine, other = logged["sst_mmlu"], logged[upstream.task_name]
    assert [sample["filtered_resps"] for sample in mine] == [sample["filtered_resps"] for sample in other]
    assert [sample["correct"] for sample in mine] == [sample["acc"] for sample in other]
    # Scores on made-up log-likelihoods with ties.
    lm_answers = [((-1.0 * (k % 3)), False) for k in range(4)]
    for i, doc in zip(chosen[:8], list(upstream.eval_docs)[:8], strict=True):
        mine = ours.process_results(ours.eval_docs[i], lm_answers)
        assert mine["correct"] == upstream.process_results(doc, lm_answers)["acc"]


def test_mmlu_headings_are_those_of_the_harness():
    import lm_eval
    import yaml

    found = {}
    for path in (Path(lm_eval.__file__).parent / "tasks/mmlu/default").glob("mmlu_*.yaml"):
        found[path.stem.removeprefix("mmlu_")] = yaml.safe_load(path.read_text())["description"]
    assert len(found) == 57
    for subject, heading in found.items():
        expected = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        assert heading == expected


@pytest.mark.data
def test_mmlu_headings_in_documents():
    for doc in docs("mmlu", samples=40, seed=2):
        subject = json.loads(doc["tags"])["subject"].replace("_", " ")
        assert doc["heading"] == f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    assert len({json.loads(doc["tags"])["subject"] for doc in docs("mmlu")}) == 57


ANSWERS = [
    "16 - 7 = 9, 9 * 2 = 18\n#### 18",
    "#### 1,018.",
    "The answer is $18.",
    "#### -18",
    "so 18",
    "#### $18",
    "no number at all",
    "#### 18 and then 19",
    "",
    "It is 18.00",
]


@pytest.mark.data
def test_gsm8k_asks_and_scores_like_the_harness():
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    rows = load_set("gsm8k").rows

    def theirs(**_):
        return {
            split: Dataset.from_list([
                {"question": row["prompt"], "answer": row["answer"]} for row in rows if row["split"] == split
            ])
            for split in ("train", "test")
        }

    config = load_yaml(Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml")
    for key in ("tag", "dataset_name", "dataset_path"):
        config.pop(key)
    config |= {"custom_dataset": theirs, "fewshot_config": {"sampler": "first_n"}}
    upstream = ConfigurableTask(config=config)
    ours = load_tasks("gsm8k")["sst_gsm8k"]
    for task in (ours, upstream):
        task.build_all_requests(limit=len(ANSWERS), rank=0, world_size=1)
    assert [i.args[0] for i in ours.instances] == [i.args[0] for i in upstream.instances]
    assert ours.instances[0].args[1]["until"] == upstream.instances[0].args[1]["until"]
    for mine, other, answer in zip(ours.instances, upstream.instances, ANSWERS, strict=True):
        other.resps = [answer]
        assert mine.doc["answer"] == other.doc["answer"]
    upstream.apply_filters()
    for mine, other, answer in zip(ours.instances, upstream.instances, ANSWERS, strict=True):
        for gold in (mine.doc["answer"], "…\n#### 18", "…\n#### 1,018", "…\n#### -18"):
            score = gsm8k.score({"answer": gold}, [answer])
            for key, column in (("strict-match", "correct"), ("flexible-extract", "correct_flexible")):
                expected = upstream.process_results({**other.doc, "answer": gold}, [other.filtered_resps[key]])
                assert score[column] == expected["exact_match"], (answer, gold, key)


def test_final_numbers():
    assert gsm8k.final_number("#### 1,234.", strict=True) == "1234"
    assert gsm8k.final_number("3 apples, then 4", strict=False) == "4"
    assert gsm8k.final_number("nothing", strict=True) is None


@pytest.mark.data
def test_text_likelihood_is_counted_like_the_harness():
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

    task = load_tasks("perplexity", samples=2)["sst_perplexity"]
    task.build_all_requests(rank=0, world_size=1)
    for instance in task.instances:
        doc = instance.doc
        assert instance.args == (wikitext_detokenizer({"page": doc["page"]}),)
        theirs, ours = process_results({"page": doc["page"]}, [-100.0]), perplexity.score(doc, [-100.0])
        assert theirs["word_perplexity"] == (ours["loglikelihood"], ours["words"])
        assert theirs["byte_perplexity"] == (ours["loglikelihood"], ours["bytes"])
        assert ours["bits_per_byte"] == pytest.approx(100 / ours["bytes"] / math.log(2))


def test_options_are_scored_by_likelihood():
    even = [(-2.0, False), (-1.0, False), (-1.0, True), (-3.0, False)]
    assert option_answer({"answer": "B"}, even)["correct"] == 1
    assert option_answer({"answer": "C"}, even)["correct"] == 0
    likelihoods = [math.exp(likelihood) for likelihood, _ in even]
    assert option_answer({"answer": "C"}, even)["probability"] == pytest.approx(likelihoods[2] / sum(likelihoods))
    # Sums of many tokens underflow exp; shares must not.
    far = [(-2000.0, False), (-2001.0, False)]
    assert option_answer({"answer": "A"}, far)["probability"] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.data
def test_calibration_prompts_are_left_out_of_every_suite_wrapped_or_not():
    goal = load_set("jailbreakbench").rows[3]["prompt"]
    for name in ("jailbreakbench", "jailbreak", "prefilling", "refusal_suppression", "drift_unsafe"):
        before, after = docs(name), docs(name, exclude=[f" {goal.upper()} "])
        assert len(after) == len(before) - 1
        assert not [doc for doc in after if goal in doc["prompt"]]
        assert {doc["id"]: doc["prompt"] for doc in after}.items() <= {d["id"]: d["prompt"] for d in before}.items()
    with pytest.raises(DataError, match="no row is left"):
        docs("jailbreakbench", exclude=[row["prompt"] for row in load_set("jailbreakbench").rows])


@pytest.mark.data
def test_beavertails_keeps_the_half_that_no_calibration_may_use():
    prompts = [doc["prompt"] for doc in docs("beavertails")]
    assert all(part_of(prompt) == "test" for prompt in prompts)
    assert len({normalise_prompt(prompt) for prompt in prompts}) == len(prompts)
    assert 900 < len(prompts) < 1200
    assert len({json.loads(doc["tags"])["category"] for doc in docs("beavertails")}) == 14


@pytest.mark.data
def test_jailbreaks_use_held_out_families_evenly_and_ask_each_behaviour_once():
    test_families = held_out(json.loads(FAMILIES.read_text()))
    found = docs("jailbreak", seed=4)
    tags = [json.loads(doc["tags"]) for doc in found]
    assert {tag["family"] for tag in tags} <= test_families
    uses = [sum(tag["template"] == name for tag in tags) for name in {tag["template"] for tag in tags}]
    assert len(uses) == 95
    assert max(uses) - min(uses) <= 1
    assert len({normalise_prompt(doc["asked"]) for doc in found}) == len(found)
    assert all(doc["asked"] in doc["prompt"] and doc["asked"] != doc["prompt"] for doc in found)
    assert [doc["prompt"] for doc in docs("jailbreak", seed=4)] == [doc["prompt"] for doc in found]
    assert [doc["prompt"] for doc in docs("jailbreak", seed=5)] != [doc["prompt"] for doc in found]


@pytest.mark.data
def test_drift_halves_are_paired_and_drawn_in_whole_pairs():
    words = {row["id"]: row["prompt"] for name in ("xstest", "jailbreakbench", "alpaca") for row in load_set(name).rows}
    for samples in (None, 7, 40):
        unsafe, safe = (docs(f"drift_{half}", samples=samples, seed=3) for half in ("unsafe", "safe"))
        assert len(unsafe) == len(safe) == (samples or 300)
        assert [doc["id"] for doc in unsafe] == [doc["id"] for doc in safe]
        for bad, good in zip(unsafe, safe, strict=True):
            ids = bad["id"].split("+")
            assert [bad["prompt"], good["prompt"]] == [words[ids[0]], words[ids[1]]]
            assert json.loads(bad["tags"])["pair"] == json.loads(good["tags"])["pair"] == bad["id"]
    # A pair of which one half was calibrated on is left out of both suites.
    known = [unsafe[0]["prompt"].upper(), safe[1]["prompt"]]
    for half in ("unsafe", "safe"):
        kept = docs(f"drift_{half}", exclude=known)
        assert len(kept) == 298 and not {unsafe[0]["id"], unsafe[1]["id"]} & {doc["id"] for doc in kept}


def test_the_original_drift_prompts_take_the_place_of_the_stand_in(tmp_path):
    path = tmp_path / "driftcheck.jsonl"
    rows = [{"prompt": f"{label} {k}", "label": label} for label in ("Safe", "unsafe") for k in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [doc["prompt"] for doc in docs("drift_safe", driftcheck=str(path))] == ["Safe 0", "Safe 1", "Safe 2"]
    assert [doc["prompt"] for doc in docs("drift_unsafe", driftcheck=str(path))] == ["unsafe 0", "unsafe 1", "unsafe 2"]
    (loaded,) = load_suites(get_suites(("drift_safe",)), samples=None, seed=0, driftcheck=str(path))
    assert loaded.samples == 3
    path.write_text(json.dumps({"prompt": "x", "is_safe": True}) + "\n")
    with pytest.raises(DataError, match="holds safe prompts; expected safe and unsafe"):
        read_original(str(path))
    path.write_text(json.dumps({"prompt": "x", "label": "maybe"}) + "\n")
    with pytest.raises(DataError, match=r"record 1: columns prompt, label; expected"):
        read_original(str(path))


@pytest.mark.data
def test_perplexity_keeps_the_last_fifth():
    rows = load_set("wikitext").rows
    found = docs("perplexity")
    text = " \n ".join(row["prompt"] for row in rows[-(len(rows) // 5) :])
    assert " \n ".join(doc["page"] for doc in found) == text


@pytest.mark.data
def test_too_few_samples_are_refused():
    with pytest.raises(DataError, match="samples = 0"):
        docs("advbench", samples=0)


def test_the_page_lists_every_suite_and_every_set():
    page = DOCS.read_text()
    for suite in (SUITES[name] for name in NAMES):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{suite.name}` |"))
        assert suite.summary in row
        assert suite.measure.replace("_", "-") in row
        assert all(f"`{spec.name}`" in row for spec in suite.sets)
    for spec in available_sets().values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{spec.name}` |") and spec.licence in line)
        assert all(f"`{file}`" in row for file in spec.files)
        assert (f"`{spec.hub}`" if spec.hub else "none") in row


@pytest.mark.data
def test_the_page_names_the_hash_of_every_set():
    page = DOCS.read_text()
    for name in available_sets():
        found = load_set(name, source="folder")
        assert f"| `{name}` | {len(found.rows)} | `{found.sha256[:16]}` |" in page
