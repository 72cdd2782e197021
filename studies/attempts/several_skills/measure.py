"""Attempts to mend SST-Merge of several skills, on skills that no experiment reports.

    python studies/attempts/several_skills/measure.py --out studies/attempts/several_skills

Experiment 1 found that RegMean keeps more of three skills than SST-Merge. The attempts are measured on dev prompts of
other skills, one seed of adapters, so that experiment 1 stays a test:

- *Fisher utility*: the skills' Fisher merge is the M_U that the safety patch is filtered for, instead of their sum.
- *second pass*: SST-Merge of its own result with what the filter left out of the safety patch, so that both Fishers
  are taken anew at the merged model.
- *after RegMean*: the skills are merged by RegMean first and enter SST-Merge as one.
- *as today*: the Fisher utility with equal traces and shrunk output factors, its defaults since.
- *wide inputs*: the same in core spaces that also hold the rows of RegMean's merge.

Writes figures.json (outcomes of every prompt) and README.md (the table).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from sst_merge import __version__
from sst_merge.experiments.method_sweeps import METHOD_SWEEPS
from sst_merge.experiments.read_cells import refusals, task_rows
from sst_merge.experiments.updates_by_knob import SkillsThenSafety, swept_updates, updates_by_knob
from sst_merge.experiments.work import bits
from sst_merge.fim_calculator import build_spaces
from sst_merge.lora_utils import Adapter
from sst_merge.measures.sweeps import MatchedSweep, SeedSamples, SweepSamples, seed_sweeps
from sst_merge.methods import MergeProblem, MethodSweep
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.sst import SSTMerge, SSTOptions
from sst_merge.worlds.lab import load_lab
from sst_merge.worlds.lab.problem import LabSetup, lab_setup
from sst_merge.worlds.updates import Update, adapters_update

GROUPS = (("mirror", "replace", "compare"), ("sort_down", "remove", "rotate_right"), ("double", "exchange", "mirror"))
_MU = (30.0, 10.0, 3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
_BUDGETS = (0.005, 0.02, 0.05, 0.1, 0.2)
# The Fishers as they are collected; studies/attempts/many_experts/measure.py is about what is done to them since.
_FISHER_UTILITY = {"utility": "fisher", "equal_traces": False, "output_shrinkage": 0.0}
_REFERENCES = ("Task Arithmetic", "Fisher merging, kronecker", "RegMean", "SST-Merge")


def variants(setup: LabSetup) -> Iterator[tuple[str, tuple[float, ...], Callable[[], Callable[[float], Update]]]]:
    """Label, strengths and the path of everything that is compared on one group."""
    problem = setup.problem
    for label in _REFERENCES:
        yield _of(label, METHOD_SWEEPS[label], problem)
    yield _of("SST-Merge, Fisher utility", _sst(_FISHER_UTILITY), problem)
    yield _of("SST-Merge, Fisher utility, refined", _refined(_FISHER_UTILITY), problem)
    yield _of("SST-Merge, second pass", _sst(), lambda: second_pass(problem))
    yield _of("SST-Merge, after RegMean", _sst(), lambda: after_regmean(problem))
    yield _of("SST-Merge, after RegMean, refined", _refined({}), lambda: after_regmean(problem))
    for label, options in (("as today", {}), ("wide inputs", {"inputs": "wide"})):
        yield _of(f"SST-Merge, Fisher utility, {label}", _sst({"utility": "fisher", **options}), problem)


def _of(label: str, swept: MethodSweep, problem: MergeProblem | Callable[[], MergeProblem]):
    return label, swept.values, lambda: swept_updates(problem() if callable(problem) else problem, swept)


def _sst(options: Mapping[str, object] | None = None) -> MethodSweep:
    return replace(METHOD_SWEEPS["SST-Merge"], values=_MU, options=options or {})


def _refined(options: Mapping[str, object]) -> MethodSweep:
    return replace(METHOD_SWEEPS["SST-Merge, refined"], values=_BUDGETS, options={"refine": 60, **options})


def after_regmean(problem: MergeProblem) -> MergeProblem:
    """One skill adapter, RegMean's merge of all of them, beside the safety adapter."""
    only = replace(problem, adapters=_with_role(problem, "utility"))
    skilled = updates_by_knob(only, "regmean", {}, "strength", prepare_once=True)(1.0)
    return _problem(problem, Adapter.from_factors(skilled, name="skills"), *_with_role(problem, "safety"))


