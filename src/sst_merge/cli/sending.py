"""A folder onto the hub, told file by file before and after."""

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .console import print_table, say, warn

__all__ = ["check_is_export", "send"]


def check_is_export(folder: Path) -> None:
    """Refuse to send what is no adapter of one's own, such as a home folder.

    Raises:
        ConfigError: it holds no adapter, no export and no model.
    """
    known = ("adapter_config.json", "export_report.json", "config.json")
    if not any((folder / name).is_file() for name in known):
        raise ConfigError(f"--push: {folder} holds none of {', '.join(known)}; expected an adapter or an export")


def send(repository: str, folder: Path, *, public: bool, dry_run: bool) -> dict[str, Any]:
    """List a folder's files, and send them unless it is a dry run; returns what a program wants to know of it."""
    from ..conversion import planned_upload, upload

    plan = planned_upload(repository, folder, public=public)
    rows = [(name, f"{file.stat().st_size:,}") for name, file in plan.files]
    seen = "public" if public else "private"
    say(f"{repository} ({seen}): {len(plan.files)} files, {plan.size:,} bytes")
    print_table("Files", ("file", "bytes"), rows)
    for name in plan.left_out:
        say(f"stays here: {name}")
    if "README.md" not in dict(plan.files):
        warn("no README.md among them: the hub will show no model card")
    told = {"repository": repository, "public": public, "files": [name for name, _ in plan.files], "commit": None}
    if dry_run:
        say("nothing sent; without --dry-run these files go there as one commit")
        return told
    commit = upload(plan, message="Upload by SST-Merge")
    say(commit)
    return {**told, "commit": str(commit)}
