"""What the documentation site adds to docs/: the README is its front page, and links to pages carry their titles.

A hook of MkDocs, named in mkdocs.yml. In the files themselves links are written for those who read them as files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: A file of the repository -> what it is called in the site.
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "LICENSE": "LICENSE.txt"}
#: A link or picture of Markdown to a file: its text and its target.
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that lie outside of docs/, with links as from there."""
    for path, name in OUTSIDE.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_relinked(text, "") if path.endswith(".md") else text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Give links the names of the pages that they lead to, where their text is the name of a file."""
    folder = posixpath.dirname(page.file.src_uri)
    titles = dict(_titles(config.nav))

    def named(link: re.Match[str]) -> str:
        text, target = link.groups()
        title = titles.get(posixpath.normpath(posixpath.join(folder, target)))
        is_name = posixpath.basename(text) == posixpath.basename(target)
        return f"[{title if title and is_name else text}]({target}"

    return LINK.sub(named, _relinked(markdown, f"docs/{folder}") if page.file.generated_by is None else markdown)


def _relinked(text: str, folder: str) -> str:
    """Return `text`, of a file in `folder` of the repository, with links as in the site."""

    def inside(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in OUTSIDE:
            target = posixpath.relpath(posixpath.join("docs", OUTSIDE[path]), folder or "docs")
        return f"[{text}]({target if folder else target.removeprefix('docs/')}"

    return LINK.sub(inside, text)


def _titles(nav: Any) -> Iterator[tuple[str, str]]:
    """Yield path and title of every page in the navigation."""
    for entry in nav:
        for title, below in entry.items():
            if isinstance(below, str):
                yield below, title
            else:
                yield from _titles(below)
