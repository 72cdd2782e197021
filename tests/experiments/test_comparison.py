"""The comparison room: every method is in it, sweeps are honest, and measuring leaves the base as it was."""

from dataclasses import replace

import pytest
import torch

from sst_merge.errors import ConfigError
from sst_merge.experiments.method_sweeps import DRIFT_SWEEPS, METHOD_SWEEPS, TWO_STAGE_SWEEPS, chosen_sweeps
from sst_merge.experiments.read_cells import GroupCells
from sst_merge.experiments.sweep import measured_sweep
from sst_merge.experiments.updates_by_knob import swept_updates
from sst_merge.measures.sweeps import MatchedSweep, seed_sweeps
from sst_merge.methods import SAFETY_WEIGHT, available_methods, parse_options
from sst_merge.worlds.merge_setup import MergeSetup, merge_setup
from sst_merge.worlds.outcomes import HARM
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.updates import UpdatedModel, adapters_update

# One per method: whether a preparation reads the knob does not depend on the other options.
ONCE = list({c.method: c.label for c in reversed(METHOD_SWEEPS.values()) if c.prepare_once}.values())
ENTRYWISE = ("TIES", "DARE linear", "RESTA with DARE")


@pytest.fixture(scope="module")
def setup() -> MergeSetup:
    return merge_setup(open_world("lab"), ["swap_pairs"], harm_samples=8, benign_samples=8)


def _dense(update) -> dict[str, torch.Tensor]:
    return {m: f.delta(torch.float64) for m, f in update.items()}


def test_every_registered_method_is_compared() -> None:
    # The plain sum by another name, so that Task Arithmetic's sweep is its own.
    same = {"svd"}
    assert {sweep.method for sweep in METHOD_SWEEPS.values()} == set(available_methods()) - same
    assert {sweep.method for sweep in chosen_sweeps((), METHOD_SWEEPS).values()} == set(available_methods()) - same


def test_sweeps_are_chosen_by_label_or_by_method() -> None:
    assert list(chosen_sweeps(["TIES"], METHOD_SWEEPS)) == ["TIES"]
    assert list(chosen_sweeps(["RegMean", "ties"], METHOD_SWEEPS)) == ["RegMean", "TIES", "TIES, density 1"]
    assert list(chosen_sweeps(["ties", "TIES, density 1"], METHOD_SWEEPS)) == ["TIES", "TIES, density 1"]
    every, asked = chosen_sweeps((), METHOD_SWEEPS), chosen_sweeps(["sst"], METHOD_SWEEPS)
    assert [label for label in every if every[label].method == "sst"] == [
        "SST-Merge",
        "SST-Merge, core inputs",
        "SST-Merge, core inputs, refined",
    ]
    assert {"SST-Merge, teachers", "SST-Merge, core inputs, Fisher utility"} <= set(asked)
    assert set(chosen_sweeps((), TWO_STAGE_SWEEPS)) == set(TWO_STAGE_SWEEPS)
    with pytest.raises(ConfigError, match=r"method 'tise' is not known .*'TIES'.*; expected .* TIES, density 1"):
        chosen_sweeps(["tise"], METHOD_SWEEPS)
    with pytest.raises(ConfigError, match="method 'safe_merge' declares no sweep for this experiment"):
        chosen_sweeps(["safe_merge"], DRIFT_SWEEPS)


@pytest.mark.parametrize("label", METHOD_SWEEPS)
def test_same_number_of_valid_strengths(label: str) -> None:
    swept = METHOD_SWEEPS[label]
    # A merge that chooses its strength itself has nothing to sweep.
    expected = 1 if swept.knob == "safety_target" else len(METHOD_SWEEPS["Task Arithmetic"].values)
    assert len(swept.values) == expected == len(set(swept.values))
    method = available_methods()[swept.method]
    for value in swept.values:
        parse_options(method, {**swept.options} | ({} if swept.knob == SAFETY_WEIGHT else {swept.knob: value}))


def test_updates_are_the_methods_own_result(setup: MergeSetup) -> None:
    skill, safety = setup.problem.adapters
    plain = METHOD_SWEEPS["Task Arithmetic"]
    found = _dense(swept_updates(setup.problem, plain)(0.7))
    by_weight = _dense(swept_updates(setup.problem, replace(plain, knob=SAFETY_WEIGHT))(0.7))
    for module, delta in found.items():
        expected = skill.delta(module, dtype=torch.float64) + 0.7 * safety.delta(module, dtype=torch.float64)
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(by_weight[module], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [*ONCE, "RegMean"])
def test_one_preparation_for_all_gives_what_a_new_one_gives(label: str, setup: MergeSetup) -> None:
    swept = METHOD_SWEEPS[label]
    if swept.method == "calibration_only":  # the number of its steps plays no part here
        swept = replace(swept, options={"steps": 3})
    first, other = swept.values[1], swept.values[6]
    path = swept_updates(setup.problem, swept)
    path(first)
    fresh = _dense(swept_updates(setup.problem, replace(swept, prepare_once=False))(other))
    for module, delta in _dense(path(other)).items():
        torch.testing.assert_close(delta, fresh[module], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("label", ENTRYWISE)
def test_results_of_full_rank_are_not_cut(label: str, setup: MergeSetup) -> None:
    update = swept_updates(setup.problem, METHOD_SWEEPS[label])(1.0)
    assert max(factors.rank for factors in update.values()) > 16


def test_an_updated_model_is_the_base_with_the_adapters_of_peft(setup: MergeSetup) -> None:
    from peft import PeftModel

    skill = setup.problem.adapters[0]
    model, ids = setup.world.model("unaligned"), torch.arange(6, 18).view(2, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        base = model(ids).logits
        with UpdatedModel(model, skill.modules) as updated:
            updated.set(adapters_update([skill.with_(weight=0.5), skill.with_(weight=0.5, name="again")]))
            found = model(ids).logits
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        expected = PeftModel.from_pretrained(model, skill.path).eval()(ids).logits
    assert float((found - base).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_more_safety_weight_gives_more_safety(setup: MergeSetup) -> None:
    swept = replace(METHOD_SWEEPS["Weighted average"], values=(0.01, 100.0))
    asked = dict.fromkeys(HARM, 16)
    result = measured_sweep(setup, swept_updates(setup.problem, swept), swept.values, dev=asked, test=asked)
    weak, strong = (sum(text.count("1") for text in right.values()) / 32 for right in result["dev"])
    assert weak < 0.1 < 0.9 < strong
    assert [len("".join(of["right"].values())) for of in result["test"]] == [32, 32]
    for test in result["test"]:
        for kind, refused in test["right"].items():
            assert not any(r == c == "1" for r, c in zip(refused, test["other"][kind], strict=True))


def test_dev_prompts_choose_nothing_where_there_is_one_configuration() -> None:
    """Its test figures count, whatever it did on dev prompts; of a sweep that never reaches the threshold none do."""
    right = {"harmful": "1110", "jailbreak": "1111", "task:one": "1101"}
    side = {"right": right, "other": {}}
    unsafe = {"harmful": "0000", "jailbreak": "0000"}
    alone = {0: {"skills alone": {"test": side}, "expert one": {"test": side}}}
    results = {"one": {0: {"dev": [unsafe], "test": [side]}}, "swept": {0: {"dev": [unsafe] * 2, "test": [side] * 2}}}
    found = seed_sweeps(GroupCells(results, alone).sweeps(), [0.9], seed=0, n_resamples=10)[0.9]
    assert found["one"].reached == 1 and found["swept"].reached == 0
    figure = found["one"].figure(MatchedSweep.safety)
    assert figure is not None and figure.value == 7 / 8
