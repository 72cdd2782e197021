"""An adapter by a name of the hub is the one that was published there; whatever is in the way is said as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sst_merge.data_loader.hub import HubOrigin
from sst_merge.errors import AdapterError
from sst_merge.lora_utils import Adapter

Files = dict[str, bytes]
SHAPES = {"m.q": (300, 290), "m.v": (310, 290)}  # 300 kB, more than what is read for a header
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def code(build: Any) -> Adapter:
    return build.random_adapter(SHAPES, name="code", rank=64, dtype=torch.float32)


@pytest.fixture(scope="module")
def files(code: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = code.save(tmp_path_factory.mktemp("published") / "code")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def below(place: str, files: Files) -> Files:
    return {f"{place}/{name}": data for name, data in files.items()}


def same(found: Adapter, expected: Adapter) -> bool:
    return all(torch.equal(found.delta(module), expected.delta(module)) for module in expected.modules)


def test_a_public_adapter(hub: Any, code: Adapter, files: Files) -> None:
    more = {"tokenizer_config.json": b"{}", "optimizer.bin": b"x" * 50, "runs/events": b"x" * 60, "README.md": b"x"}
    repo = hub.add("user/code", files | more)
    found = Adapter.load("user/code")
    assert found.name == "code" and same(found, code) and found.is_fetched
    assert found.origin == HubOrigin("user/code", None, repo.refs["main"])
    assert found.path is not None and found.path.name == repo.refs["main"]
    # Nothing is fetched that is not read, and nothing twice.
    assert hub.sent() == {
        name: len((files | more)[name]) for name in ("adapter_config.json", WEIGHTS, "tokenizer_config.json")
    }
    hub.asked.clear()
    assert same(Adapter.load("user/code"), code) and hub.sent() == {}


def test_headers_alone(hub: Any, files: Files, code: Adapter) -> None:
    hub.add("user/code", files)
    found = Adapter.load("user/code", headers_only=True)
    assert (found.modules, found.shape("m.v"), found.rank("m.v")) == (code.modules, (310, 290), 64)
    assert hub.sent()[WEIGHTS] == 100_001 < len(files[WEIGHTS]) and not found.is_fetched
    with pytest.raises(AdapterError, match=r"user/code: the values of module 'm.q' are on the hub.*headers_only"):
        found.delta("m.q")
    with pytest.raises(AdapterError, match="only the header was read"):
        found.check_values()
    Adapter.load("user/code")
    hub.asked.clear()
    again = Adapter.load("user/code", headers_only=True)
    assert again.is_fetched and same(again, code) and hub.sent() == {}  # weights in the cache are used


def test_whole_weights_are_fetched_even_for_headers(hub: Any, code: Adapter, tmp_path: Path) -> None:
    folder = code.save(tmp_path / "a")
    tensors = load_file(folder / WEIGHTS)
    head = torch.arange(12.0).reshape(3, 4)
    save_file({**tensors, "base_model.model.lm_head.weight": head}, folder / WEIGHTS)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["lm_head"]}))
    hub.add("user/head", folder)
    assert not Adapter.load("user/head", headers_only=True, drop_modules_to_save=True).is_fetched
    found = Adapter.load("user/head", headers_only=True)
    assert found.is_fetched and torch.equal(found.whole["lm_head.weight"].tensor(), head)


def test_revisions(hub: Any, build: Any, code: Adapter, files: Files, tmp_path: Path) -> None:
    repo = hub.add("user/code", files)
    first = repo.refs["main"]
    other = build.random_adapter(SHAPES, name="x", rank=2, seed=5, dtype=torch.float32)
    folder = other.save(tmp_path / "new")
    second = repo.commit({file.name: file.read_bytes() for file in folder.iterdir()})
    repo.refs["v1"] = repo.refs["refs/pr/7"] = first
    assert Adapter.load("user/code").origin == HubOrigin("user/code", None, second)
    for revision in (first, "v1", "refs/pr/7"):
        found = Adapter.load(f"user/code@{revision}")
        assert found.origin == HubOrigin("user/code", revision, first) and same(found, code)
    with pytest.raises(
        AdapterError,
        match=r"user/code@v9: no such folder here, and on the hub: user/code has "
        r"no revision 'v9'",
    ):
        Adapter.load("user/code@v9")


def test_folders_inside(hub: Any, code: Adapter, files: Files) -> None:
    repo = hub.add("user/both", below("code/final", files) | below("maths", files))
    commit = repo.refs["main"]
    found = Adapter.load("user/both/maths")
    assert (found.name, found.origin) == ("maths", HubOrigin("user/both", None, commit, "maths"))
    repo.refs["v1"] = commit
    for name in ("user/both@v1/code/final", "user/both/code/final@v1"):
        assert Adapter.load(name).origin == HubOrigin("user/both", "v1", commit, "code/final")
    taken = Adapter.load("user/both/code")
    assert taken.name == "code" and same(taken, code)
    assert taken.notes == ("user/both/code holds no adapter of its own; the only one below it, final, is taken",)
    with pytest.raises(
        AdapterError, match=r"2 adapters below it: maths, code/final; give .* as user/both@v1/code/final"
    ):
        Adapter.load("user/both@v1")
    with pytest.raises(AdapterError, match=r"the folder 'nothing' of user/both at commit .* it holds nothing"):
        Adapter.load("user/both/nothing")


@pytest.mark.parametrize(
    ("drop", "more", "message"),
    [
        ("adapter_config.json", {}, r"has no adapter_config.json; it holds adapter_model.safetensors"),
        (WEIGHTS, {}, r"user/code at commit \w+: no adapter_model.safetensors; expected"),
        (WEIGHTS, {"adapter_model.bin": b"x"}, r"found adapter_model.bin .* a pickle can run code"),
        (WEIGHTS, {"adapter_model-00001-of-00002.safetensors": b"x"}, "weights are in shards"),
    ],
)
def test_missing_files(hub: Any, files: Files, drop: str, more: Files, message: str) -> None:
    hub.add("user/code", {name: data for name, data in files.items() if name != drop} | more)
    for headers_only in (False, True):
        with pytest.raises(AdapterError, match=message):
            Adapter.load("user/code", headers_only=headers_only)
    assert hub.sent() == {}


def test_missing_repository(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"adapters/cod: no such folder here, and on the hub: there is no model repository adapters/cod"
    with pytest.raises(
        AdapterError, match=f"{message}, or it is private; check the name, and for a private one set HF_TOKEN"
    ):
        Adapter.load("adapters/cod")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(AdapterError, match=f"{message}.* whether the account whose token is set here may read it"):
        Adapter.load("adapters/cod")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters/code").mkdir(parents=True)
    with pytest.raises(AdapterError, match=r"no such folder here \(did you mean 'code'\?\), and on the hub: "):
        Adapter.load("adapters/cod")
    with pytest.raises(AdapterError, match=r"/cod: no such folder \(did you mean 'code'\?\); expected a PEFT"):
        Adapter.load(tmp_path / "adapters/cod")


@pytest.mark.parametrize("headers_only", [False, True])
def test_gated_and_private(hub: Any, files: Files, monkeypatch: pytest.MonkeyPatch, headers_only: bool) -> None:
    hub.add("user/gated", files, gated="token")
    hub.add("user/closed", files, gated="nobody")
    hub.add("user/private", files, private=True)
    licence = rf"is gated: accept its licence at {hub.url}/user/%s, and set HF_TOKEN to a token of the account that did"
    for name in ("gated", "closed"):
        with pytest.raises(AdapterError, match=f"user/{name}: no such folder .*{licence % name}"):
            Adapter.load(f"user/{name}", headers_only=headers_only)
    with pytest.raises(AdapterError, match="or it is private"):
        Adapter.load("user/private", headers_only=headers_only)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    for name in ("gated", "private"):
        assert Adapter.load(f"user/{name}", headers_only=headers_only).modules == ("m.q", "m.v")
    with pytest.raises(AdapterError, match=licence % "closed"):
        Adapter.load("user/closed", headers_only=headers_only)


def test_offline(hub: Any, code: Adapter, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.add("user/code", files)
    commit = repo.refs["main"]
    Adapter.load("user/code")
    hub.add("user/part", files)
    Adapter.load("user/part", headers_only=True)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = Adapter.load("user/code")
    assert same(found, code) and found.origin == HubOrigin("user/code", None, commit)
    assert same(Adapter.load(f"user/code@{commit}"), code)
    cold = r"is not in the cache \(.*hub-cache\), and HF_HUB_OFFLINE forbids to fetch it"
    for name in ("user/other", "user/code@v1"):
        with pytest.raises(AdapterError, match=f"{name}: no such folder .*and on the hub: {name} {cold}"):
            Adapter.load(name)
    for headers_only in (False, True):
        with pytest.raises(AdapterError, match=r"user/part: .*: adapter_model.safetensors of user/part is not in"):
            Adapter.load("user/part", headers_only=headers_only)
    assert hub.asked == []


def test_a_hub_that_is_down(hub: Any, code: Adapter, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/code", files)
    Adapter.load("user/code")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    assert same(Adapter.load("user/code"), code)
    with pytest.raises(
        AdapterError, match=r"http://127.0.0.1:9 cannot be reached .* and user/other is not in the cache"
    ):
        Adapter.load("user/other")


def test_a_connection_that_is_lost_half_way_is_resumed(
    hub: Any, code: Adapter, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add("user/code", files)
    hub.cuts[WEIGHTS] = half = 150_000
    found = Adapter.load("user/code")
    assert same(found, code)
    assert found.path is not None and (found.path / WEIGHTS).read_bytes() == files[WEIGHTS]
    ranges = [item.range for item in hub.asked if "/cdn/" in item.path and item.method == "GET"]
    assert ranges == [None, f"bytes={half}-"] and hub.sent()[WEIGHTS] == len(files[WEIGHTS])


def test_a_path_that_is_there_wins(
    hub: Any, build: Any, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("user/code", files)
    monkeypatch.chdir(tmp_path)
    other = build.random_adapter({"m.q": (4, 6)}, name="x")
    other.save("user/code")
    assert Adapter.load("user/code").modules == ("m.q",) and hub.asked == []


@pytest.mark.parametrize(
    "path",
    [
        Path("user/code"),
        "./user/code",
        "../user/code",
        "/user/code",
        "~/user/code",
        "user",
        "a/b/c/d/e/f/g",
        "user\\code",
        "user/code/",
    ],
)
def test_what_reads_like_a_path_is_never_asked_of_the_hub(
    hub: Any, files: Files, path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("user/code", files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match="no such folder; expected a PEFT adapter folder"):
        Adapter.load(path)
    assert hub.asked == []


def test_folders_of_the_cache(hub: Any, code: Adapter, files: Files, tmp_path: Path) -> None:
    repo = hub.add("user/code", below("checkpoint-10", files))
    first = repo.refs["main"]
    Adapter.load("user/code")
    cache = tmp_path / "hub-cache" / "models--user--code"
    for place in (cache, cache / "snapshots" / first, cache / "snapshots" / first / "checkpoint-10"):
        found = Adapter.load(place)
        assert same(found, code) and found.name in {"code", "checkpoint-10"}
        assert found.origin == HubOrigin("user/code", None, first, "checkpoint-10")
        assert found.path is not None and (found.path / WEIGHTS).is_symlink()
    repo.commit(below("checkpoint-20", files))
    Adapter.load("user/code")
    assert Adapter.load(cache).origin == HubOrigin("user/code", None, repo.refs["main"], "checkpoint-20")


def test_the_only_adapter_below_a_folder(code: Adapter, tmp_path: Path) -> None:
    code.save(tmp_path / "run" / "checkpoint-10")
    found = Adapter.load(tmp_path / "run")
    assert same(found, code) and found.name == "run"
    assert found.notes == (
        f"{tmp_path / 'run'} holds no adapter of its own; the only one below it, checkpoint-10, is taken",
    )
