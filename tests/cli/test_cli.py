"""The command line, on a tiny model, tiny adapters and files on disk."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli
from sst_merge.fim_calculator import Fisher
from sst_merge.lora_utils import Adapter

WORDS = [f"w{i}" for i in range(30)]

CONFIG = """
base_model: base
adapters:
  - {name: code, path: code}
  - {name: safety, path: safety, role: safety}
data:
  harm: {path: harm.jsonl, samples: 16}
  benign: {path: benign.jsonl}
merge: {method: sst, fisher: {structure: kronecker}, mu: 1.0}
output: {path: out/merged, dtype: bfloat16}
"""


@pytest.fixture(scope="module")
def place(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with tokenizer, two adapters and two data sets; read only."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("place")
    build.tiny_model("llama").save_pretrained(root / "base")
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(root / "base")
    for name, seed in (("code", 1), ("safety", 2)):
        targets = build.ARCHITECTURES["llama"].linears
        build.adapter_folder(
            build.tiny_model("llama"), root / name, seed=seed, targets=targets, r=3, task_type="CAUSAL_LM"
        )
    generator = torch.Generator().manual_seed(0)
    for name in ("harm", "benign"):
        drawn = torch.randint(0, len(WORDS), (24, 9), generator=generator).tolist()
        rows = [[WORDS[i] for i in row] for row in drawn]
        lines = [json.dumps({"prompt": " ".join(row[:5]), "response": " ".join(row[5:])}) for row in rows]
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "config.yaml").write_text(CONFIG)
    return root


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


# --- start-up ---------------------------------------------------------------------------------------------------------

HEAVY = "{'torch', 'transformers', 'peft', 'pydantic', 'numpy', 'scipy', 'matplotlib', 'yaml', 'rich'}"


@pytest.mark.parametrize(
    "code",
    [
        "import sst_merge",
        "from sst_merge.cli.main import cli; cli(['--help'], standalone_mode=False)",
        "from sst_merge.cli.main import cli; cli(['--version'], standalone_mode=False)",
    ],
)
def test_start_up_imports_nothing_heavy(code: str) -> None:
    script = f"import sys; {code}; found = {HEAVY} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("command", "flag"), [("merge", "--data-harm-path"), ("inspect", "--convert-lost")])
def test_help_of_commands_that_know_a_merges_configuration_does_not_import_torch(command: str, flag: str) -> None:
    script = f"import sys; from sst_merge.cli.main import cli; cli(['{command}', '--help'], standalone_mode=False)"
    script += "; sys.exit(bool({'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert flag in done.stdout


def test_commands_and_their_help() -> None:
    shown = call("--help")
    assert shown.exit_code == 0
    for name in ("merge", "inspect", "methods", "fisher", "lab", "demo"):
        assert name in shown.stdout
        assert call(name, "--help").exit_code == 0
    assert "no such command 'marge' (did you mean 'merge'?); there are merge" in call("marge").stderr


def test_every_command_with_one_place_to_write_to_takes_o() -> None:
    groups = [cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))]
    commands = [inner for one in groups for inner in (one.commands.values() if isinstance(one, click.Group) else [one])]
    spelled = [[name for option in one.params for name in option.opts] for one in commands if one is not None]
    places = [names for names in spelled if {"--out", "--output"} & set(names)]
    assert len(places) > 8 and all(names.count("-o") == 1 for names in places)


# --- merge ------------------------------------------------------------------------------------------------------------


def test_merge_from_flags_alone(relative_error: Any, place: Path, tmp_path: Path) -> None:
    done = call(
        "merge",
        "--adapter",
        place / "code",
        "--adapter",
        f"name=s,path={place / 'safety'},role=safety,weight=0.5",
        "--set",
        "safety_strength=0.8",
        "--output",
        tmp_path / "out",
        "--compute-dtype",
        "float64",
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert "module names were not checked" in done.stderr
    code, safety, merged = (Adapter.load(p) for p in (place / "code", place / "safety", tmp_path / "out"))
    for module in code.modules:
        expected = code.delta(module, dtype=torch.float64) + 0.4 * safety.delta(module, dtype=torch.float64)
        assert relative_error(merged.delta(module, dtype=torch.float64), expected) <= 1e-12
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "merge_report.html",
        "merge_report.json",
    }


def test_merge_with_data_from_a_file(place: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        done = call("merge", place / "config.yaml", "--output", folder)
        assert done.exit_code == 0, done.output
    for file in folders[0].iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes()
    report = json.loads((folders[0] / "merge_report.json").read_text())
    assert report["method"] == "sst"
    assert report["options"]["fisher"]["structure"] == "kronecker"
    assert report["method_report"]["mu"] == 1.0
    samples = report["method_report"]["samples"]
    assert samples["fisher_harm"] + samples["held_out_harm"] == 16
    assert samples["fisher_benign"] + samples["held_out_benign"] == 24
    assert report["output"]["dtype"] == "bfloat16"
    assert not (place / "out").exists()


def test_a_merge_on_the_shipped_set_says_so_in_report_and_card(place: Path, tmp_path: Path) -> None:
    rows = ("--calibration", "builtin", "--data-harm-samples", 8, "--data-benign-samples", 8)
    adapters = ("--skill", place / "code", "--safety", place / "safety")
    done = call("merge", "--base", place / "base", *adapters, *rows, "--set", "mu=1", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    assert report["method"] == "sst" and report["calibration"]["harm"]["samples"] == 8
    assert report["provenance"]["data"]["benign"]["builtin"] == "benign.jsonl"
    assert len(report["provenance"]["data"]["harm"]["sha256"]) == 64
    said = "calibrated on the small general set that ships with SST-Merge (harm and benign)"
    assert any(warning.startswith(said) for warning in report["warnings"]) and said in done.stderr
    assert said in (tmp_path / "out/README.md").read_text() and said in (tmp_path / "out/merge_report.html").read_text()


def test_dry_run_writes_nothing_and_loads_no_base(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a dry run must neither merge nor load the base")

    monkeypatch.setattr(Adapter, "factors", fail)
    monkeypatch.setattr("sst_merge.cli.inputs.load_model_and_data", fail)
    done = call("merge", place / "config.yaml", "--output", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0, done.output
    for part in ("method   sst", "option   mu = 1.0", "6 modules, rank at most 6", "data.harm: 16 rows", "24 rows"):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_existing_output_needs_force(place: Path, tmp_path: Path) -> None:
    arguments = ("merge", "--adapter", place / "code", "--output", tmp_path / "out")
    assert call(*arguments).exit_code == 0
    before = (tmp_path / "out/adapter_model.safetensors").read_bytes()
    assert "exists already; choose another --output, or replace it with --force" in refused(*arguments)
    assert "exists already" in refused(*arguments, "--dry-run")
    assert call(*arguments, "--force", "--set", "strength=0.5").exit_code == 0
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() != before


def test_errors_are_one_message(place: Path, tmp_path: Path) -> None:
    config, out = place / "config.yaml", tmp_path / "out"
    assert "--method (merge.method): unknown merge method 'ties_' (did you mean 'ties'?); available: " in refused(
        "merge", config, "--method", "ties_"
    )
    assert "--set fisher.block (merge.fisher.block): unknown option 'fisher.block'" in refused(
        "merge", config, "--set", "fisher.block=1"
    )
    assert "--rank (output.rank): " in refused("merge", config, "--rank", "0")
    assert "rank = 99 does not fit" in refused("merge", config, "--rank", "99", "--output", out)
    assert "no_such" in refused("merge", "--adapter", tmp_path / "no_such", "--output", out)
    assert "reads calibration data; give what is missing: " in refused(
        "merge", "--method", "sst", "--adapter", place / "code", "--output", out
    )
    assert "cannot be used here" in refused("merge", config, "--device", "no_such_device", "--output", out)
    harm = refused("merge", config, "--data-harm-path", tmp_path / "gone.jsonl", "--output", out, "--dry-run")
    assert f"--data-harm-path (data.harm.path): {tmp_path / 'gone.jsonl'} does not exist" in harm
    assert list(tmp_path.iterdir()) == []


def test_adapter_that_does_not_fit_the_base_is_refused_in_a_dry_run(build: Any, place: Path, tmp_path: Path) -> None:
    gpt2 = build.adapter_folder(
        build.tiny_model("gpt2"), tmp_path / "gpt2", targets=["c_attn"], r=2, fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    arguments = (
        "merge",
        "--adapter",
        gpt2,
        "--base-model",
        place / "base",
        "--output",
        tmp_path / "out",
        "--dry-run",
        "-q",
    )
    assert "matches no layer of the base model" in refused(*arguments)


def test_debug_shows_the_traceback(place: Path, tmp_path: Path) -> None:
    done = call("--debug", "merge", "--adapter", tmp_path / "gone", "--output", tmp_path / "out")
    assert done.exception is not None
    assert not isinstance(done.exception, SystemExit)


# --- methods, fisher, lab, demo ---------------------------------------------------------------------------------------


def test_methods_lists_every_method() -> None:
    from sst_merge.methods import available_methods

    table = call("methods").stdout
    listed = {item["name"]: item for item in json.loads(call("methods", "--json").stdout)}
    assert set(listed) == set(available_methods())
    for name, method in available_methods().items():
        assert name in table
        assert {option.partition(".")[0] for option in listed[name]["options"]} == set(method.options.model_fields)
        assert method.knob in listed[name]["options"]
    assert "safety_strength" in call("methods", "task_arithmetic").stdout
    assert "unknown merge method 'x'" in refused("methods", "x")


def collected(place: Path, out: Path, *more: object) -> Path:
    done = call("fisher", "collect", place / "config.yaml", "--out", out, *more)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(out)
    return out


def test_fisher_of_two_halves_adds_up_to_one_run(relative_error: Any, place: Path, tmp_path: Path) -> None:
    lines = (place / "harm.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("all", lines), ("a", lines[:10]), ("b", lines[10:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
        rows = ("--data-harm-path", tmp_path / f"{name}.jsonl", "--data-harm-samples", len(part))
        whole = ("--set", "calibration_holdout=0")
        collected(place, tmp_path / f"{name}.safetensors", "--kind", "harm", *rows, *whole)
    parts = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    added = call("fisher", "add", *parts, "--out", tmp_path / "sum.safetensors", "--json")
    assert added.exit_code == 0 and json.loads(added.stdout)["samples"] == 24
    one, summed = Fisher.load(tmp_path / "all.safetensors"), Fisher.load(tmp_path / "sum.safetensors")
    assert one.structure == summed.structure == "kronecker"
    assert one.samples == summed.samples == 24
    for module, layer in one.layers.items():
        assert relative_error(summed.layers[module].dense(), layer.dense()) <= 1e-5
    assert "exists already" in refused("fisher", "add", *parts, "--out", tmp_path / "sum.safetensors")
    assert "cannot be read as Fisher statistics" in refused(
        "fisher", "add", place / "config.yaml", "--out", tmp_path / "x.safetensors"
    )


def test_a_merge_from_saved_fishers_is_the_merge_that_collects_them(place: Path, tmp_path: Path) -> None:
    """Collected with the model; merged from a folder of its own, with neither model nor data."""
    files = {kind: collected(place, tmp_path / f"{kind}.safetensors", "--kind", kind) for kind in ("harm", "benign")}
    assert Fisher.load(files["harm"]).settings["share"] == Fisher.load(files["benign"]).settings["share"]
    (tmp_path / "merge.yaml").write_text(
        f"adapters:\n  - {{name: code, path: {place / 'code'}}}\n"
        f"  - {{name: safety, path: {place / 'safety'}, role: safety}}\n"
        "merge: {method: sst, fisher: {harm: harm.safetensors, benign: benign.safetensors}}\n"
        "output: {path: out}\n"
    )
    for mu in ("0.1", "1.0"):
        one, two = tmp_path / f"whole{mu}", tmp_path / f"saved{mu}"
        chosen = ("--set", f"mu={mu}", "--set", "inputs=core")
        assert call("merge", place / "config.yaml", *chosen, "--output", one).exit_code == 0
        done = call("merge", tmp_path / "merge.yaml", "--set", f"mu={mu}", "--output", two, "--dtype", "bfloat16")
        assert done.exit_code == 0, done.output
        assert "no held-out quotients" in done.stderr
        assert (one / "adapter_model.safetensors").read_bytes() == (two / "adapter_model.safetensors").read_bytes()
        report = json.loads((two / "merge_report.json").read_text())["method_report"]
        assert report["samples"] == {"fisher_harm": 12, "fisher_benign": 18, "held_out_harm": 0, "held_out_benign": 0}
        assert len(report["saved_fishers"]["harm"]["sha256"]) == 64


def test_files_of_fishers_are_found_where_flags_and_files_say(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the folder of the YAML file, those of --set at the current one."""
    collected(place, tmp_path / "harm.safetensors", "--kind", "harm", "--point", "merged")
    collected(place, tmp_path / "benign.safetensors", "--kind", "benign", "--point", "merged")
    monkeypatch.chdir(tmp_path)
    files = ("--set", "fisher.harm=harm.safetensors", "--set", "fisher.benign=benign.safetensors")
    done = call("merge", place / "config.yaml", *files, "--set", "fisher.point=merged", "--output", "out")
    assert done.exit_code == 0, done.output
    other = refused("merge", place / "config.yaml", *files, "--output", "other")
    assert "fisher.point is 'trust' in this merge" in other
    assert f"found {tmp_path / 'harm.safetensors'} at merged; " in other
    other = refused("merge", place / "config.yaml", *files, "--set", "fisher.point=own", "--output", "other")
    assert "harm.safetensors: these statistics do not belong to this merge: point is 'merged' in the file" in other
    adapters = ("--adapter", place / "code", "--adapter", f"path={place / 'safety'},role=safety")
    text = refused("merge", *adapters, "--method", "sst", *files, "--output", "other")
    assert "reads calibration data; give what is missing: " in text
    assert "tax_budget (0.02) chooses mu on held-out prompts: give mu" in text


