"""The configuration: what is read, what is refused, and how the fault is named."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from sst_merge.cli.flags import Flag, config_flags
from sst_merge.cli.merge_flags import config_from_flags, parse_adapter, parse_setting
from sst_merge.data_loader import DataSource
from sst_merge.errors import ConfigError, DataError
from sst_merge.merging.config import AdapterConfig, DataSection, MergeConfig, load_config

DESIGN = """
base_model: some-org/some-model-7b
adapters:
  - {name: code,   path: adapters/code,   role: utility, weight: 1.0}
  - {name: safety, path: adapters/safety, role: safety}
data:
  harm:   {path: data/refusals.jsonl,     samples: 256}
  benign: {dataset: some-org/instructions, split: train, samples: 384, where: {is_safe: true}}
merge:
  method: sst
  fisher: {structure: auto, estimator: empirical, point: merged}
  filter: soft
  combine: interpolate
  tax_budget: 0.02
output: {path: out/merged, rank: null, dtype: bfloat16}
seed: 0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def written_with_files(folder: Path) -> Path:
    """The design's example with everything that it names beside it."""
    for name in ("adapters/code", "adapters/safety", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "data/refusals.jsonl").touch()
    return write(folder, DESIGN)


def faults(path: Path | None = None, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, **more)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_design_document_s_example(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, DESIGN))
    assert [adapter.label for adapter in config.adapters] == ["code", "safety"]
    assert config.adapters[0].path == tmp_path / "adapters/code"
    assert config.adapters[1].role == "safety"
    assert config.output.path == tmp_path / "out/merged"
    assert config.base_model == "some-org/some-model-7b"
    assert config.data.harm is not None
    assert config.data.harm == DataSource(path=str(tmp_path / "data/refusals.jsonl"), samples=256)
    assert config.data.benign is not None
    assert config.data.benign.where == {"is_safe": True}
    assert config.merge.method == "sst"
    assert config.merge.options == {
        "fisher": {"structure": "auto", "estimator": "empirical", "point": "merged"},
        "filter": "soft",
        "combine": "interpolate",
        "tax_budget": 0.02,
    }


def test_a_safety_target_is_an_option_with_a_flag_of_its_own(tmp_path: Path) -> None:
    text = DESIGN.replace("  tax_budget: 0.02\n", "  safety_target: 0.9\n  confidence: 0.95\n")
    options = load_config(write(tmp_path, text)).merge.options
    assert (options["safety_target"], options["confidence"]) == (0.9, 0.95)
    flagged = load_config(write(tmp_path, text), overrides={"merge.safety_target": 0.8}).merge.options
    assert flagged == {**options, "safety_target": 0.8}


def test_base_model_that_is_a_folder_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "some-org" / "some-model-7b").mkdir(parents=True)
    assert load_config(write(tmp_path, DESIGN)).base_model == str(tmp_path / "some-org/some-model-7b")