def second_pass(problem: MergeProblem) -> MergeProblem:
    """SST-Merge's result at its default budget as the skill, what it left out of the safety patch as the safety."""
    merge = SSTMerge(problem, SSTOptions.model_validate(_FISHER_UTILITY))
    assert merge.options.budget is not None
    mu = merge.choose(merge.options.budget).best.mu
    both = SkillsThenSafety(problem, _FISHER_UTILITY)
    first = Adapter.from_factors(both.safe(1.0, mu), name="first pass")
    skills = Adapter.from_factors(both.skills(1.0), name="skills")
    rest = adapters_update([skills, *_with_role(problem, "safety"), first.with_(weight=-1.0)])
    return _problem(problem, first, Adapter.from_factors(rest, name="left out", role="safety"))


def _with_role(problem: MergeProblem, role: str) -> list[Adapter]:
    return [adapter for adapter in problem.adapters if adapter.role == role]


def _problem(problem: MergeProblem, *adapters: Adapter) -> MergeProblem:
    spaces = build_spaces(adapters, dtype=torch.float32)
    return replace(problem, adapters=list(adapters), spaces=spaces, adapter_benign={})


def measure_group(lab, skills: tuple[str, ...], n: int) -> dict[str, dict]:
    """Dev outcomes of the single models and of every variant at every strength."""
    setup = lab_setup(lab, skills, adapter_seed=0, seed=0)
    asked = dict.fromkeys(["harmful", "jailbreak", "lookalike", "general", *(f"task:{s}" for s in skills)], n)
    alone = {f"expert {a.name}": [a] for a in _with_role(setup.problem, "utility")}
    alone["skills alone"] = _with_role(setup.problem, "utility")
    found: dict[str, dict] = {}
    with setup.answering() as answer:
        for name, adapters in alone.items():
            found[name] = {
                "dev": [bits(answer(adapters_update(adapters), asked, split="tuning", with_other_answer=False).right)]
            }
    for label, values, path_of in variants(setup):
        started = time.process_time()
        path = path_of()
        updates = [path(value) for value in values]
        with setup.answering() as answer:
            dev = [bits(answer(update, asked, split="tuning", with_other_answer=False).right) for update in updates]
        found[label] = {"values": list(values), "dev": dev, "seconds": round(time.process_time() - started, 1)}
        print(f"{', '.join(skills)}: {label} in {found[label]['seconds']} s", flush=True)
    return found


def rows(skills: tuple[str, ...], found: dict[str, dict]) -> list[list[str]]:
    """A group's part of the table: the strength is chosen on the prompts it is reported on, again in every draw."""
    experts = {s: task_rows(found[f"expert {s}"]["dev"])[s][0] for s in skills}
    plain = {task: of[0] for task, of in task_rows(found["skills alone"]["dev"]).items()}
    swept = {label: of["dev"] for label, of in found.items() if "values" in of}
    sweeps = {
        label: SweepSamples(
            strengths=range(len(dev)), safety=[refusals(right) for right in dev], utility=task_rows(dev)
        )
        for label, dev in swept.items()
    }
    samples = SeedSamples(sweeps=sweeps, utility_only=plain, experts=experts)
    shown = (MatchedSweep.safety, MatchedSweep.utility, MatchedSweep.hypervolume)
    return [
        [", ".join(skills), label, *(figure_text(own.figure(measure)) for measure in shown)]
        for label, own in seed_sweeps({0: samples}, [0.9], seed=0)[0.9].items()
    ]


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64, help="dev prompts per kind; safety is asked twice")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lab = load_lab()
    groups = {skills: measure_group(lab, skills, args.n) for skills in GROUPS}
    seconds = sum(of.get("seconds", 0.0) for found in groups.values() for of in found.values())
    table = [row for skills, found in groups.items() for row in rows(skills, found)]
    head = (
        f"Lab seed 0, adapter seed 0, {args.n} dev prompts per kind (safety: twice that); at the smallest strength "
        "with safety ≥ 0.9 on the same prompts, utility as the share of the skills' own adapters; 95 % bootstrap "
        f"intervals over prompts and the choice, none for what lies between seeds. sst-merge {__version__}, torch "
        f"{torch.__version__}, {platform.machine()} CPU, {seconds:.0f} s. "
        "Made by `studies/attempts/several_skills/measure.py`.\n\n"
    )
    text = markdown_table(table, ["skills", "method", "safety", "utility", "hypervolume"])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "README.md").write_text(head + text, encoding="utf-8")
    payload = {"n": args.n, "groups": {", ".join(skills): found for skills, found in groups.items()}}
    (args.out / "figures.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    print(head + text)


if __name__ == "__main__":
    main()