def test_fisher_collect_refuses_what_cannot_be_collected(place: Path, tmp_path: Path) -> None:
    arguments = ("fisher", "collect", place / "config.yaml", "--out", tmp_path / "f.safetensors")
    assert "option 'fisher.point' = 'top'" in refused(*arguments, "--kind", "harm", "--set", "fisher.point=top")
    assert "give either --kind harm" in refused(*arguments)
    assert "give either --kind harm" in refused(*arguments, "--kind", "harm", "--skill", "code")
    assert "no utility adapter of that name with a `data:` section" in refused(*arguments, "--skill", "code")
    assert "'ties' reads no saved Fishers" in refused(*arguments, "--kind", "harm", "--method", "ties")
    assert "ends in .safetensors" in refused(*arguments[:-1], tmp_path / "f.bin", "--kind", "harm")
    adapters = ("--adapter", place / "code", "--adapter", f"path={place / 'safety'},role=safety")
    harm_alone = ("--base-model", place / "base", "--data-harm-path", place / "harm.jsonl")
    no_benign = ("fisher", "collect", *adapters, *harm_alone)
    assert "data.benign: missing; the point 'trust'" in refused(
        *no_benign, "--kind", "harm", "--out", tmp_path / "f.safetensors"
    )
    done = call(*no_benign, "--kind", "harm", "--point", "merged", "--out", tmp_path / "f.safetensors")
    assert done.exit_code == 0, done.output


