"""What goes to the hub, seen from a stand-in of its client: one commit, private unless said otherwise."""

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from sst_merge.conversion import planned_upload, upload
from sst_merge.errors import ConversionError


@dataclass
class Hub:
    """Repositories: name → private; and what was committed. Every call must be one that the real client takes."""

    private: dict[str, bool] = field(default_factory=dict)
    commits: list[tuple[str, dict[str, bytes], str]] = field(default_factory=list)
    failure: Exception | None = None

    def repo_info(self, name: str, *, repo_type: str) -> Any:
        signature(HfApi.repo_info).bind(self, name, repo_type=repo_type)
        assert repo_type == "model"
        if name not in self.private:
            # Without __init__, whose response belongs to another HTTP library in each release of the client.
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "none")
        return SimpleNamespace(private=self.private[name])

    def create_repo(self, name: str, *, private: bool, repo_type: str, exist_ok: bool) -> None:
        signature(HfApi.create_repo).bind(self, name, private=private, repo_type=repo_type, exist_ok=exist_ok)
        assert (repo_type, exist_ok, name in self.private) == ("model", False, False)
        self.private[name] = private

    def create_commit(self, name: str, operations: Any, *, commit_message: str, repo_type: str) -> Any:
        options = {"commit_message": commit_message, "repo_type": repo_type}
        signature(HfApi.create_commit).bind(self, name, operations, **options)
        assert repo_type == "model"
        if self.failure is not None:
            raise self.failure
        sent = {}
        for operation in operations:
            with operation.as_file() as stream:
                sent[operation.path_in_repo] = stream.read()
        self.commits.append((name, sent, commit_message))
        return SimpleNamespace(commit_url=f"https://hub/{name}/commit/{len(self.commits)}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_some_token")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "merged"
    (place / "pictures").mkdir(parents=True)
    for name in ("adapter_config.json", "merge_report.json", "merge_report.html", "pictures/front.png"):
        (place / name).write_text(name)
    (place / "README.md").write_text('PeftModel.from_pretrained(base, "PATH_TO_THIS_FOLDER")')
    (place / ".cache").mkdir()
    for name in (".cache/token", "optimizer.pt", "training.bin"):
        (place / name).write_text("secret")
    (tmp_path / "elsewhere.txt").write_text("secret")
    (place / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    return place


def test_everything_in_one_commit_and_private(hub: Hub, folder: Path) -> None:
    plan = planned_upload("user/merged", folder)
    assert [name for name, _ in plan.files] == [
        "README.md",
        "adapter_config.json",
        "merge_report.html",
        "merge_report.json",
        "pictures/front.png",
    ]
    assert plan.left_out == (".cache/token", "link.txt", "optimizer.pt", "training.bin")
    assert plan.size == sum(len((folder / name).read_bytes()) for name, _ in plan.files)
    assert hub.private == {}  # nothing was asked or made so far
    assert upload(plan, message="first") == "https://hub/user/merged/commit/1"
    assert hub.private == {"user/merged": True}
    ((name, sent, message),) = hub.commits
    assert (name, message, set(sent)) == ("user/merged", "first", {name for name, _ in plan.files})
    assert sent["README.md"] == b'PeftModel.from_pretrained(base, "user/merged")'
    assert sent["pictures/front.png"] == b"pictures/front.png"


def test_public_only_where_it_is_said(hub: Hub, folder: Path) -> None:
    upload(planned_upload("user/open", folder, public=True), message="m")
    assert hub.private == {"user/open": False}
    with pytest.raises(ConversionError, match="everybody can see it; nothing was sent"):
        upload(planned_upload("user/open", folder), message="m")
    assert len(hub.commits) == 1
    hub.private["user/closed"] = True
    upload(planned_upload("user/closed", folder, public=True), message="m")
    assert hub.private["user/closed"]  # what is there keeps who may see it


@pytest.mark.parametrize("failure", [OSError("no route"), huggingface_hub.errors.LocalTokenNotFoundError("no token")])
def test_a_hub_that_does_not_take_it(hub: Hub, folder: Path, failure: Exception) -> None:
    hub.failure = failure
    with pytest.raises(ConversionError, match=rf"nothing was sent \({failure}\); expected a token"):
        upload(planned_upload("user/merged", folder), message="m")


@pytest.mark.parametrize("name", ["merged", "a/b/c", "user/", "user/na me", "../up", ""])
def test_names_that_are_no_repository(folder: Path, name: str) -> None:
    with pytest.raises(ConversionError, match="expected a repository of the hub, as user/name"):
        planned_upload(name, folder)


def test_nothing_to_send(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="holds nothing to send"):
        planned_upload("user/merged", tmp_path)
