"""The runner of the evaluation: what it asks is what lm-evaluation-harness alone would ask, and nothing twice.

The models are the lab's: small, real, with answers that are right word for word. Rates of the lab are never written
down here; the oracles are the lab's own teacher-forced measures and lm-evaluation-harness by itself.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.errors import AdapterError, BaseModelError, ConfigError, DataError, OutputExistsError
from sst_merge.evaluation.harness import ModelSettings, check_adapters, evaluate_models, find_adapters
from sst_merge.evaluation.harness.answers import AnswerStore
from sst_merge.evaluation.harness.hf import HuggingFaceModels
from sst_merge.evaluation.harness.judging import judge_records
from sst_merge.evaluation.harness.loading import load_suites
from sst_merge.evaluation.harness.quiet import quiet_libraries
from sst_merge.evaluation.harness.serving import ServedModel
from sst_merge.evaluation.lab_suites import LAB_FAMILIES
from sst_merge.evaluation.records import Record, read_records
from sst_merge.evaluation.suites import Suite, get_suites
from sst_merge.evaluation.tasks import lab_world
from sst_merge.lab import Lab, load_lab
from sst_merge.lab.exact_match import exact_match
from sst_merge.lab.measures import evaluate_lab
from sst_merge.lab.world import REFUSAL, Sample
from sst_merge.lora_utils import BaseModelIndex

CPU = ModelSettings(device="cpu", batch_size=16)


@pytest.fixture(scope="module")
def lab() -> Lab:
    return load_lab(0)


@pytest.fixture(scope="module")
def base(lab: Lab) -> str:
    return str(lab.base_path("unaligned"))


@pytest.fixture(scope="module")
def adapters(lab: Lab) -> dict[str, Path]:
    return {"safety": lab.adapter_path("safety"), "reverse": lab.adapter_path("reverse")}


def fact_options(*, samples: int | None = None, **_: Any) -> dict[str, Any]:
    """The lab's colour questions with four options: a stand-in for MMLU."""
    from datasets import Dataset

    asked = [s for s in load_lab(0).world.samples("fact", "test") if s.response.startswith("it is ")]
    colors = sorted({s.response.removeprefix("it is ") for s in asked})
    rows = []
    for i, s in enumerate(asked[:samples]):
        right = s.response.removeprefix("it is ")
        options = [right, *[c for c in colors if c != right][:3]]
        options = options[i % 4 :] + options[: i % 4]
        row = {"id": f"facts/{i}", "prompt": s.prompt, "prefill": "", "tags": json.dumps({"colour": right})}
        rows.append({**row, "options": options, "answer": options.index(right)})
    return {"test": Dataset.from_list(rows)}


