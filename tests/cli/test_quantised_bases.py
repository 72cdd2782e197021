"""Bases in other forms than plain safetensors on the command line: measured as they are, said, or refused in front."""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LAYERS = {"model.layers.0.self_attn.v_proj": (16, 32), "model.layers.1.mlp.up_proj": (64, 32)}


@pytest.fixture(scope="module")
def place(build: Any, gguf_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file's model once more as plain safetensors, with its tokenizer; two adapters and prompts."""
    from sst_merge.data_loader import load_tokenizer

    root = tmp_path_factory.mktemp("place")
    gguf_model.plain.save_pretrained(root / "plain")
    load_tokenizer(str(gguf_model.file)).save_pretrained(root / "plain")
    for seed, name in enumerate(("code", "safety")):
        ends = [module.rpartition(".")[2] for module in LAYERS]
        build.adapter_folder(gguf_model.plain, root / name, seed=seed, targets=ends, r=2, task_type="CAUSAL_LM")
        file = root / name / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "org/tiny"}))
    for kind, answer in (("harm", "no"), ("benign", "abc")):
        rows = ({"prompt": f"{kind} {i}", "response": answer} for i in range(4))
        (root / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture
def merge(place: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(*more: object, out: str = "out") -> Result:
        words: list[object] = ["merge", "--skill", place / "code", "--safety", place / "safety", "-o", tmp_path / out]
        words += ["--data-harm-path", place / "harm.jsonl", "--data-benign-path", place / "benign.jsonl"]
        return CliRunner().invoke(cli, [str(word) for word in (*words, *more)])

    return run


def test_a_merge_from_a_gguf_base_is_that_of_the_numbers_in_it(
    merge: Any, place: Path, gguf_model: Any, tmp_path: Path
) -> None:
    done = merge("--base", gguf_model.file.parent, "--gguf-file", gguf_model.file.name)
    assert done.exit_code == 0, done.output
    assert "the adapters name 'org/tiny' and say nothing of the form that they were trained on" in done.stderr
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    assert report["method"] == "sst" and report["base_model"] == "org/tiny"
    types = {"F32": 5, "Q4_0": 2, "Q8_0": 14}
    form = {"method": "gguf", "stored": True, "file": gguf_model.file.name, "types": types}
    assert report["provenance"]["base"]["quantization"] == form
    [note] = [one for one in report["warnings"] if "the base is read as GGUF of Q4_0/Q8_0" in one]
    assert note in (tmp_path / "out/README.md").read_text().replace("\\", "")
    plain = merge("--base", place / "plain", out="plain")
    assert plain.exit_code == 0 and "is read as" not in plain.stderr
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "plain")]
    assert files[0] == files[1]


def test_a_dry_run_reads_the_header_alone(merge: Any, gguf_model: Any, monkeypatch: Any) -> None:
    import transformers

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    done = merge("--base", gguf_model.file, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["modules"] == 4 and any("GGUF of Q4_0/Q8_0" in one for one in found["warnings"])
    missing = merge("--base", gguf_model.file.parent, "--dry-run")
    assert missing.exit_code == 2 and "name one with gguf_file (--gguf-file)" in missing.stderr
    unused = merge("--base", gguf_model.file, "--method", "linear", "--dry-run")
    assert unused.exit_code == 0 and "is read as" not in unused.output


def with_config(source: Path, target: Path, **fields: Any) -> Path:
    """The folder of a base without weights, whose configuration says how they are stored."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": fields}))
    return target


@pytest.mark.parametrize(
    ("fields", "package", "command"),
    [
        ({"quant_method": "awq", "bits": 4}, "gptqmodel", "pip install gptqmodel"),
        ({"quant_method": "gptq", "bits": 4}, "optimum", "pip install optimum"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "pip install 'sst-merge[bnb]'"),
        ({"quant_method": "compressed-tensors"}, "compressed_tensors", "pip install compressed-tensors"),
    ],
)
def test_a_missing_package_is_named_before_any_weight_is_looked_for(
    merge: Any, place: Path, tmp_path: Path, fields: Any, package: str, command: str, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("sst_merge.data_loader.quantised.find_spec", lambda name: None if name == package else name)
    base = with_config(place / "plain", tmp_path / "base", **fields)
    done = merge("--base", base, "--dry-run")
    assert done.exit_code == 2 and "Traceback" not in done.output
    said = f"stored as {fields['quant_method']}, which needs the package {package}; run: {command}"
    assert said in " ".join(done.stderr.split())


def test_what_a_quantised_base_cannot_do_is_refused(
    merge: Any, build: Any, place: Path, gguf_model: Any, tmp_path: Path
) -> None:
    stored = with_config(place / "plain", tmp_path / "base", quant_method="bitsandbytes", load_in_4bit=True)
    file = str(gguf_model.file)
    gptq = with_config(place / "plain", tmp_path / "gptq", quant_method="gptq", bits=4)
    for base, more, said in (
        (gptq, ["--quantization", "{quant_method: gptq, bits: 8}"], "gptq, 4 bits (config.json), and quantization"),
        (gptq, ["--quantization", "{quant_method: gptq, bits: 4, backnd: torch}"], "did you mean 'backend'"),
        (
            stored,
            ["--quantization", "{quant_method: hqq}"],
            "bitsandbytes (config.json), and quantization asks for hqq",
        ),
        (stored, ["--quantization", "8bit"], "bitsandbytes, 4 bits (config.json), and quantization asks for"),
        (place / "plain", ["--quantization", "{load_in_4bit: true, bnb_4bit_quant_tipe: nf4}"], "did you mean"),
        (place / "plain", ["--quantization", "5bit"], "quantization"),
        (place / "plain", ["--quantization", "4bit", "--model-dtype", "float64"], "do not compute in float64"),
        (file, ["--quantization", "4bit"], "loaded as it was quantised"),
    ):
        done = merge("--base", base, *more, "--dry-run")
        assert done.exit_code == 2 and said in " ".join(done.stderr.split()), (base, more, done.output)
    done = merge("--quantization", "4bit", "--dry-run")
    assert done.exit_code == 2 and "give base_model (--base) too" in done.stderr
    aligned = ["--method", "safe_lora", "--aligned-base-model", place / "plain"]
    for base in (file, stored):
        done = merge("--base", base, *aligned, "--dry-run")
        assert done.exit_code == 2 and "compares the weights of two bases" in done.stderr, done.output
    words = ["export", place / "code", "--to", "full", "--base", file, "-o", tmp_path / "full"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 2 and "holds codes, to which no ΔW can be added" in done.stderr
    dora = build.adapter_folder(gguf_model.plain, tmp_path / "dora", targets=["v_proj"], r=2, use_dora=True)
    done = merge("--base", file, "--skill", dora, "--dry-run")
    assert done.exit_code == 2 and "its weights themselves are needed here" in done.stderr


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes (sst-merge[bnb]) is not installed")
def test_a_merge_on_four_bits(merge: Any, place: Path, tmp_path: Path) -> None:
    done = merge("--base", place / "plain", "--quantization", "4bit", "--method", "fisher_merging")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    form = report["provenance"]["base"]["quantization"]
    assert (form["method"], form["stored"], form["bnb_4bit_quant_type"]) == ("bitsandbytes", False, "nf4")
    assert any("the base is read as bitsandbytes, 4 bits, nf4, made while loading" in one for one in report["warnings"])
    assert merge("--base", place / "plain", "--method", "fisher_merging", out="plain").exit_code == 0
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "plain")]
    assert files[0] != files[1]
