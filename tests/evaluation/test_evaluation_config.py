"""An evaluation's configuration: from a file, from flags, or both, and the same by either."""

from pathlib import Path

import pytest
import yaml

from sst_merge.cli.flags import config_flags, read_config
from sst_merge.errors import ConfigError
from sst_merge.evaluation import ModelSettings
from sst_merge.evaluation.config import EvaluationConfig, JudgeModel, NamedFolder
from sst_merge.suites import expand_suites
from sst_merge.yaml_config import load_yaml_config

REPOSITORY = Path(__file__).parents[2]
FILE = """
base: models/base
adapters:
  - adapters/code
  - merged=out/merged
  - {name: safe, path: adapters/safety}
  - lab:reverse
adapter_folders: [many]
suites: [safety, "mmlu, gsm8k", "own/questions.jsonl:safety"]
judges: rules,incoherence
judge_models: [llama-guard-3=models/guard, wildguard=allenai/wildguard]
driftcheck: prompts.csv
exclude: [merge.yaml, alpaca]
samples: 20
out: results
chat_template: false
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for folder in ("models/base", "models/guard", "adapters/code", "many"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("prompts.csv", "merge.yaml"):
        (tmp_path / file).touch()
    path = tmp_path / "evaluate.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def check(config: EvaluationConfig, folder: Path) -> None:
    assert config.base == str(folder / "models/base")
    assert config.adapters == (
        NamedFolder(path=str(folder / "adapters/code")),
        NamedFolder(name="merged", path=str(folder / "out/merged")),
        NamedFolder(name="safe", path=str(folder / "adapters/safety")),
        NamedFolder(path="lab:reverse"),
    )
    assert config.adapter_folders == (folder / "many",)
    assert config.suites == ("safety", "mmlu", "gsm8k", str(folder / "own/questions.jsonl:safety"))
    assert config.judges == ("rules", "incoherence")
    guard = JudgeModel(name="llama-guard-3", path=str(folder / "models/guard"))
    assert config.judge_models == (guard, JudgeModel(name="wildguard", path="allenai/wildguard"))
    assert config.driftcheck == str(folder / "prompts.csv")
    assert config.exclude == (str(folder / "merge.yaml"), "alpaca")
    assert (config.samples, config.out, config.chat_template, config.seed) == (20, folder / "results", False, 0)


def test_a_file_s_paths_start_at_its_folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    check(load_yaml_config(EvaluationConfig, written), written.parent)


def test_flags_say_the_same_from_the_current_folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written.parent)
    values = {
        "base": "models/base",
        "adapters": ("adapters/code", "merged=out/merged", "safe=adapters/safety", "lab:reverse"),
        "adapter_folders": ("many",),
        "suites": ("safety", "mmlu,gsm8k", "own/questions.jsonl:safety"),
        "judges": ("rules", "incoherence"),
        "judge_models": ("llama-guard-3=models/guard", "wildguard=allenai/wildguard"),
        "driftcheck": "prompts.csv",
        "exclude": ("merge.yaml", "alpaca"),
        "samples": "20",
        "out": "results",
        "chat_template": False,
    }
    check(read_config(EvaluationConfig, None, values), written.parent)


def test_flags_win_over_a_file_elsewhere(written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "models" / "base").mkdir(parents=True)
    monkeypatch.chdir(here)
    values = {"base": "models/base", "adapters": ("other",), "samples": "5", "out": "mine", "suites": ()}
    config = read_config(EvaluationConfig, written, values)
    assert (config.base, config.samples) == (str(here / "models/base"), 5), "not the file's folder of the same name"
    assert config.adapters == (NamedFolder(path=str(here / "other")),) and config.out == here / "mine"
    assert config.adapter_folders == (tmp_path / "many",) and config.suites[0] == "safety"


def test_a_folder_with_an_equals_sign_in_its_name_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank=8").mkdir()
    config = read_config(EvaluationConfig, None, {**NEEDED, "adapters": ("rank=8", "rank=4")})
    assert config.adapters[0] == NamedFolder(path=str(tmp_path / "rank=8"))
    assert config.adapters[1] == NamedFolder(name="rank", path=str(tmp_path / "4"))


NEEDED = {"base": "b", "suites": ("mmlu",), "out": "o"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--base (base): missing; this field is required\n--suite (suites): missing"),
        (
            {**NEEDED, "batch_size": "many"},
            "--batch-size (batch_size): 'many'; expected a number of at least 1, or auto",
        ),
        ({**NEEDED, "samples": "0"}, "--samples (samples): Input should be greater than or equal to 1 (found '0')"),
        ({**NEEDED, "judge_models": ("guard",)}, "--judge-model (judge_models.0.name): missing"),
        ({**NEEDED, "suites": (",",)}, "--suite (suites): Tuple should have at least 1 item"),
        ({**NEEDED, "backend": "vllm", "device_map": "auto"}, "vLLM splits a model by tensor_parallel"),
    ],
)
def test_faults_name_the_flag(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(EvaluationConfig, None, values)
    assert message in str(error.value)


def test_faults_of_a_file_name_file_and_field(tmp_path: Path) -> None:
    path = tmp_path / "evaluate.yaml"
    for text, message in (
        ("base: b\nsuite: [mmlu]\nout: o\n", "suite: unknown field (did you mean 'suites'?)"),
        ("base: b\nsuites: [3]\nout: o\n", "suites.0: Input should be a valid string"),
        ("base: b\nsuites: [mmlu]\nout: o\nadapters: [{path: a, role: x}]\n", "adapters.0.role: unknown field"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            load_yaml_config(EvaluationConfig, path)
        assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_every_field_has_a_flag_and_a_description() -> None:
    flags = {flag.field: flag for flag in config_flags(EvaluationConfig)}
    assert set(flags) == set(EvaluationConfig.model_fields)
    assert all(flag.info.description for flag in flags.values())
    assert len({flag.option for flag in flags.values()}) == len(flags)
    names = "base adapter adapters-dir suite judge judge-model samples attempts reference out cache "
    names += "allow-code-execution backend batch-size dtype device device-map tensor-parallel apply-chat-template "
    names += "max-new-tokens driftcheck exclude seed allow-noop force base-revision trust-remote-code allow-pickle"
    assert {flag.option for flag in flags.values()} == {f"--{name}" for name in names.split()}


def test_a_configuration_is_its_models_settings() -> None:
    config = read_config(EvaluationConfig, None, {**NEEDED, "seed": "3", "batch_size": "4"})
    assert isinstance(config, ModelSettings) and (config.seed, config.batch_size, config.device) == (3, 4, "auto")
    with pytest.raises(ConfigError, match="ModelSettings: batch_size: -1; expected a number of at least 1, or auto"):
        ModelSettings(batch_size=-1)


def test_the_example_in_the_repository_is_one(tmp_path: Path) -> None:
    path = REPOSITORY / "configs" / "evaluate_llama2_7b.yaml"
    config = load_yaml_config(EvaluationConfig, path)
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= config.model_fields_set
    assert [adapter.name for adapter in config.adapters] == ["code", "safety", "merged"]
    assert Path(config.exclude[0]).is_file() and config.out == path.parent / "out" / "evaluation"
    suites, left_out = expand_suites(config.suites)
    assert left_out == [] and {"mmlu", "gsm8k", "xstest_safe"} <= {suite.name for suite in suites}