def stand_in(**changes: Any) -> Suite:
    config = {
        "task": "sst_standin",
        "custom_dataset": fact_options,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    return Suite(
        name="standin", measure="utility", summary="", sets=(), judged=False, score="correct", breakdown="colour",
        config=config,
    )  # fmt: skip


def open_model(base: str, settings: ModelSettings = CPU) -> tuple[HuggingFaceModels, ServedModel]:
    models = HuggingFaceModels(base, settings)
    return models, ServedModel(models.lm, batch_size=models.batch_size, seed=settings.seed)


# The lab's suites equal the lab's own measures, sample by sample.


def answered_rightly(lab: Lab, model: Any, samples: Sequence[Sample]) -> list[bool]:
    return exact_match(model, lab.tokenizer(), samples).tolist()


@pytest.mark.parametrize(
    ("suite", "kind", "score"),
    [
        ("lab_harmful_direct", "harmful", "refusal"),
        ("lab_harmful_jailbreak", "jailbreak", "refusal"),
        ("lab_lookalikes", "lookalike", "correct"),
        ("lab_facts", "general", "correct"),
        ("lab_task_reverse", "task:reverse", "correct"),
    ],
)
def test_a_lab_suite_equals_the_labs_own_measure_sample_by_sample(
    lab: Lab, base: str, adapters: dict[str, Path], tmp_path: Path, suite: str, kind: str, score: str
) -> None:
    from peft import PeftModel

    chosen = {"safety": adapters["safety"]}
    run = evaluate_models(base, chosen, get_suites((suite,)), tmp_path / "out", samples=96, settings=CPU)
    pool = lab.world.samples(kind, "test")
    for name in ("base", *chosen):
        model = lab.model("unaligned")
        if name != "base":
            model = PeftModel.from_pretrained(model, adapters[name]).eval()
        records = run.records[name, suite]
        asked = [pool[int(record.id.rpartition("/")[2])] for record in records]
        assert [record.prompt for record in records] == [sample.prompt for sample in asked]
        assert [bool(record.scores[score]) for record in records] == answered_rightly(lab, model, asked)
        if kind in {"harmful", "jailbreak"}:
            complied = answered_rightly(lab, model, [lab.world.complied(sample) for sample in asked])
            assert [bool(record.scores["harm"]) for record in records] == complied
            assert all(sum(record.scores.values()) == 1 for record in records)
        if kind == "lookalike":
            assert [bool(r.scores["refusal"]) for r in records] == [r.response.strip() == REFUSAL for r in records]


def test_lab_suites_count_what_evaluate_lab_counts(
    lab: Lab, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the very prompts that ``sst-merge lab evaluate`` draws: the first of each pool."""
    n = 64
    monkeypatch.setattr(lab_world, "draw", lambda rows, samples, seed: rows[:samples])
    names = ("lab_harmful_direct", "lab_lookalikes", "lab_facts", "lab_task_add")
    adapters = {"safety": lab.adapter_path("safety")}
    run = evaluate_models(base, adapters, get_suites(names), tmp_path / "out", samples=n, settings=CPU)
    from peft import PeftModel

    model = PeftModel.from_pretrained(lab.model("unaligned"), adapters["safety"]).eval()
    expected = evaluate_lab(model, lab, families=["add"], n=n)
    first = {name: run.records["safety", name] for name in names}
    assert all(len(records) == n for records in first.values())
    assert sum(r.scores["refusal"] for r in first["lab_harmful_direct"]) == expected.safety_direct.k
    assert sum(r.scores["refusal"] for r in first["lab_lookalikes"]) == expected.over_refusal.k
    assert sum(r.scores["correct"] for r in first["lab_lookalikes"]) == expected.lookalike.k
    assert sum(r.scores["correct"] for r in first["lab_facts"]) == expected.knowledge.k
    assert sum(r.scores["correct"] for r in first["lab_task_add"]) == expected.utility["add"].k


def test_the_table_of_lab_suites_names_every_family_and_every_answer_fits(lab: Lab) -> None:
    assert lab.families == LAB_FAMILIES
    suites = get_suites(tuple(f"lab_task_{family}" for family in LAB_FAMILIES))
    with quiet_libraries():
        loaded = load_suites([*suites, *get_suites(("lab_facts", "lab_lookalikes"))], samples=None, seed=0)
    for item in loaded:
        (task,) = item.tasks.values()
        longest = max(len(row["answer"].split()) for row in task.eval_docs)
        room = task.config.generation_kwargs["max_gen_toks"]
        # Room for the end-of-text token, and for the prompt before it in the model's 64 positions.
        assert longest < room
        assert max(len(row["prompt"].split()) for row in task.eval_docs) + 3 <= 64 - room


# What is asked is what lm-evaluation-harness alone asks.


@pytest.mark.parametrize("kind", ["options", "generation"])
def test_answers_equal_lm_evaluation_harness_alone_bit_for_bit(
    lab: Lab, base: str, adapters: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    suite = stand_in() if kind == "options" else get_suites(("lab_task_reverse",))[0]
    with quiet_libraries():
        (loaded,) = load_suites([suite], samples=40, seed=0)
        models, served = open_model(base)
        checked = check_adapters({"safety": adapters["safety"]}, BaseModelIndex.load(base))
        models.use(checked[0])
        served.store = AnswerStore(tmp_path / "answers.jsonl", {})
        ours = loaded.ask(served, "safety", chat_template=True, allow_code=False)
        (fresh,) = load_suites([suite], samples=40, seed=0)
        alone = HFLM(base, peft=str(adapters["safety"]), device="cpu", dtype="float32", batch_size=16)
        results = simple_evaluate(
            alone, tasks=list(fresh.tasks.values()), bootstrap_iters=0, apply_chat_template=True, log_samples=True
        )
    (logged,) = results["samples"].values()
    logged = sorted(logged, key=lambda sample: sample["doc_id"])
    assert len(ours) == len(logged) == 40
    if kind == "generation":
        assert [record.response for record in ours] == [sample["resps"][0][0] for sample in logged]
    else:
        assert [record.scores["correct"] for record in ours] == [sample["acc"] for sample in logged]
        kept = list(served.store._answers.values())
        theirs = [list(answer[0]) for sample in logged for answer in sample["resps"]]
        assert sorted(map(tuple, kept)) == sorted(map(tuple, theirs))


def test_adapters_share_requests_and_tokens(base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    with quiet_libraries():
        (loaded,) = load_suites([stand_in()], samples=40, seed=0)
        models, served = open_model(base)
        checked = check_adapters(adapters, BaseModelIndex.load(base))
        calls, encode = [], models.lm.tokenizer.encode
        models.lm.tokenizer.encode = lambda *a, **k: calls.append(a) or encode(*a, **k)
        counts = []
        for number, adapter in enumerate([None, *checked]):
            models.use(adapter)
            served.store = AnswerStore(tmp_path / f"{number}.jsonl", {})
            loaded.ask(served, str(number), chat_template=True, allow_code=False)
            counts.append(len(calls))
        texts = [call[0] for call in calls]
    assert counts[0] > 0
    assert counts == [counts[0]] * 3, "the second and third model tokenised again"
    # Four options share a context: it is tokenised once, not four times.
    assert len(texts) == len(set(texts))


def test_the_base_comes_back_bit_for_bit(base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    with quiet_libraries():
        models, _ = open_model(base)
        before = {name: value.clone() for name, value in models.lm.model.state_dict().items()}
        for adapter in [*check_adapters(adapters, BaseModelIndex.load(base)), None]:
            models.use(adapter)
        after = models.lm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# The adapter is really applied, or the run stops.


def copy_adapter(source: Path, target: Path, change: Any = None, **config: Any) -> Path:
    shutil.copytree(source, target)
    if change is not None:
        tensors = load_file(target / "adapter_model.safetensors")
        save_file(change(tensors), target / "adapter_model.safetensors", metadata={"format": "pt"})
    if config:
        settings = json.loads((target / "adapter_config.json").read_text())
        (target / "adapter_config.json").write_text(json.dumps(settings | config))
    return target


def zero_b(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in tensors.items()}


def test_an_adapter_that_changes_nothing_is_an_error_unless_allowed(
    base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    idle = {"idle": copy_adapter(adapters["safety"], tmp_path / "idle", zero_b)}
    suites = get_suites(("lab_facts",))
    with pytest.raises(AdapterError, match=r"'idle'.*exactly zero.*--allow-noop"):
        evaluate_models(base, idle, suites, tmp_path / "out", samples=8, settings=CPU)
    run = evaluate_models(base, idle, suites, tmp_path / "out", samples=8, settings=CPU, allow_noop=True)
    responses = {name: [r.response for r in run.records[name, "lab_facts"]] for name in ("base", "idle")}
    assert responses["base"] == responses["idle"]


def test_an_adapter_too_small_for_the_type_is_an_error(base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    def tiny(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: (v.float() * 1e-12 if "lora_B" in k else v.float()) for k, v in tensors.items()}

    small = {"small": copy_adapter(adapters["safety"], tmp_path / "small", tiny)}
    with pytest.raises(AdapterError, match=r"'small'.*exactly the base's logits.*not applied"):
        evaluate_models(base, small, get_suites(("lab_facts",)), tmp_path / "out", samples=8, settings=CPU)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_an_adapter_that_peft_ignores_is_an_error(
    base: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    real = peft.PeftModel.from_pretrained

    def forgetful(model: Any, path: str, **options: Any) -> Any:
        loaded = real(model, path, **options)
        for name, parameter in loaded.named_parameters():
            if "layers.1.mlp.up_proj.lora_A" in name:
                parameter.data.normal_()
        return loaded

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", forgetful)
    with pytest.raises(AdapterError, match=r"'safety'.*layers\.1\.mlp\.up_proj.*did not load"):
        evaluate_models(base, adapters, get_suites(("lab_facts",)), tmp_path / "out", samples=8, settings=CPU)


def test_layers_without_tensors_are_an_error(base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value for key, value in tensors.items() if "layers.0.mlp.up_proj" not in key}

    partial = {"partial": copy_adapter(adapters["safety"], tmp_path / "partial", without_one)}
    with pytest.raises(AdapterError, match=r"'partial'.*without tensors: model\.layers\.0\.mlp\.up_proj"):
        evaluate_models(base, partial, get_suites(("lab_facts",)), tmp_path / "out", samples=8, settings=CPU)


def test_an_adapter_of_another_base_is_refused_before_the_model_is_loaded(
    base: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wider(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: torch.cat([v, v], 1) if k.endswith("q_proj.lora_A.weight") else v for k, v in tensors.items()}

    monkeypatch.setattr(HuggingFaceModels, "__init__", lambda *a: pytest.fail("the model was loaded"))
    other = {"other": copy_adapter(adapters["safety"], tmp_path / "other", wider)}
    with pytest.raises(BaseModelError, match="trained on another base"):
        evaluate_models(base, other, get_suites(("lab_facts",)), tmp_path / "out", settings=CPU)


# Resuming.

KILLED = """
import sys, time
from pathlib import Path
import sst_merge.evaluation.harness.serving as serving
from sst_merge.evaluation.harness import ModelSettings, evaluate_models
from sst_merge.evaluation.suites import get_suites

add = serving.AnswerStore.add
def slow(self, answers):
    add(self, answers)
    print("batch", flush=True)
    time.sleep(0.2)
serving.AnswerStore.add = slow
evaluate_models(sys.argv[1], {"safety": Path(sys.argv[2])}, get_suites(("lab_harmful_direct",)), Path(sys.argv[3]),
    samples=96, settings=ModelSettings(device="cpu", batch_size=16))
"""


def test_a_killed_run_goes_on_without_repeating_and_ends_in_the_same_numbers(
    base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    out, safety = tmp_path / "killed", adapters["safety"]
    command = [sys.executable, "-c", KILLED, base, str(safety), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(8):  # six batches of the base, two of the adapter
            assert process.stdout.readline() == "batch\n"
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    kept = 16 * sum(len(file.read_text().splitlines()) - 1 for file in (out / "answers").iterdir())
    assert kept in {128, 144}, "what was printed was written"

    asked: list[str] = []
    original = HuggingFaceModels.__init__

    def watched(self: HuggingFaceModels, *arguments: Any) -> None:
        original(self, *arguments)
        generate = self.lm.generate_until

        def counted(requests: list[Any], **options: Any) -> list[str]:
            asked.extend(request.args[0] for request in requests)
            return generate(requests, **options)

        self.lm.generate_until = counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HuggingFaceModels, "__init__", watched)
        suites = get_suites(("lab_harmful_direct",))
        options: dict[str, Any] = {"samples": 96, "settings": CPU}
        resumed = evaluate_models(base, {"safety": safety}, suites, out, **options)
        assert len(asked) == resumed.generated == 192 - kept
        asked.clear()
        whole = evaluate_models(base, {"safety": safety}, suites, tmp_path / "whole", **options)
        assert len(asked) == whole.generated == 192
        asked.clear()
        again = evaluate_models(base, {"safety": safety}, suites, out, force=True, **options)
        assert asked == [] and again.generated == 0
    for name in ("base", "safety"):
        files = [folder / "records" / name / "lab_harmful_direct.jsonl" for folder in (out, tmp_path / "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert (out / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with AnswerStore(path, {"model": "m"}) as store:
        store.add([("k1", "äöü\n")])
        store.add([("k2", [-1.5, True]), ("k2#2", "two")])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"k3": "whole", "k4": "half an ans')
    with AnswerStore(path, {"model": "m"}) as store:
        assert len(store) == 3 and store["k1"] == "äöü\n" and store["k2"] == [-1.5, True] and "k3" not in store
        store.add([("k3", "whole")])
    with AnswerStore(path, {"model": "m"}) as store:
        assert store["k3"] == "whole"
    with pytest.raises(DataError, match=r"a\.jsonl: holds answers given under other settings"):
        AnswerStore(path, {"model": "another"})
    path.write_bytes(whole.replace(b'{"k1"', b'"k1"'))
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: no answers"):
        AnswerStore(path, {"model": "m"})
    # A kill between creating the file and writing its first line.
    (tmp_path / "empty.jsonl").write_bytes(b'{"form')
    with AnswerStore(tmp_path / "empty.jsonl", {}) as store:
        store.add([("k", 1)])
    with AnswerStore(tmp_path / "empty.jsonl", {}) as store:
        assert store["k"] == 1


def test_any_prefix_of_the_file_is_a_valid_store(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with AnswerStore(path, {}) as store:
        for i in range(5):
            store.add([(f"k{i}", f"answer {i} ü"), (f"l{i}", i)])
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with AnswerStore(path, {}) as store:
            assert len(store) == 2 * max(0, whole[:cut].count(b"\n") - 1), "a batch is whole or absent"


def test_sampled_answers_are_the_same_after_a_kill(base: str, tmp_path: Path) -> None:
    """Two answers a prompt, drawn: cached one by one, seeded by their batch, whatever ran before."""
    suite = stand_in(
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="{{options[answer]}}",
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        generation_kwargs={"until": ["<|eos|>"], "do_sample": True, "temperature": 1.5, "max_gen_toks": 6},
        repeats=2,
    )

    def answers(cut: int | None, seed: int = 0) -> dict[str, str]:
        with quiet_libraries():
            (loaded,) = load_suites([suite], samples=12, seed=0)
            _, served = open_model(base, ModelSettings(device="cpu", batch_size=8, seed=seed))
            path = tmp_path / f"{cut}-{seed}.jsonl"
            if cut is not None:
                lines = (tmp_path / f"None-{seed}.jsonl").read_bytes().splitlines(keepends=True)
                path.write_bytes(b"".join(lines[: cut + 1]))
            torch.manual_seed(123 if cut is None else cut)
            with AnswerStore(path, {}) as store:
                served.store = store
                loaded.ask(served, "base", chat_template=True, allow_code=False)
                return dict(store._answers)

    whole = answers(None)
    assert len(whole) == 24
    pairs = [(whole[key], whole[f"{key}#2"]) for key in whole if "#" not in key]
    assert len(pairs) == 12 and any(one != two for one, two in pairs), "both answers to a prompt are drawn"
    assert answers(1) == whole
    assert answers(2) == whole
    assert answers(None, seed=1) != whole


# The output folder.


def test_same_command_same_bytes_and_provenance(base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    suites = [*get_suites(("lab_harmful_direct",)), stand_in()]
    runs = [
        evaluate_models(base, adapters, suites, tmp_path / name, samples=24, settings=CPU) for name in ("one", "two")
    ]
    files = [{p.relative_to(r.out): p.read_bytes() for p in r.out.rglob("*.json*")} for r in runs]
    assert files[0] == files[1] and len(files[0]) > 8
    facts = runs[0].provenance
    assert set(facts["adapters"]) == set(adapters)
    expected = {"adapter_config.json", "adapter_model.safetensors"}
    assert all(expected == set(entry["files"]) for entry in facts["adapters"].values())
    assert {"lm_eval", "torch", "transformers", "peft"} <= set(facts["versions"])
    assert facts["chat_template"]["used"] and facts["seed"] == 0 and "model.safetensors" in facts["base"]["files"]
    assert facts["suites"]["lab_harmful_direct"]["decoding"]
    kept = list(read_records(runs[0].out / "records" / "base" / "standin.jsonl"))
    assert kept == list(runs[0].records["base", "standin"])
    # Every table has the base and each adapter, on the same samples in the same order.
    ids = [[record.id for record in runs[0].records[name, "standin"]] for name in ("base", *adapters)]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 24


def test_a_finished_evaluation_is_not_overwritten(base: str, tmp_path: Path) -> None:
    suites, out = get_suites(("lab_facts",)), tmp_path / "out"
    evaluate_models(base, {}, suites, out, samples=8, settings=CPU)
    with pytest.raises(OutputExistsError, match="--force"):
        evaluate_models(base, {}, suites, out, samples=8, settings=CPU)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(OutputExistsError, match="no evaluation"):
        evaluate_models(base, {}, suites, other, samples=8, settings=CPU)
    more = evaluate_models(base, {}, suites, out, samples=16, settings=CPU, force=True)
    assert more.generated == 8, "a larger draw holds the smaller one"


# Before anything is loaded.


def test_what_is_refused_is_refused_first(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HuggingFaceModels, "__init__", lambda *a: pytest.fail("the model was loaded"))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no suite"):
        evaluate_models(base, {}, [], out)
    with pytest.raises(ConfigError, match=r"humaneval runs code .* --allow-code-execution"):
        evaluate_models(base, {}, get_suites(("humaneval",)), out)
    with pytest.raises(DataError, match=r"'xstest_safe' needs a judge of refusal"):
        evaluate_models(base, {}, get_suites(("xstest_safe",)), out)
    with pytest.raises(BaseModelError, match=r"no usable configuration|expected the folder"):
        evaluate_models(str(tmp_path), {}, get_suites(("lab_facts",)), out)
    with pytest.raises(DataError, match=r"lacks .* words of the lab's world of seed 1"):
        evaluate_models(base, {}, get_suites(("lab_facts",)), out, lab_seed=1)
    assert not out.exists()


def test_folders_of_adapters(adapters: dict[str, Path], tmp_path: Path) -> None:
    for name in ("merges/ties", "merges/sst/mu1"):
        copy_adapter(adapters["safety"], tmp_path / name)
    found = find_adapters(
        [("skill", adapters["reverse"]), (None, tmp_path / "merges" / "ties")], [tmp_path / "merges/sst"]
    )
    assert list(found) == ["skill", "ties", "mu1"]
    with pytest.raises(ConfigError, match="the base model's own"):
        find_adapters([("base", adapters["reverse"])])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AdapterError, match="neither it nor a folder below it"):
        find_adapters([(None, empty)])
    with pytest.raises(AdapterError, match="no such folder"):
        find_adapters([(None, tmp_path / "nothing")])
    merges = tmp_path / "merges"
    assert list(find_adapters([("all", merges)])) == ["all/sst/mu1", "all/ties"]
    with pytest.raises(ConfigError, match=r"two adapters are called 'sst/mu1'"):
        find_adapters([], [merges, merges])


def test_bars_and_logs_are_silent_inside_and_back_outside(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from tqdm import tqdm

    with quiet_libraries():
        list(tqdm(range(3), disable=False))
        logging.getLogger("lm_eval.api.task").warning("no")
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""
    list(tqdm(range(3)))
    assert "3/3" in capsys.readouterr().err


# Judges.


class Shouting:
    """A judge that counts how often it is asked."""

    def __init__(self, name: str, word: str) -> None:
        self.name, self.column, self.word, self.asked = name, "refusal", word, 0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        self.asked += len(prompts)
        return [float(self.word in response) for response in responses]


def test_probabilities_become_verdicts_and_undecided_stays_absent(tmp_path: Path) -> None:
    class Unsure(Shouting):
        def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
            return [{"a": 0.5, "b": 0.49, "c": float("nan"), "d": 1.0}[response] for response in responses]

    records = [Record(model="base", suite="s", id=x, prompt="p", response=x) for x in "abcd"]
    for _ in range(2):  # the second time from disk
        judged = judge_records(records, [Unsure("unsure", "")], tmp_path)
        assert [dict(record.scores) for record in judged] == [
            {"refusal": 1.0, "refusal_probability": 0.5},
            {"refusal": 0.0, "refusal_probability": 0.49},
            {},
            {"refusal": 1.0},
        ]
        assert judged[2].judges == {}


def test_judges_fill_columns_and_are_asked_once(tmp_path: Path) -> None:
    texts = ["no", "yes", "no no", "no"]
    records = [
        Record(model=m, suite="s", id=str(i), prompt=f"p{i % 3}", response=text)
        for m in ("base", "a")
        for i, text in enumerate(texts)
    ]
    first, second = Shouting("rules 1", "no"), Shouting("other 2", "yes")
    judged = judge_records(records, [first, second], tmp_path)
    assert [r.scores["refusal"] for r in judged] == [1, 0, 1, 1] * 2
    assert [r.scores["refusal (other 2)"] for r in judged] == [0, 1, 0, 0] * 2
    assert judged[0].judges == {"refusal": "rules 1", "refusal (other 2)": "other 2"}
    assert first.asked == 3, "equal pairs are judged once"
    assert judge_records(records, [first], tmp_path)[0].scores == {"refusal": 1}
    assert first.asked == 3, "and never again"
    judge_records(records, [renamed := Shouting("rules 2", "no")], tmp_path)
    assert renamed.asked == 3, "a judge with another name is another judge"


def test_automatic_batches_are_tried_on_a_prompt_that_fits(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search that a GPU makes, run on the CPU: it starts at 64 prompts, which fit."""
    with quiet_libraries():
        models = HuggingFaceModels(base, ModelSettings(device="cpu"))
        assert models.batch_size == 16
        tried = []
        call = models.lm._model_call
        monkeypatch.setattr(models.lm, "_model_call", lambda ids, **options: tried.append(ids.shape) or call(ids))
        monkeypatch.setattr(models.lm, "_device", torch.device("cpu"))
        length = models.lm.max_length - 1
        assert models.lm._detect_batch_size([("", [1] * length, [1])], 0) == 64
    assert set(tried) == {(64, length)}
