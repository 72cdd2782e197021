"""The site is laid out as the repository is, so that a link works on both, and a broken one ends the build.

MkDocs reads docs/ alone. Here every page gets its path from the root of the repository; pages outside docs/ join, the
reference is made from the code, and a file that some page links to (a configuration, a script) is copied as it is.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
_PAGES = ("docs/**/*.md", "*.md", "studies/**/*.md", "examples/*/README.md")
_ASSETS = ("docs/_site/*.css", "docs/pictures/*.svg")
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All files of the site, by their path in the repository."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = [_file(path, config) for path in _found(*_PAGES)]
    made = [File.generated(config, name, content=text) for name, text in reference.pages().items()]
    for file in made:
        file.dest_uri = _address(file.src_uri, config)
    known = {file.src_uri for file in [*pages, *made]}
    linked = sorted({name for page in pages for name in _linked_files(page)} - known)
    return Files([*theme, *pages, *made, *(_file(path, config) for path in [*_found(*_ASSETS), *linked])])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a folder, which a repository shows with its README.md, leads to that page."""

    def to_page(link: re.Match[str]) -> str:
        folder = _target(page.file, link[2])
        return (
            f"{link[1]}{link[2].rstrip('/')}/README.md{link[3]}" if (ROOT / folder / "README.md").is_file() else link[0]
        )

    return _LINK.sub(to_page, markdown)


def _found(*patterns: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern))


def _file(path: str, config: MkDocsConfig) -> File:
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=_address(path, config))


def _address(path: str, config: MkDocsConfig) -> str:
    """Where it lies on the site: as in the repository, but docs/ is the root."""
    return File(path.removeprefix("docs/"), None, config.site_dir, config.use_directory_urls).dest_uri


def _linked_files(page: File) -> Iterator[str]:
    for _, target, _ in _LINK.findall(page.content_string):
        path = _target(page, target)
        if not path.startswith("..") and (ROOT / path).is_file():
            yield path


def _target(page: File, link: str) -> str:
    return normpath(f"{dirname(page.src_uri)}/{link}".lstrip("/"))
