"""Pages of the site that are no files of docs: those that lie elsewhere in the repository, and the Python reference."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"recipes.md": "recipes/README.md", "changelog.md": "CHANGELOG.md"}
"""Page → where it lies in the repository."""
ELSEWHERES_SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme's plug-in `offline` fetches, for which we have a script of our own."""
OUR_SHIM = "assets/worker-in-a-frame.js"
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs does not hold."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_links_of_the_site(text, posixpath.dirname(source))))
    files.append(File.generated(config, "api.md", content=python_reference()))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take our own script where the theme would fetch one."""
    return output.replace(ELSEWHERES_SHIM, get_relative_url(OUR_SHIM, page.url))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """As for a page; the one for what is not found is a template."""
    return output.replace(ELSEWHERES_SHIM, OUR_SHIM)


def with_links_of_the_site(text: str, folder: str) -> str:
    """A page of the repository, its links to docs as the site has them; links to other files are but their words.

    Args:
        text: The page in Markdown.
        folder: Where it lies.
    """

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        if not target or "://" in target:
            return found.group(0)
        file = posixpath.normpath(posixpath.join(folder, target))
        return f"[{words}]({file.removeprefix('docs/')}{anchor})" if file.startswith("docs/") else words

    return LINK.sub(link, text)


def public_names() -> list[str]:
    """What `propulsion` exports, in its own order, without importing it."""
    tree = ast.parse((ROOT / "src/propulsion/__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return list(names)


def python_reference() -> str:
    """The page of the public names, which mkdocstrings fills in."""
    head = (
        "# Python\n\n`import propulsion` makes the method known to PEFT. These are its public names; everything else "
        "that you call is PEFT's. [Error messages](errors.md) says what to do about each error.\n"
    )
    return "\n".join([head, *(f"::: propulsion.{name}\n" for name in public_names())])
