"""What is kept on disk: a killed run goes on, the same command gives the same bytes, verdicts are asked for once."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import launched

from sst_merge.errors import DataError, OutputExistsError
from sst_merge.evaluation import ModelSettings, evaluate_models
from sst_merge.evaluation.answers import AnswerStore
from sst_merge.evaluation.hf import HuggingFaceModels
from sst_merge.evaluation.judging import judge_records
from sst_merge.evaluation.loading import load_suites
from sst_merge.evaluation.records import Record, read_records
from sst_merge.evaluation.silence_libraries import quiet_libraries
from sst_merge.suites import get_suites


def test_a_killed_run_goes_on_without_repeating_and_ends_in_the_same_numbers(
    base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    out, safety, suites = tmp_path / "killed", adapters["safety"], get_suites(("lab_harmful_direct",))
    options: dict[str, Any] = {"samples": 16, "settings": ModelSettings(device="cpu", batch_size=8)}

    asked: list[str] = []
    original = HuggingFaceModels.__init__

    def watched(self: HuggingFaceModels, *arguments: Any) -> None:
        original(self, *arguments)
        generate = self.lm.generate_until

        def counted(requests: list[Any], **options: Any) -> list[str]:
            asked.extend(request.args[0] for request in requests)
            return generate(requests, **options)

        self.lm.generate_until = counted

    def killed() -> None:
        add, batches = AnswerStore.add, 0

        def kills(self: AnswerStore, answers: Any) -> None:
            nonlocal batches
            add(self, answers)
            batches += 1
            if batches == 3:  # two of the base, one of the adapter
                os.kill(os.getpid(), signal.SIGKILL)

        AnswerStore.add = kills  # type: ignore[method-assign]  # in the child alone
        evaluate_models(base, {"safety": safety}, suites, out, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HuggingFaceModels, "__init__", watched)
        # First, so that the child finds everything imported.
        whole = evaluate_models(base, {"safety": safety}, suites, tmp_path / "whole", **options)
        assert len(asked) == whole.generated == 32
        [(status, said)] = launched(1, killed, tmp_path / "process")
        assert status == -signal.SIGKILL, said
        assert not (out / "summary.json").exists()
        kept = 8 * sum(len(file.read_text().splitlines()) - 1 for file in (out / "answers").iterdir())
        assert kept == 24, "every batch that was added was written"
        asked.clear()
        resumed = evaluate_models(base, {"safety": safety}, suites, out, **options)
        assert len(asked) == resumed.generated == 32 - kept
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


def test_sampled_answers_are_the_same_after_a_kill(open_model: Any, stand_in: Any, base: str, tmp_path: Path) -> None:
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


def test_same_command_same_bytes_and_provenance(
    cpu: Any, stand_in: Any, base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    suites = [*get_suites(("lab_harmful_direct",)), stand_in()]
    runs = [
        evaluate_models(base, adapters, suites, tmp_path / name, samples=8, settings=cpu) for name in ("one", "two")
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
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 8


def test_a_finished_evaluation_is_not_overwritten(cpu: Any, base: str, tmp_path: Path) -> None:
    suites, out = get_suites(("lab_facts",)), tmp_path / "out"
    evaluate_models(base, {}, suites, out, samples=8, settings=cpu)
    with pytest.raises(OutputExistsError, match="--force"):
        evaluate_models(base, {}, suites, out, samples=8, settings=cpu)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(OutputExistsError, match="no evaluation"):
        evaluate_models(base, {}, suites, other, samples=8, settings=cpu)
    more = evaluate_models(base, {}, suites, out, samples=16, settings=cpu, force=True)
    assert more.generated == 8, "a larger draw holds the smaller one"


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
