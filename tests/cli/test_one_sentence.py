"""A merge in one sentence: skills, safety and a base by flags, the method chosen, everything wrong told at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.cli.merge_flags import parse_role_adapter
from sst_merge.errors import ConfigError
from sst_merge.folder_names import named_apart, short_names
from sst_merge.lora_utils import Adapter


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without a tokenizer, and adapters in folders that are all called seed0; read only."""
    root = tmp_path_factory.mktemp("place")
    build.tiny_model("llama").save_pretrained(root / "base")
    targets = build.ARCHITECTURES["llama"].linears
    for seed, name in enumerate(("code", "maths", "safety")):
        model = build.tiny_model("llama")
        build.adapter_folder(model, root / name / "seed0", seed=seed, targets=targets, r=2, task_type="CAUSAL_LM")
    return root


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def sentence(place: Path, tmp_path: Path) -> Callable[..., Result]:
    """``sst-merge merge`` with two skills and, where asked for, safety and a base."""

    def run(*more: object, safety: bool = True, base: bool = True) -> Result:
        words: list[object] = ["merge", "--skill", f"{place / 'code/seed0'}=0.5", "--skill", place / "maths/seed0"]
        words += ["--safety", place / "safety/seed0"] if safety else []
        words += ["--base", place / "base"] if base else []
        return call(*words, "-o", tmp_path / "out", *more)

    return run


def test_weights_roles_and_names_of_the_sentence(sentence: Any, place: Path, tmp_path: Path) -> None:
    done = sentence(base=False)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    found = [(one["name"], one["role"], one["weight"]) for one in report["adapters"]]
    assert found == [("code", "utility", 0.5), ("maths", "utility", 1.0), ("safety", "safety", 1.0)]
    merged = Adapter.load(tmp_path / "out")
    parts = {name: Adapter.load(place / name / "seed0") for name in ("code", "maths", "safety")}
    for module in merged.modules:
        expected = 0.5 * parts["code"].delta(module) + parts["maths"].delta(module) + parts["safety"].delta(module)
        assert (merged.delta(module) - expected).abs().max() < 1e-5
    assert f"--base BASE --adapter {tmp_path / 'out'} --suite safety" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "method", "why"),
    [
        ({}, "sst", "there are skills, safety and a base to measure them on"),
        ({"safety": False}, "task_arithmetic", "there is no safety adapter"),
        ({"base": False}, "task_arithmetic", "there is no base (--base) to measure on"),
    ],
)
def test_the_method_is_chosen_and_said(sentence: Any, given: dict[str, bool], method: str, why: str) -> None:
    done = sentence("--calibration", "builtin", "--dry-run", "--json", **given)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["method"] == method
    assert f"method   {method}: {why}" in done.stderr
    named = sentence("--method", "linear", "--dry-run", **given)
    assert "method   linear" in named.stdout and "--method takes another" not in named.stderr


def test_without_data_it_says_what_is_missing_and_offers_the_set(sentence: Any, tmp_path: Path) -> None:
    done = sentence()
    assert done.exit_code == 2
    for part in ("missing: harmful prompts", "--data-harm-path", "--data-benign-path", "--calibration builtin"):
        assert part in done.stderr
    assert "--method task_arithmetic" in done.stderr and "--base" not in done.stderr, "the base is there"
    assert not (tmp_path / "out").exists()


def test_the_shipped_set_is_never_used_silently(sentence: Any) -> None:
    plan = sentence("--calibration", "builtin", "--dry-run")
    for part in (
        "data.harm: 200 rows",
        "data.benign: 252 rows",
        "small general set that ships with SST-Merge (harm and",
    ):
        assert part in plan.stdout, plan.output
    assert "ships with SST-Merge" not in sentence("--method", "linear", "--dry-run").output


def test_role_flags() -> None:
    assert parse_role_adapter("a/b=0.7", "utility", "--skill")["weight"] == "0.7"
    fields = parse_role_adapter("name=x,path=y,weight=2", "safety", "--safety")
    assert (fields["name"], fields["weight"], fields["role"]) == ("x", "2", "safety")
    assert "weight" not in parse_role_adapter("a=b", "utility", "--skill")
    with pytest.raises(ConfigError, match=r"--skill .*its role is 'safety', but --skill stands for 'utility'"):
        parse_role_adapter("path=a,role=safety", "utility", "--skill")


