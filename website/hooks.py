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
PACKAGE = ROOT / "src" / "propulsion"
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


def public_names() -> dict[str, str]:
    """What `propulsion` exports and the module that it is from, without importing it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.name: str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name: imported[name] for name in names}


def fields(name: str, module: str) -> list[str]:
    """The fields of a dataclass; none of anything else."""
    tree = ast.parse((PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    return [
        ast.unparse(line.target)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name and "dataclass" in map(ast.unparse, node.decorator_list)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    ]


def python_reference() -> str:
    """The page of the public names, which mkdocstrings fills in."""
    head = (
        "# Python\n\n`import propulsion` makes the method known to PEFT. These are its public names; everything else "
        "that you call is PEFT's. [Error messages](errors.md) says what to do about each error.\n"
    )
    return "\n".join([head, *(_entry(name, module) for name, module in public_names().items())])


def _entry(name: str, module: str) -> str:
    members = fields(name, module)
    return f"::: propulsion.{name}\n" + (f"    options:\n      members: {members}\n" if members else "")
