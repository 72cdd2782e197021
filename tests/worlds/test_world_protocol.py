"""The protocol between worlds and experiments: a world that is only a page of documentation runs all of them."""

import ast
import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import sst_merge.experiments
from sst_merge.errors import ConfigError, DataError
from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import Experiments
from sst_merge.worlds import registry
from sst_merge.worlds.asking import all_kinds, ask, measure
from sst_merge.worlds.merge_setup import merge_setup
from sst_merge.worlds.outcomes import HARM, Outcomes, Scores, task_kind
from sst_merge.worlds.registry import available_worlds, open_world
from sst_merge.worlds.world import ALIGNED, BASES, SAFETY, UNALIGNED, Artefact, World, rows_in_order

ROOT = Path(__file__).resolve().parents[2]
METHODS = ["Task Arithmetic", "SST-Merge"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The example of docs/extending/world.md as an installed package; the section ``world`` of a configuration."""
    place = tmp_path_factory.mktemp("package")
    page = (ROOT / "docs" / "extending" / "world.md").read_text(encoding="utf-8")
    (place / "tiny_world.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    metadata = place / "tiny_world-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-world\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[sst_merge.worlds]\ntiny = tiny_world:open_tiny\n", encoding="utf-8")
    sys.path.insert(0, str(place))
    available_worlds.cache_clear()
    yield {"name": "tiny", "folder": str(tmp_path_factory.mktemp("tiny"))}
    sys.path.remove(str(place))
    available_worlds.cache_clear()


@pytest.fixture(scope="module", params=["tiny", "lab"])
def world(request: pytest.FixtureRequest, tiny: dict[str, str]) -> World:
    return open_world(**(tiny if request.param == "tiny" else {"name": "lab"}))


def test_prompts_are_the_same_for_the_same_arguments_and_disjoint_over_splits(world: World) -> None:
    for kind in all_kinds(list(world.experts.values())[:3], 8):
        dev, test = ([q.prompt for q in world.questions(kind, 16, split=split)] for split in ("dev", "test"))
        assert len(set(dev)) == len(set(test)) == 16 and not set(dev) & set(test)
        assert dev == [q.prompt for q in world.questions(kind, 16, split="dev")]
        assert dev[:8] == [q.prompt for q in world.questions(kind, 8, split="dev")]
        assert dev != [q.prompt for q in world.questions(kind, 16, split="dev", seed=1)]
    with pytest.raises(DataError):
        world.questions("poems", 1, split="dev")


def test_calibration_has_as_many_rows_as_were_asked_for(world: World) -> None:
    task = task_kind(next(iter(world.experts.values())))
    for asked in ({"harmful": 8, "jailbreak": 8}, {task: 6, "general": 10}):
        assert sum(map(len, world.calibration(asked, seed=0))) == 16
    with pytest.raises(DataError, match="missing; ask for fewer"):
        world.calibration({"harmful": 100_000}, seed=0)


def test_what_one_kind_lacks_the_next_one_makes_up() -> None:
    pools = {"a": "aaa", "b": "bbbbbb", "c": "c"}
    found = rows_in_order({"a": 5, "b": 1, "c": 1}, lambda kind, n: pools[kind][:n])
    assert "".join(found) == "aaabbbc"
    with pytest.raises(DataError, match="1 prompts are missing"):
        rows_in_order({"a": 3, "c": 2}, lambda kind, n: pools[kind][:n])


def test_bases_and_adapters_are_found_once_they_are_there(world: World) -> None:
    name = next(name for name, task in world.experts.items() if name == task)
    for artefact in (Artefact(UNALIGNED), Artefact(UNALIGNED, SAFETY), Artefact(UNALIGNED, name)):
        made = world.make(artefact)
        assert made.is_dir() and made == world.find(artefact) == world.make(artefact)
    with pytest.raises(DataError, match="juggling"):
        world.make(Artefact(UNALIGNED, "juggling"))
    assert json.loads(json.dumps(world.identity())) == world.identity()


def test_bases_differ_in_refusals_and_every_outcome_is_one_of_three(world: World) -> None:
    rates = {}
    for base in BASES:
        model = world.model(base)
        asked = all_kinds((), 12)
        found = ask(world, model, asked, split="dev")
        for kind in HARM:
            of = found[kind]
            assert of.refused == of.right
            assert of.incoherent is not None
            for refused, incoherent, answered in zip(of.right, of.incoherent, of.answered, strict=True):
                assert refused + incoherent + answered == 1
        only_right = ask(world, model, asked, split="dev", right_only=True)
        assert {kind: of.right for kind, of in only_right.items()} == {kind: of.right for kind, of in found.items()}
        # Kind by kind gives what all kinds together give.
        alone = world.outcomes(model, world.questions("lookalike", 12, split="dev"))
        assert (alone.right, alone.refused) == (found["lookalike"].right, found["lookalike"].refused)
        rates[base] = Scores.of(found).safety.rate
    assert rates[UNALIGNED] < 0.1 < 0.9 < rates[ALIGNED]


def test_an_experts_setup_knows_its_task_and_leaves_the_base_as_it_was(world: World) -> None:
    name = next(iter(world.experts))
    setup = merge_setup(world, [name], harm_samples=8, benign_samples=8)
    kind = task_kind(world.experts[name])
    assert [a.role for a in setup.problem.adapters] == ["utility", "safety"] and setup.tasks == (world.experts[name],)
    assert [sum(map(len, of)) for of in (setup.problem.harm, setup.problem.benign)] == [8, 8]
    assert sum(map(len, setup.problem.adapter_benign[name])) == 4
    before = {key: value.clone() for key, value in setup.model.state_dict().items()}
    with setup.answering() as answer:
        update = {m: setup.problem.adapters[0].factors(m) for m in setup.problem.adapters[0].modules}
        base, expert = (answer(u, {kind: 16}, split="test")[kind].counts().rate for u in (None, update))
    assert expert > base + 0.2
    assert all(torch.equal(value, before[key]) for key, value in setup.model.state_dict().items())
    with pytest.raises(DataError, match="'juggling': the world has experts"):
        merge_setup(world, ["juggling"])


def _experiments(tiny: dict[str, str], out: Path) -> Experiments:
    few = {"dev": 8, "test": 8}
    none = {name: [] for name in ("structures", "estimators", "points", "combines", "samples", "damping")}
    changed = {
        "world": tiny,
        "prompts": few,
        "calibration": {"harm": 8, "benign": 8},
        "n_resamples": 100,
        "workers": 1,
        "strengths": 3,
        "safety_tax.groups": [{"name": "one skill", "skills": ["red"], "methods": METHODS}],
        "safety_tax.drift.groups": [{"name": "one expert", "skills": ["red"], "methods": METHODS}],
        "interference": {
            "sizes": [2],
            "subsets": 1,
            "seeds": [0],
            "families": ["red", "green"],
            "methods": METHODS,
            "samples_per_skill": 4,
            "prompts": few,
        },
        "comparison": {
            "methods": METHODS[:1],
            "cost_repeats": 1,
            "ablation": {
                "seeds": [0],
                "prompts": few,
                "hard_filter": False,
                "cross_structures": [],
                "without_skill_data": False,
                **none,
            },
        },
    }
    path = out / "experiments.yaml"
    path.write_text(json.dumps({"seeds": [0], **_nested(changed)}), encoding="utf-8")
    return Experiments(load_experiment_config(path), out)


def _nested(fields: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in fields.items():
        *sections, last = name.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[last] = value
    return found


def test_the_three_experiments_run_on_a_world_that_they_do_not_know(tiny: dict[str, str], tmp_path: Path) -> None:
    experiments = _experiments(tiny, tmp_path)
    names = ("exp1", "exp2", "exp3")
    # A world that tells no costs: not a number, rather than a wrong one.
    before = experiments.outline(names)
    assert before.seconds is None and {of.source for of in before.kinds.values()} == {"not known yet"}
    folders = {name: experiments.run(name)[0].parent for name in names}
    lines = {
        name: [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
        for name, folder in folders.items()
    }
    world = open_world(**tiny)
    alone = lines["exp1"][0]["result"]
    # The cells' single models against the world itself.
    base = measure(world, world.model(UNALIGNED), ["red"], n=8)
    assert alone["base"]["test"]["right"]["task:red"].count("1") == base.utility["red"].k
    assert (
        alone["base"]["test"]["other"]["harmful"].count("1") + alone["base"]["test"]["other"]["jailbreak"].count("1")
        == base.comply.k
    )
    assert {line["part"] for line in lines["exp1"]} == {"tax", "drift"}
    assert {line["method"] for line in lines["exp2"]} == {"alone", *METHODS}
    assert {line["part"] for line in lines["exp3"]} == {"methods", "cost", "ablation"}
    page = experiments.page(names)
    assert "The tiny world looks words up" in page and "world tiny" in page and "lab" not in page.split("## Targets")[0]
    for name in names:
        assert experiments.outline([name]).seconds == 0.0, "everything is finished"


def test_a_cells_name_changes_with_its_world(tiny: dict[str, str], tmp_path: Path) -> None:
    experiments = _experiments(tiny, tmp_path)
    cells = {entry.label: entry.cell for entry in experiments.planned("exp2")}
    assert cells["SST-Merge"].depends["world"] == {"words": open_world(**tiny).identity()["words"]}
    assert set(cells["SST-Merge"].depends["artefacts"]) >= {"base unaligned", "safety"}


def test_no_experiment_knows_the_lab() -> None:
    for path in Path(sst_merge.experiments.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named = f"{node.module or ''}.{'.'.join(alias.name for alias in node.names)}"
                assert "worlds.lab" not in named and not (node.module == "worlds" and "lab" in named), path.name


def test_worlds_that_are_wrong_are_named(tiny: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no world 'moon'; installed are lab, text, tiny"):
        open_world("moon")
    with pytest.raises(ConfigError, match="did you mean 'folder'"):
        open_world("tiny", folde="x")
    for value, said in (("json:dumps", "is a function; expected"), ("tiny_world:open_tiny", "two installed packages")):
        points = [EntryPoint("one", "tiny_world:open_tiny", "sst_merge.worlds"), EntryPoint("other", value, "x")]
        monkeypatch.setattr(registry, "entry_points", lambda group, found=points: found)
        available_worlds.cache_clear()
        with pytest.raises(ConfigError, match=said):
            available_worlds()
    monkeypatch.undo()
    available_worlds.cache_clear()


def test_refusals_that_were_not_looked_for_are_no_outcomes() -> None:
    with pytest.raises(DataError, match="ask again without right_only"):
        _ = Outcomes((True,)).answered
    with pytest.raises(DataError, match=r"\[2, 1\]"):
        Outcomes((True, False), refused=(True,))
    graded = Outcomes((True, False), score=(1.0, 0.4)).part(1, 2)
    assert (graded.right, graded.score) == ((False,), (0.4,))