def test_every_fault_names_file_and_field(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
adapters:
  - {name: code, path: a, role: utility}
  - {path: b, role: harmless, wieght: 2}
data:
  harm: {path: x.jsonl, sampels: 3}
  benign: {path: x.jsonl, dataset: y}
output: {path: out, rank: 0}
sede: 0
base-model: x
model_dtype: int8
""",
    )
    lines = faults(path).splitlines()
    expected = [
        "adapters.1.role: Input should be 'utility' or 'safety' (found 'harmless')",
        "adapters.1.wieght: unknown field (did you mean 'weight'?)",
        "data.harm.sampels: unknown field (did you mean 'samples'?)",
        "data.benign: both of `path` and `dataset` given; give exactly one of them",
        "output.rank: Input should be greater than or equal to 1 (found 0)",
        "sede: unknown field (did you mean 'seed'?)",
        "base-model: unknown field (did you mean 'base_model'?)",
    ]
    for line in expected:
        assert f"{path}: {line}" in lines
    assert any(line.startswith(f"{path}: model_dtype: ") and "'int8'" in line for line in lines)
    assert len(lines) == len(expected) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing, expected fields, each written as `name: value`"),
        ("- a\n- b\n", "found a list"),
        ("adapters: [a\nseed: 1\n", "line 2: "),
        ("seed: 1\nadapters: []\nseed: 2\n", "line 3: key 'seed' is given twice"),
        ("adapters: []\noutput: {path: o}\n", "adapters: Tuple should have at least 1 item"),
        ("output: {path: o}\n", "adapters: missing; this field is required"),
        ("adapters: [{path: a}]\n", "output: missing; this field is required"),
        (
            "adapters: [{path: a, weight: .nan}]\noutput: {path: o}\n",
            "adapters.0.weight: Input should be a finite number",
        ),
        ("adapters: [{path: x/a, name: b}, {path: b}]\noutput: {path: o}\n", "adapters: two adapters are called 'b'"),
        ("adapters: [{path: x/a}, {path: x/a}]\noutput: {path: o}\n", "adapters: two adapters are called 'a'"),
        ("adapters: [{path: a}]\noutput: {path: a}\n", "output.path: "),
        ("adapters: [{path: a}]\noutput: {path: a/b}\n", "share a folder; choose another output"),
        ("adapters: [{path: a/b}]\noutput: {path: a}\n", "share a folder; choose another output"),
    ],
)
def test_faulty_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    found = faults(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in faults(tmp_path / "no.yaml")
    assert "is a folder" in faults(tmp_path)


def test_flags_win_and_are_named_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written_with_files(tmp_path / "conf")
    values = {"seed": "7", "output__path": "here", "data__harm__samples": "3", "force": True, "base_model": None}
    config = config_from_flags(path, values, [], ["tax_budget=0.1", "fisher.structure=block", "refine=60"])
    assert (config.seed, config.force) == (7, True)
    # Paths of flags start at the current folder, those of the file at the file's folder.
    assert config.output.path == tmp_path / "here"
    assert config.adapters[0].path == tmp_path / "conf/adapters/code"
    assert config.data.harm is not None
    assert (config.data.harm.samples, config.data.harm.path) == (3, tmp_path / "conf/data/refusals.jsonl")
    assert config.merge.options["fisher"] == {"structure": "block", "estimator": "empirical", "point": "merged"}
    assert (config.merge.options["tax_budget"], config.merge.options["refine"]) == (0.1, 60)
    with pytest.raises(ConfigError, match=r"^--rank \(output.rank\): Input should be a valid integer"):
        config_from_flags(path, {"output__rank": "many"}, [], [])
    with pytest.raises(ConfigError, match=r"(?m)^--adapter \(adapters.0.rloe\): unknown field \(did you mean 'role'"):
        config_from_flags(path, {}, ["path=a,rloe=safety"], [])


def test_flags_alone_are_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("adapters/code", "s"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "h.csv").touch()
    values = {"output__path": "out", "data__harm__response": ("No.", "I will not."), "data__harm__path": "h.csv"}
    values["data__harm__where"] = "{is_safe: false}"
    config = config_from_flags(None, values, ["adapters/code", "path=s,role=safety,weight=0.5"], [])
    assert [(a.label, a.role, a.weight) for a in config.adapters] == [("code", "utility", 1.0), ("s", "safety", 0.5)]
    assert config.data.harm is not None
    source = config.data.harm
    assert source.response == ("No.", "I will not.")
    assert source.where == {"is_safe": False}
    assert faults().startswith("command line: adapters: missing")


@pytest.mark.parametrize("text", ["fisher", "=1", "a..b=1", "filter={hard: 1"])
def test_bad_settings(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_setting(text)


def test_adapter_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_adapter("a=b/c") == {"path": str(tmp_path / "a=b/c")}
    with pytest.raises(ConfigError, match="'safety' is not key=value"):
        parse_adapter("path=a,safety")
    own = {"path": str(tmp_path / "code"), "data": {"path": str(tmp_path / "code.jsonl")}}
    assert parse_adapter("path=code,data=code.jsonl") == own


def leaves(value: object, prefix: str = "") -> set[str]:
    """Dotted names of everything in a nested dict, lists left whole."""
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix(".")}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{prefix}{key}.")}


def test_every_field_has_a_flag_and_a_description() -> None:
    data = dict.fromkeys(DataSource.model_fields, 0)
    config = MergeConfig.model_validate({"adapters": [{"path": "a"}], "output": {"path": "o"}})
    sizes = {"batch_size": 8, "batch_tokens": None}
    dumped = config.model_dump() | {"data": {"harm": data, "benign": data, "calibration": None, **sizes}}
    flags: list[Flag] = config_flags(MergeConfig)
    assert {flag.field for flag in flags} == leaves(dumped) - {"adapters"}
    assert len({flag.option for flag in flags}) == len(flags)
    assert all(flag.info.description for flag in flags)


def test_batches_are_cut_by_rows_or_by_tokens() -> None:
    assert DataSection.model_validate({"batch_tokens": 4096}).batch_tokens == 4096
    with pytest.raises(
        ValidationError, match="batch_tokens: 4096 stands in for batch_size, and batch_size: 8 is given"
    ):
        DataSection.model_validate({"batch_tokens": 4096, "batch_size": 8})


def test_a_data_set_of_a_configuration_is_the_data_loader_s_own_model() -> None:
    assert AdapterConfig.model_fields["data"].annotation == DataSource | None
    for name in ("harm", "benign"):
        assert DataSection.model_fields[name].annotation == DataSource | None


def test_a_fault_of_a_data_set_has_its_place_in_the_file_or_names_the_set(tmp_path: Path) -> None:
    wrong = {"path": "a.csv", "samples": 0, "max_lenght": 9}
    text = yaml.safe_dump({"adapters": [{"path": "a"}], "output": {"path": "o"}, "data": {"harm": wrong}})
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [
        f"{path}: data.harm.samples: Input should be greater than or equal to 1 (found 0)",
        f"{path}: data.harm.max_lenght: unknown field (did you mean 'max_length'?)",
    ]
    with pytest.raises(DataError) as made:
        DataSource(**wrong)
    assert str(made.value).splitlines() == [
        "data source a.csv: samples: Input should be greater than or equal to 1 (found 0)",
        "data source a.csv: max_lenght: unknown field (did you mean 'max_length'?)",
    ]
