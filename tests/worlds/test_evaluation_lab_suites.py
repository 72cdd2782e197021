"""The lab's suites, asked through lm-evaluation-harness, equal the lab's own teacher-forced measures.

Rates of the lab are never written down here: the artefacts may be trained anew.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sst_merge.evaluation import evaluate_models
from sst_merge.evaluation.loading import load_suites
from sst_merge.evaluation.silence_libraries import quiet_libraries
from sst_merge.suites import available_suites, get_suites, selection
from sst_merge.worlds.asking import measure
from sst_merge.worlds.lab import Lab
from sst_merge.worlds.lab.exact_match import exact_match
from sst_merge.worlds.lab.lab_world import LabWorld
from sst_merge.worlds.lab.world import REFUSAL, Sample

PAGE = Path(__file__).parents[2] / "docs/evaluation_suites.md"


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
    cpu: Any, lab: Lab, base: str, adapters: dict[str, Path], tmp_path: Path, suite: str, kind: str, score: str
) -> None:
    from peft import PeftModel

    chosen = {"safety": adapters["safety"]}
    run = evaluate_models(base, chosen, get_suites((suite,)), tmp_path / "out", samples=32, settings=cpu)
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
            assert all(sum(r.scores[name] for name in ("refusal", "correct", "incoherent")) == 1 for r in records)


def test_lab_suites_count_what_lab_evaluate_counts(
    cpu: Any, lab: Lab, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the very prompts that ``sst-merge lab evaluate`` draws: the first of each pool."""
    n = 32
    monkeypatch.setattr(selection, "draw", lambda rows, samples, seed: rows[:samples])
    names = ("lab_harmful_direct", "lab_lookalikes", "lab_facts", "lab_task_add")
    adapters = {"safety": lab.adapter_path("safety")}
    run = evaluate_models(base, adapters, get_suites(names), tmp_path / "out", samples=n, settings=cpu)
    from peft import PeftModel

    model = PeftModel.from_pretrained(lab.model("unaligned"), adapters["safety"]).eval()
    expected = measure(LabWorld(lab), model, ["add"], n=n)
    first = {name: run.records["safety", name] for name in names}
    assert all(len(records) == n for records in first.values())
    assert sum(r.scores["refusal"] for r in first["lab_harmful_direct"]) == expected.safety_direct.k
    assert sum(r.scores["refusal"] for r in first["lab_lookalikes"]) == expected.over_refusal.k
    assert sum(r.scores["correct"] for r in first["lab_lookalikes"]) == expected.lookalike.k
    assert sum(r.scores["correct"] for r in first["lab_facts"]) == expected.knowledge.k
    assert sum(r.scores["correct"] for r in first["lab_task_add"]) == expected.utility["add"].k


def test_every_suite_has_a_counterpart_that_is_read_the_same_way(lab_counterparts: dict[str, str]) -> None:
    suites, counterparts = available_suites(), lab_counterparts
    assert set(counterparts) == {name for name, suite in suites.items() if suite.world is None}
    page = PAGE.read_text(encoding="utf-8")
    for name, counterpart in counterparts.items():
        real, lab = suites[name], suites[counterpart]
        assert lab.world == "lab" and not lab.judged and not lab.sets
        for field in ("measure", "score", "rate", "higher_is_better"):
            assert getattr(real, field) == getattr(lab, field), (name, field)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{counterpart}` |"))
        assert lab.summary.removeprefix("lab: ") in row and f"`{name}`" in row


def test_every_skill_has_a_suite_and_every_answer_fits(lab: Lab) -> None:
    assert len(lab.families) == 20
    assert sum(name.startswith("lab_task_") for name in available_suites()) == 20
    suites = get_suites(tuple(f"lab_task_{family}" for family in lab.families))
    with quiet_libraries():
        loaded = load_suites([*suites, *get_suites(("lab_facts", "lab_lookalikes"))], samples=None, seed=0)
    for item in loaded:
        (task,) = item.tasks.values()
        longest = max(len(answer.split()) for answer in task.eval_docs["answer"])
        room = task.config.generation_kwargs["max_gen_toks"]
        # Room for the end-of-text token, and for the prompt before it in the model's 64 positions.
        assert longest < room
        assert max(len(prompt.split()) for prompt in task.eval_docs["prompt"]) + 3 <= 64 - room
