"""A package of somebody else, installed for one test: its files and its entry points; and the code of a page."""

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["blocks", "install"]

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language of a page below docs/."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def install(folder: Path, entry_points: str, modules: Mapping[str, str]) -> Path:
    """Write modules and the metadata that an installer would write; `folder` must be on the path."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    metadata = folder / "somebodys_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-package\nVersion: 1.0\n")
    # pyproject.toml's tables of entry points, as the installer writes them.
    lines = re.sub(r'\[project\.entry-points\."(.+)"\]', r"[\1]", entry_points).replace('"', "")
    (metadata / "entry_points.txt").write_text(lines)
    return folder
