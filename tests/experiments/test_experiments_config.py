"""The experiments' configurations: what ships is valid, and what is wrong is named."""

import textwrap
from pathlib import Path

import pytest

from sst_merge.errors import ConfigError
from sst_merge.experiments.ablation import ablation_sweeps
from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.method_sweeps import DRIFT_SWEEPS, TWO_STAGE_SWEEPS
from sst_merge.experiments.plan import JOINT, Planner
from sst_merge.experiments.subsets import poisoned_subsets, random_subsets
from sst_merge.methods import available_methods, parse_options

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LAB = CONFIGS / "experiment_config.yaml"


def _changed(tmp_path: Path, old: str, new: str, source: Path = LAB) -> Path:
    text = source.read_text(encoding="utf-8")
    assert old in text
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace(old, new, 1), encoding="utf-8")
    return changed


def test_the_shipped_configuration_says_what_the_plan_asks_for() -> None:
    config = load_experiment_config(LAB)
    assert len(config.seeds) >= 5 and config.safety_tax.second_base is not None
    assert config.interference.sizes == (2, 4, 8, 12, 16, 20) and config.interference.subsets >= 5
    assert set(config.safety_tax.thresholds) == {0.8, 0.9, 0.95}
    quick = load_experiment_config(LAB, quick=True)
    assert quick.seeds == (0,) and quick.safety_tax.second_base is None
    assert quick.world == config.world and quick.workers == config.workers  # what quick leaves out stays


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("prompts: {dev: 64, test: 48} ", "prompts: {dev: 64, tests: 48} ", "did you mean 'test'"),
        ("\nseeds: [0, 1, 2, 3, 4]", "\nseeds: []", "seeds"),
        ("\nseeds: [0, 1, 2, 3, 4]", "\nseeds: [1, 1]", "seed 1 is given twice"),
        ("thresholds: [0.8, 0.9, 0.95]", "thresholds: [90]", "refusal rates"),
        ("skills: [swap_pairs], methods: all", "skills: [swap_pears], methods: all", "no expert 'swap_pears'"),
        (
            "skills: [swap_pairs], methods: all",
            "skills: [swap_pairs], seeds: [7], methods: all",
            "'one skill' has seed 7.*0, 1,",
        ),
        (
            "skills: [swap_pairs], methods: all",
            "skills: [swap_pairs], seeds: [1, 1], methods: all",
            "seed of 'one skill' 1 is",
        ),
        ("sizes: [2, 4, 8, 12, 16, 20]", "sizes: [2, 40]", "between 2 and 20"),
        ("n_resamples: 500", "n_resamples: 5", "with quick"),
        ("world: {name: lab, seed: 0}", "world: {name: lap, seed: 0}", "no world 'lap' .*; installed are .*lab"),
        ("world: {name: lab, seed: 0}", "world: {name: lab, sed: 0}", "did you mean 'seed'"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = _changed(tmp_path, old, new)
    with pytest.raises(ConfigError, match=said) as caught:
        load_experiment_config(path)
    assert str(path) in str(caught.value)


def test_a_group_may_be_measured_with_some_of_the_seeds(tmp_path: Path) -> None:
    all_seeds = Planner(load_experiment_config(LAB))
    fewer = Planner(
        load_experiment_config(
            _changed(
                tmp_path, "skills: [swap_pairs], methods: all", "skills: [swap_pairs], seeds: [3, 1], methods: all"
            )
        )
    )
    for experiment in ("safety_tax", "comparison"):
        before, after = getattr(all_seeds, experiment)(), getattr(fewer, experiment)()
        of_group = {e.seed for e in after if e.part in {"tax", "methods"} and e.group == "one skill"}
        assert of_group == {1, 3}
        left_out = [e for e in before if e.group == "one skill" and e.part != "cost" and e.seed not in {1, 3}]
        assert left_out and {e.cell.key for e in before} - {e.cell.key for e in after} >= {e.cell.key for e in left_out}


def test_joint_training_may_be_left_to_some_of_the_seeds(tmp_path: Path) -> None:
    path = _changed(tmp_path, "skills: [swap_pairs], methods: all", "skills: [swap_pairs], joint: [0, 2], methods: all")
    alone = [e for e in Planner(load_experiment_config(path)).safety_tax() if e.label == "alone" and e.part == "tax"]
    joint = {e.seed: JOINT in str(e.cell.parameters) for e in alone if e.group == "one skill"}
    assert joint == {0: True, 1: False, 2: True, 3: False, 4: False}


def test_overrides_win_over_the_quick_section() -> None:
    config = load_experiment_config(LAB, quick=True, overrides={"seeds": [3], "comparison.methods": ["ties"]})
    assert config.seeds == (3,) and config.comparison.methods == ("ties",)
    assert config.prompts.test == 32


def test_every_method_sweep_has_valid_strengths() -> None:
    methods = available_methods()
    for swept in DRIFT_SWEEPS.values():
        method = methods[swept.method]
        assert "safety" not in method.needs.roles
        assert len(swept.values) == 9 == len(set(swept.values))
        for value in swept.values:
            parse_options(method, {**swept.options, swept.knob: value})
    for staged in TWO_STAGE_SWEEPS.values():
        assert len(staged.strengths) == len(staged.shares) == 5
        parse_options(methods[staged.method], staged.options)
    ablation = ablation_sweeps(load_experiment_config(LAB).comparison.ablation)
    for swept, _ in ablation.values():
        assert len(swept.values) == 9
    assert {"closed form", "core inputs", "core inputs, teachers"} <= set(ablation)
    assert {"1024 samples", "16 samples", "without the skills' data", "hard filter", "random subspace"} <= set(ablation)
    variants = [
        (sweep.method, sweep.knob, parse_options(methods["sst"], sweep.options).model_dump_json(), str(otherwise))
        for sweep, otherwise in ablation.values()
        if sweep.method == "sst"
    ]
    assert len(variants) == len(set(variants))
    assert ablation["without the skills' data"][1] == {"skill_share": 0.0}


def test_subsets_are_seeded_different_and_complete() -> None:
    families = [f"task{i:02d}" for i in range(20)]
    found = random_subsets(families, [2, 20], 5, [0, 1])
    assert found == random_subsets(families, [2, 20], 5, [0, 1])
    pairs = [s for s in found if len(s.skills) == 2]
    assert len(pairs) == len({(s.skills, s.adapter_seed) for s in pairs}) == 5
    assert [(s.adapter_seed, s.number) for s in found if len(s.skills) == 20] == [(0, 0), (1, 1)]
    poisoned = poisoned_subsets([*families, "reverse"], {"reverse": "reverse", "poisoned": "reverse"}, [4], 5, [0])
    assert len(poisoned) == 5
    assert all(len(s.skills) == 4 and "poisoned" in s.skills and "reverse" not in s.skills for s in poisoned)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(textwrap.dedent("seeds: [0\n"), encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML"):
        load_experiment_config(path)
