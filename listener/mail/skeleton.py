"""The text of a template without a row: all its lines, of every branch, with a mark in place of each value.

It shows what a line of the template is, whatever the row: the check of calendar parts needs that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import nodes

# Their contents are printed elsewhere, or are values.
_NOT_PRINTED = (nodes.Macro, nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the skeleton, with the place of its beginning."""

    text: str
    file: str
    number: int


def skeleton(file: str, trees: Mapping[str, nodes.Template], value: str) -> list[Line]:
    """Return the lines that the template `file` can print. `trees` has the files that it refers to.

    `value` stands for each value. A block has the contents of the file that replaces it.
    """
    blocks: dict[str, tuple[str, nodes.Block]] = {}
    while True:
        for block in trees[file].find_all(nodes.Block):
            blocks.setdefault(block.name, (file, block))
        parent = next((each.template for each in trees[file].find_all(nodes.Extends)), None)
        if not isinstance(parent, nodes.Const) or parent.value not in trees:
            break
        file = parent.value
    lines, text, place = list[Line](), "", (file, 1)
    for piece, where, number in _pieces(file, trees[file].body, trees, blocks, value):
        for count, part in enumerate(piece.split("\n")):
            if count:
                lines.append(Line(text, *place))
                text = ""
            place = place if text else (where, number + count)
            text += part
    return [*lines, Line(text, *place)]


def _pieces(
    file: str,
    body: Sequence[nodes.Node],
    trees: Mapping[str, nodes.Template],
    blocks: Mapping[str, tuple[str, nodes.Block]],
    value: str,
) -> Iterator[tuple[str, str, int]]:
    """Yield each piece of text, with the file and the line where it begins."""
    for node in body:
        inner: tuple[str, Sequence[nodes.Node]] = (file, ())
        match node:
            case nodes.Output():
                for each in node.nodes:
                    text = each.data if isinstance(each, nodes.TemplateData) else value
                    yield text, file, each.lineno
            case nodes.Block():
                replaced_in, block = blocks.get(node.name, (file, node))
                inner = replaced_in, block.body
            case nodes.If():
                inner = file, [*node.body, *node.elif_, *node.else_]
            case nodes.For():
                inner = file, [*node.body, *node.else_]
            case nodes.Include(template=nodes.Const(value=str(name))) if name in trees:
                inner = name, trees[name].body
            case nodes.Stmt() if not isinstance(node, _NOT_PRINTED):
                inner = file, getattr(node, "body", ())
        yield from _pieces(*inner, trees, blocks, value)
