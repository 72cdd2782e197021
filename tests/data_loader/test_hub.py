"""Bases and data sets by names of the hub: what is asked, what is fetched, and what is said where it does not work."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from sst_merge.data_loader import BaseAccess, DataSource, base_folder, check_weights, load_base_model, read_rows
from sst_merge.data_loader.hub import short_name
from sst_merge.data_loader.model_class import read_base_config
from sst_merge.errors import BaseModelError, ConfigError, DataError
from sst_merge.hub_names import HubName

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "repo", "revision", "subfolder"),
    [
        ("user/name", "user/name", None, ""),
        ("user/name@v1", "user/name", "v1", ""),
        ("user/name/a", "user/name", None, "a"),
        ("user/name/a/b/c/d", "user/name", None, "a/b/c/d"),
        ("user/name@v1/a/b", "user/name", "v1", "a/b"),
        ("user/name/a/b@v1", "user/name", "v1", "a/b"),
        ("user/name@refs/pr/7", "user/name", "refs/pr/7", ""),
        ("user/name@refs/pr/7/a", "user/name", "refs/pr/7", "a"),
        ("user/name/a@feature/x", "user/name", "feature/x", "a"),
        (f"user/name@{COMMIT}", "user/name", COMMIT, ""),
        ("U-1/n.a_m-e", "U-1/n.a_m-e", None, ""),
    ],
)
def test_names(text: str, repo: str, revision: str | None, subfolder: str) -> None:
    name = HubName.parse(text)
    assert name == HubName(repo, revision, subfolder)
    assert HubName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "name", "./user/name", "../user/name", "/user/name", "~/name", "user\\name", "user/name/", "user//name"),
        *("a/b/../c", "a/b/c/d/e/f/g", "user/na--me", "user/name.git", "C:/name", "user/name@", "user/name@a b"),
        *("user/name@v/", "é/name", "a/b\n"),
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert HubName.parse(text) is None


def test_names_without_a_user_are_for_bases_alone() -> None:
    assert HubName.parse("gpt2", single=True) == HubName("gpt2")
    assert HubName.parse("gpt2@v1", single=True) == HubName("gpt2", "v1")
    assert HubName.parse("gpt2") is None


def test_short_names(tmp_path: Path) -> None:
    (tmp_path / "models--user--code" / "snapshots" / "abc" / "final").mkdir(parents=True)
    cache = tmp_path / "models--user--code"
    assert [short_name(name) for name in ("user/code@v1", "user/both/maths", tmp_path)] == [
        "code",
        "maths",
        tmp_path.name,
    ]
    assert [short_name(path) for path in (cache, cache / "snapshots/abc", cache / "snapshots/abc/final")] == [
        "code",
        "code",
        "final",
    ]


def test_keywords_of_transformers() -> None:
    access = BaseAccess()
    assert (access.repo("user/b@v1/sub"), access.of("user/b@v1/sub")) == (
        "user/b",
        {"trust_remote_code": False, "revision": "v1", "subfolder": "sub"},
    )
    assert replace(access, revision="v1").of("user/b@v1")["revision"] == "v1"
    with pytest.raises(
        ConfigError, match="base 'user/b@v1' is given with revision 'v1' and base_revision 'v2'; give one"
    ):
        replace(access, revision="v2").of("user/b@v1")


@pytest.fixture(scope="module")
def model(build: Any) -> Any:
    return build.tiny_model("llama")


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_base_on_the_hub(hub: Any, model: Any, files: dict[str, bytes]) -> None:
    repo = hub.add("user/base", files | {"pytorch_model.bin": b"x" * 9, "logs/a.json": b"{}"})
    repo.refs["v1"] = repo.refs["main"]
    repo.commit({"README.md": b"nothing"})
    assert read_base_config("user/base@v1").hidden_size == model.config.hidden_size
    check_weights("user/base@v1")
    assert set(hub.sent()) == {"config.json"}
    folder = base_folder("user/base@v1")
    assert set(hub.sent()) == {"config.json", "generation_config.json", "model.safetensors"}
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    loaded = load_base_model("user/base@v1", modules=["model.layers.0.self_attn.q_proj"])
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in loaded.named_parameters())


def test_a_base_in_a_folder_and_in_shards(hub: Any, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "repo" / "inner", max_shard_size="4KB")
    hub.add("user/all", tmp_path / "repo")
    loaded = load_base_model("user/all/inner")
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in loaded.named_parameters())
    folder = base_folder("user/all/inner")
    assert {file.name for file in folder.iterdir()} == {file.name for file in (tmp_path / "repo" / "inner").iterdir()}


def test_pickles_on_the_hub(hub: Any, files: dict[str, bytes]) -> None:
    hub.add("user/old", {"config.json": files["config.json"], "pytorch_model.bin": b"x" * 9})
    with pytest.raises(
        BaseModelError, match=r"base model 'user/old': found pytorch_model.bin but no safetensors.*--allow-pickle"
    ):
        check_weights("user/old")
    with pytest.raises(
        BaseModelError, match=r"neither model.safetensors nor shards of it, and pickles .*--allow-pickle"
    ):
        base_folder("user/old")
    assert hub.sent() == {}
    check_weights("user/old", BaseAccess(allow_pickle=True))
    assert (base_folder("user/old", BaseAccess(allow_pickle=True)) / "pytorch_model.bin").read_bytes() == b"x" * 9


def test_the_model_of_a_judge(hub: Any, files: dict[str, bytes]) -> None:
    from sst_merge.judges import JudgeSettings
    from sst_merge.judges._loading import LazyModel

    hub.add("org/guard", files, gated="token")
    settings = JudgeSettings(device="cpu", dtype="float32", model=None)
    for model, said in (("org/guard@v3", "has no revision 'v3'"), ("org/gone", "no model repository org/gone")):
        with pytest.raises(
            DataError, match=f"judge {model} cannot be loaded: .*{said}.*; ask for it, or give a folder"
        ):
            LazyModel(model, "AutoModelForCausalLM", settings, licence="ask for it").load()


def test_bases_that_cannot_be_read(hub: Any, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/gated", files, gated="token")
    for name, said in (
        ("user/none", r"no such folder here, and on the hub: there is no model repository user/none"),
        (
            "user/gated",
            rf"and on the hub: user/gated is gated: accept its licence at {hub.url}/user/gated, and set HF_TOKEN",
        ),
        ("user/gated@v9", "and on the hub: user/gated has no revision 'v9'"),
        ("./user/gated", r"no such folder, and it is no name of the hub"),
    ):
        with pytest.raises(
            BaseModelError, match=rf"base model '{name}': no usable configuration, for there is {said}|{said}"
        ):
            read_base_config(name)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert read_base_config("user/gated").model_type == "llama"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_base_config("user/gated").model_type == "llama"
    with pytest.raises(BaseModelError, match=r"model.safetensors of user/gated is not in the cache .*HF_HUB_OFFLINE"):
        base_folder("user/gated")


def test_a_data_set_on_the_hub(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "sets")

    def lines(answer: str) -> bytes:
        return b"".join(json.dumps({"prompt": f"q{i}", "response": answer}).encode() + b"\n" for i in range(3))

    repo = hub.add("user/rows", {"train.jsonl": lines("old"), "other/test.jsonl": lines("other")}, kind="datasets")
    repo.refs["v1"] = repo.refs["main"]
    repo.commit({"train.jsonl": lines("new")})
    read = [read_rows(DataSource(dataset=name)).rows[0].response for name in ("user/rows", "user/rows@v1")]
    assert read == ["new", "old"]
    assert read_rows(DataSource(dataset="user/rows", revision="v1")).rows[0].response == "old"
    assert read_rows(DataSource(dataset="user/rows@v1/other", split="test")).rows[0].response == "other"
    hub.add("user/closed", {"train.jsonl": lines("x")}, kind="datasets", gated="token")
    for name, said in (
        (
            "user/none",
            "data set user/none: no such folder here, and on the hub: there is no dataset repository user/none",
        ),
        ("user/rows@v9", "user/rows has no revision 'v9'"),
        ("user/closed", f"user/closed is gated: accept its licence at {hub.url}/datasets/user/closed"),
    ):
        with pytest.raises(DataError, match=said):
            read_rows(DataSource(dataset=name))
