"""The site itself is built by `make docs`, which checks the links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import lipwire

REPO = Path(__file__).resolve().parent.parent


def test_the_navigation_names_every_page_and_no_other() -> None:
    nav = (REPO / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"[\w./-]+\.md$", nav, re.MULTILINE)
    hooks = (REPO / "docs/hooks.py").read_text()
    added = dict(re.findall(r'"([\w-]+\.md)": "([\w-]+\.md)"', hooks))
    assert added and all((REPO / source).is_file() for source in added.values())
    pages = {path.relative_to(REPO / "docs").as_posix() for path in (REPO / "docs").rglob("*.md")}
    assert len(set(named)) == len(named)
    assert set(named) == pages | set(added)


def test_the_api_reference_has_every_public_name() -> None:
    text = (REPO / "docs/api.md").read_text()
    for name in set(lipwire.__all__) - {"__version__"}:
        assert f"::: lipwire.{name}\n" in text or f"`{name}`" in text, name


def defined(tree: ast.AST, before: str = "") -> set[str]:
    """The classes and functions of a file, and the methods as `Class.method`."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names |= {before + node.name} | defined(node, f"{before}{node.name}.")
    return names


def test_the_architecture_names_functions_that_exist() -> None:
    text = (REPO / "ARCHITECTURE.md").read_text()
    places = re.findall(r"`((?:engine|server|lipwire)/[\w/]+\.py)(?::([\w.]+))?`", text)
    assert len(places) > 20
    for path, name in places:
        tree = ast.parse((REPO / path).read_text())
        assert not name or name in defined(tree), f"{path}:{name}"
