"""The tokenizer in an adapter's folder: found, compared with the others, used and written."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sst_merge.data_loader import choose_tokenizer
from sst_merge.data_loader.own_tokenizer import TokenizerFolder
from sst_merge.errors import BaseModelError

CHATML = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def saved(folder: Path, *, more: tuple[str, ...] = (), template: Any = None, eos: str = "<eos>") -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<eos>": 0, "<end>": 1, "you": 2, "fine": 3}, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, unk_token="<eos>")
    tokenizer.add_tokens(list(more))
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", [None, CHATML, {"default": CHATML, "tool_use": "tools"}])
def test_a_folder_is_read_as_transformers_reads_it(template: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = saved(tmp_path / "one", more=("<|im_end|>",), template=template)
    found, real = TokenizerFolder.read(folder), AutoTokenizer.from_pretrained(folder)
    assert found is not None and found.tokens == real.get_vocab()
    expected = template if isinstance(template, dict) else {} if template is None else {"default": template}
    assert found.templates == expected and found.ends == {"eos_token": "<eos>"}
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert set(found.files) == files


def test_what_differs_is_named(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    for name, change, expected in (
        ("same", {}, ""),
        ("chat", {"template": CHATML}, "chat template"),
        ("grown", {"more": ("<a>", "<b>")}, "vocabulary (6 and 4 tokens, 2 not the same)"),
        ("end", {"eos": "<end>"}, "eos_token"),
    ):
        folder = saved(tmp_path / name, **change)
        choice = choose_tokenizer({"one": folder, "none": tmp_path}, base=str(base), given=None)
        assert choice.reference == str(folder) and {"tokenizer.json", "tokenizer_config.json"} <= set(choice.files)
        assert [expected in warning for warning in choice.warnings] == ([True] if expected else [])


def test_adapters_that_disagree_leave_it_to_the_base_or_the_user(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", template=CHATML), saved(tmp_path / "two")
    folders = {"one": one, "two": two}
    choice = choose_tokenizer(folders, base=None, given=None)
    assert choice.reference is None and not choice.files
    assert "'one' and 'two' bring tokenizers that differ in chat template" in choice.warnings[0]
    assert choose_tokenizer(folders, base=None, given=str(two)).reference == str(two)
    with pytest.raises(BaseModelError, match="holds no tokenizer"):
        choose_tokenizer(folders, base=None, given=str(tmp_path))


def test_a_chat_template_alone_goes_with_the_tokenizer_of_the_base(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "tokenizer_config.json").write_text("{}")
    choice = choose_tokenizer({"one": folder}, base=str(saved(tmp_path / "base")), given=None)
    assert choice.reference is None and choice.templates == {"default": CHATML}
    assert (
        list(choice.files) == ["chat_template.jinja"]
        and "differs from the base's in chat template" in choice.warnings[0]
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "x"}]})),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", json.dumps({"model": {"vocab": 3}})),
        ("tokenizer.json", "[" * 100_000),
    ],
)
def test_a_damaged_tokenizer_is_said_and_not_used(file: str, text: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "one")
    (folder / file).write_text(text)
    choice = choose_tokenizer({"one": folder}, base=None, given=None)
    assert choice.reference is None and not choice.files and "cannot be read" in choice.warnings[0]


def test_a_tokenizer_by_name_of_the_hub_is_fetched(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.add("org/chat", saved(tmp_path / "chat", template={"default": CHATML, "tool_use": "tools"}))
    (tmp_path / "all" / "deep").mkdir(parents=True)
    saved(tmp_path / "all" / "deep" / "tok")
    (tmp_path / "all" / "model.safetensors").write_bytes(b"x" * 9)
    whole = hub.add("org/all", tmp_path / "all")
    whole.refs["v1"] = whole.refs["main"]
    choice = choose_tokenizer({}, base=None, given="org/chat")
    assert choice.reference == "org/chat" and not choice.warnings
    assert choice.origin is not None and choice.origin.commit == repo.refs["main"]
    assert {name: file.read_bytes() for name, file in choice.files.items()} == next(iter(repo.commits.values()))
    inner = choose_tokenizer({}, base=None, given="org/all@v1/deep/tok")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(inner.files) and inner.origin is not None
    assert (inner.origin.revision, inner.origin.subfolder) == ("v1", "deep/tok")
    assert "model.safetensors" not in hub.sent()
    # What was fetched answers where the hub does not.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert choose_tokenizer({}, base=None, given="org/chat").files == choice.files


def test_a_tokenizer_by_name_that_cannot_be_had(hub: Any, tmp_path: Path) -> None:
    hub.add("org/closed", saved(tmp_path / "closed"), gated="nobody")
    hub.add("org/code", {"qwen.tiktoken": b"x", "tokenizer_config.json": b"{}"})
    for given, said in (
        ("org/closed", "tokenizer 'org/closed': there is no such folder here, and on the hub: org/closed is gated"),
        ("org/chta", "and on the hub: there is no model repository org/chta"),
        ("./org/chat", "no such folder here, and it is no name of the hub"),
    ):
        with pytest.raises(BaseModelError, match=said):
            choose_tokenizer({}, base=None, given=given)
    choice = choose_tokenizer({}, base=None, given="org/code")
    assert choice.reference == "org/code" and not choice.files
    assert "tokenizer 'org/code': there is none of tokenizer.json" in choice.warnings[0]