def test_all_faults_are_told_at_once_each_with_its_place(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(
        f"adapters:\n  - {{name: code, path: {place / 'code/seed0'}, wieght: 2}}\n"
        "data: {harm: {path: gone.jsonl}}\nmerge: {method: sst, mu: -1, strenght: 2, fisher: {structur: block}}\n"
        "output: {path: out, rank: 0}\n"
    )
    done = call("merge", path)
    assert done.exit_code == 2
    lines = done.stderr.removeprefix("Error: ").splitlines()
    begins = {
        f"{path}: adapters.0.wieght: unknown field (did you mean 'weight'?)",
        f"{path}: data.harm.path: neither {tmp_path / 'gone.jsonl'} (beside the configuration) nor "
        f"{Path.cwd() / 'gone.jsonl'} (in the working folder) exists",
        f"{path}: output.rank: Input should be greater than or equal to 1",
        f"{path}: merge.mu: option 'mu' = -1 of method 'sst': Input should be greater than 0",
        f"{path}: merge.strenght: unknown option 'strenght'",
        f"{path}: merge.fisher.structur: unknown option 'fisher.structur'",
    }
    for begin in begins:
        assert sum(line.startswith(begin) for line in lines) == 1, (begin, lines)
    assert len(lines) == len(begins), lines
    assert (
        "'strenght' of method 'sst' (did you mean 'strength'?)" in done.stderr
        and "(did you mean 'fisher.structure'?)" in done.stderr
    )
    assert "unknown merge method 'tis' (did you mean 'ties'?)" in call("merge", path, "--method", "tis").stderr


def test_nothing_at_all_is_answered_by_the_flags_that_are_missing() -> None:
    told = call("merge").stderr
    assert "--skill, --safety or --adapter (adapters): missing" in told and "-o, --output (output): missing" in told
    listed = call("merge", "--skill", ".", "-o", "o", "--set", "Density=1", "--method", "ties").stderr
    assert (
        "--set Density (merge.Density): unknown option 'Density' of method 'ties' (did you mean 'density'?)" in listed
    )


def test_files_are_found_beside_the_configuration_or_in_the_working_folder(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    path = tmp_path / "conf/merge.yaml"
    text = "adapters: [{path: code/seed0}, {path: maths/seed0}]\noutput: {path: out}\n"
    path.write_text(text)
    monkeypatch.chdir(place)
    done = call("merge", path, "--dry-run")
    assert done.exit_code == 0, done.output
    # The names come from the parents; what is written stays beside the file.
    assert "adapter  code: role utility" in done.stdout and "adapter  maths: role utility" in done.stdout
    assert f"the result goes to {tmp_path / 'conf/out'}" in done.stdout


def test_adapters_that_cannot_be_read_are_told_together(place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = call("merge", "--skill", tmp_path / "one", "--skill", tmp_path / "two", "-o", tmp_path / "out")
    assert done.exit_code == 2
    told = done.stderr.partition("Error: ")[2].splitlines()
    assert [line.startswith(str(tmp_path / name)) for name, line in zip(("one", "two"), told, strict=True)] == [
        True
    ] * 2


def test_names_of_folders_that_are_called_alike() -> None:
    paths = [Path("runs/code/seed0"), Path("runs/safety/seed0"), Path("other/maths")]
    assert named_apart([None] * 3, ["seed0", "seed0", "maths"], paths) == ["code", "safety", "maths"]
    assert named_apart([None, None, "code"], ["seed0", "seed0", "maths"], paths) == ["code/seed0", "safety", "code"]
    assert named_apart(["x", None, None], ["seed0", "seed0", "maths"], paths) == ["x", "seed0", "maths"]
    assert named_apart([None, None], ["a", "a"], [Path("x/a"), Path("x/a")]) == ["a", "a"]
    assert short_names([Path("a/b/c"), Path("a/d/c")]) == ["b", "d"]