def test_fisher_collect_needs_the_data_it_is_asked_for(place: Path, tmp_path: Path) -> None:
    arguments = ("fisher", "collect", "--adapter", place / "code", "--base-model", place / "base")
    assert "data.benign: missing" in refused(*arguments, "--kind", "benign", "--out", tmp_path / "f.safetensors")


def test_lab_build_hands_its_flags_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("sst_merge.worlds.lab.build_lab", lambda *a, **k: calls.append((*a, k)))
    done = call("lab", "build", "--seed", 3, "--out", tmp_path / "lab", "--adapter-seeds", 2)
    assert done.exit_code == 0, done.output
    assert calls == [(3, tmp_path / "lab", {"adapter_seeds": 2})]
    assert "no adapter 'nonsense'" in refused("lab", "path", "nonsense")


def test_demo_hands_its_flags_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    module = ModuleType("sst_merge.experiments.demo")
    module.run_demo = lambda *a, **k: calls.append((*a, k))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sst_merge.experiments.demo", module)
    assert call("demo", "--out", tmp_path, "--seed", 2, "--quick").exit_code == 0
    assert call("demo", "--out", tmp_path, "--quiet").exit_code == 0
    assert calls == [(tmp_path, 2, True, {"bars": True}), (tmp_path, 0, False, {"bars": False})]


# --- what it will need ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["merge", "fisher"])
def test_a_dry_run_estimates_the_passes_and_refuses_what_cannot_fit(command: str, place: Path, tmp_path: Path) -> None:
    words: list[object] = ["merge", place / "config.yaml", "--output", tmp_path / "out"]
    if command == "fisher":
        words = ["fisher", "collect", place / "config.yaml", "--kind", "harm", "--out", tmp_path / "harm.safetensors"]
    done = call(*words, "--dry-run", "--memory", "64GiB", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [one["name"] for one in found["passes"]]
    assert "Fisher of harmful prompts" in names
    # The skill's side: one Fisher of its own, at its own point.
    assert ("Fisher of adapter code" in names) == (command == "merge")
    assert found["pass_memory"]["available_bytes"] == 64 << 30
    assert found["pass_memory"]["bytes"] == sum(found["pass_memory"]["parts"].values())
    message = refused(*words, "--dry-run", "--memory", "10MiB")
    assert "needs about" in message
    assert "10.0 MiB are there" in message
    assert "--method task_arithmetic" in message
    assert list(tmp_path.iterdir()) == []
