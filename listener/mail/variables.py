"""The variables of a template, found in its syntax tree: those it needs, those it can do without, and its references.

The lookup's columns are compared with them at start-up. Otherwise a misspelled name would fail at the first event.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from jinja2 import meta, nodes

_Reference: TypeAlias = nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport
_REFERENCES: tuple[type[_Reference], ...] = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


@dataclass(frozen=True, slots=True)
class Variables:
    """The names that a template takes from its context."""

    needed: frozenset[str]
    """without one of these the template fails"""
    used: frozenset[str]
    """these, the ones that it asks for with ``is defined`` or ``default``, and those that it may assign first"""


def variables_of(trees: Iterable[nodes.Template]) -> Variables:
    """Return the variables of a template made of these files: its own, its layout, and the files it includes."""
    trees = list(trees)
    taken = {name for tree in trees for name in meta.find_undeclared_variables(tree)}
    assigned = {name for tree in trees for name in _assigned(tree)}
    optional = {name for tree in trees for name in _optional(tree)}
    return Variables(frozenset(taken - assigned - optional), frozenset(taken))


def references(tree: nodes.Template) -> Iterator[tuple[int, str | None, bool]]:
    """Yield the line, the file and whether it may be missing, for each file that the template refers to.

    The file is None if its name is an expression instead of a text in quotes.
    """
    for node in tree.find_all(_REFERENCES):
        name = node.template.value if isinstance(node.template, nodes.Const) else None
        yield node.lineno, name if isinstance(name, str) else None, getattr(node, "ignore_missing", False)


def _assigned(tree: nodes.Template) -> Iterator[str]:
    """Yield the names that a template assigns. Its blocks, its layout and the files it includes see them.

    A name assigned from itself (``{% set place = place | oneline %}``) is not one of them: the first value comes from
    the context.
    """
    for assign in tree.find_all(nodes.Assign):
        yield from _names(assign.target) - _names(assign.node)
    for block in tree.find_all(nodes.AssignBlock):
        yield from _names(block.target)
    for loop in tree.find_all(nodes.For):
        yield from _names(loop.target) - _names(loop.iter)
    for macro in tree.find_all(nodes.Macro):
        yield macro.name
    for imported in tree.find_all(nodes.Import):
        yield imported.target
    for from_import in tree.find_all(nodes.FromImport):
        yield from (name if isinstance(name, str) else name[1] for name in from_import.names)


def _names(node: nodes.Node) -> set[str]:
    return {name.name for name in (node, *node.find_all(nodes.Name)) if isinstance(name, nodes.Name)}


def _optional(tree: nodes.Template) -> Iterator[str]:
    """Yield the names that the template asks for with ``is defined`` or ``default``."""
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        if node.name in ("defined", "undefined", "default", "d") and isinstance(node.node, nodes.Name):
            yield node.node.name
