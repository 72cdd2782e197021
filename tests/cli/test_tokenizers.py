"""A merge with tokenizers in the adapters' folders: what the data are encoded with, and what the output holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sst_merge.cli.main import cli

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CHATML = (
    "{% for m in messages %}{{ 'user' if m['role'] == 'user' else 'bot' }} {{ m['content'] }} end {% endfor %}"
    "{% if add_generation_prompt %}bot {% endif %}"
)


def tokenizer(folder: Path, template: str | None = None, more: int = 0) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["</s>", "yes", "no", "user", "bot", "end", *(f"q{i}" for i in range(20))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="</s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="</s>")
    fast.add_tokens([f"q{i}" for i in range(20, 20 + more)])
    fast.chat_template = template
    fast.save_pretrained(folder)


@pytest.fixture
def place(build: Any, tmp_path: Path) -> Path:
    build.tiny_model("llama").save_pretrained(tmp_path / "base")
    tokenizer(tmp_path / "base")
    for name, seed in (("one", 1), ("two", 2)):
        build.adapter_folder(build.tiny_model("llama"), tmp_path / name, seed=seed, targets=["q_proj"], r=2)
    for kind, answer in (("harm", "no"), ("benign", "yes")):
        rows = [json.dumps({"prompt": f"q{i} q{i + 1}", "response": answer}) for i in range(8)]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(rows))
    return tmp_path


def regmean(place: Path, *more: object) -> Result:
    flags = ["--adapter", place / "one", "--adapter", place / "two", "--base-model", place / "base", "--force"]
    flags += ["--data-harm-path", place / "harm.jsonl", "--data-benign-path", place / "benign.jsonl"]
    flags += ["--method", "regmean", "--output", place / "out", *more]
    return CliRunner().invoke(cli, ["merge", *map(str, flags)])


def test_the_template_of_the_adapters_is_used_and_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sst_merge.data_loader import encode

    seen: list[str] = []
    inner = encode.pad_rows

    def spy(rows: Any, used: Any, device: Any = None) -> Any:
        seen.append(used.decode(rows[0].ids))
        return inner(rows, used, device)

    monkeypatch.setattr(encode, "pad_rows", spy)
    assert regmean(place).exit_code == 0
    assert seen[0] == "q0 q1 no </s>" and not (place / "out/tokenizer.json").exists()
    for name in ("one", "two"):
        tokenizer(place / name, CHATML)
    seen.clear()
    done = regmean(place)
    assert done.exit_code == 0, done.output
    assert seen[0] == "user q0 q1 end bot no end"
    assert "differs from the base's in chat template" in done.stderr
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (place / "out" / name).read_bytes() == (place / "one" / name).read_bytes()
    # Without data the output gets it as well, and a dry run says the same.
    plain = ["merge", "--adapter", str(place / "one"), "--output", str(place / "plain")]
    assert CliRunner().invoke(cli, plain).exit_code == 0
    assert (place / "plain/chat_template.jinja").read_text() == CHATML
    assert "differs from the base's in chat template" in regmean(place, "--dry-run").stdout
    seen.clear()
    assert regmean(place, "--tokenizer", place / "base").exit_code == 0 and seen[0] == "q0 q1 no </s>"


def test_tokens_that_the_base_does_not_have_are_refused(build: Any, place: Path) -> None:
    for name in ("one", "two"):
        tokenizer(place / name, more=60)
    (place / "harm.jsonl").write_text(json.dumps({"prompt": "q70", "response": "no"}))
    done = regmean(place)
    assert done.exit_code == 2, done.output
    assert f"the base {str(place / 'base')!r} has {build.VOCABULARY} embeddings" in done.stderr
    assert "--tokenizer" in done.stderr
    assert regmean(place, "--tokenizer", place / "base").exit_code == 0


def test_a_tokenizer_that_cannot_be_loaded_gives_way(place: Path) -> None:
    tokenizer(place / "one", CHATML)
    file = place / "one/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["type"] = "OfNextYear"
    file.write_text(json.dumps(content))
    done = regmean(place)
    assert done.exit_code == 0, done.output
    assert "the base's own tokenizer is used for data" in done.stderr
    done = regmean(place, "--tokenizer", place / "one")
    assert done.exit_code == 2 and "Traceback" not in done.output


def test_the_report_says_where_base_and_data_come_from(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return [*({"prompt": f"q{i}", "response": "yes"} for i in range(8)), {"prompt": "q9", "response": None}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    config = {
        "base_model": str(place / "base"),
        "base_revision": "v2",
        "adapters": [{"path": str(place / "one")}, {"path": str(place / "two")}],
        "data": {
            "harm": {"path": str(place / "harm.jsonl")},
            "benign": {"dataset": "org/rows", "revision": "0123abc"},
        },
        "merge": {"method": "regmean"},
        "output": {"path": str(place / "out")},
    }
    (place / "merge.yaml").write_text(json.dumps(config))
    done = CliRunner().invoke(cli, ["merge", str(place / "merge.yaml")])
    assert done.exit_code == 0, done.output
    assert "base_revision 'v2' is not used" in done.stderr
    assert asked == [(("org/rows", None), {"split": "train", "revision": "0123abc"})]
    report = json.loads((place / "out/merge_report.json").read_text())
    skipped = "org/rows[train]: 1 of 9 records are skipped: record 9: field 'response' is empty (null), expected text"
    assert skipped in report["warnings"] and done.stderr.count(skipped) == 1
    found = report["provenance"]
    assert found["base"] == {
        "class": "AutoModelForCausalLM",
        "revision": None,  # a folder has none
        "commit": None,
        "trust_remote_code": False,
        "allow_pickle": False,
    }
    assert found["data"]["benign"]["revision"] == "0123abc" and "harm" not in found["data"]


def test_a_tokenizer_by_name_of_the_hub_is_written_and_recorded(hub: Any, place: Path) -> None:
    tokenizer(place / "chat", CHATML)
    repo = hub.add("org/chat", place / "chat")
    done = regmean(place, "--tokenizer", "org/chat")
    assert done.exit_code == 0, done.output
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (place / "out" / name).read_bytes() == (place / "chat" / name).read_bytes()
    report = json.loads((place / "out/merge_report.json").read_text())
    assert report["provenance"]["tokenizer"] == {"repo": "org/chat", "revision": None, "commit": repo.refs["main"]}
