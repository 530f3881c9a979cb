"""The parts of a template that cannot appear, because no file that it extends has a place for them.

Jinja2 ignores such a block, and text outside the blocks, without a word. The email keeps the words of the layout.
"""

from collections.abc import Iterator, Mapping, Sequence

from jinja2 import nodes


def misplaced(file: str, trees: Mapping[str, nodes.Template]) -> Iterator[tuple[int, str]]:
    """Yield the line and the fault of each block of `file` that is never printed, and of text outside its blocks.

    `trees` has the file and those that it refers to. A file that extends no other prints all its blocks.
    """
    tree = trees[file]
    chain = [file]
    while (parent := _parent(trees[chain[-1]])) in trees and parent not in chain:
        chain.append(parent)
    if len(chain) == 1:
        return
    # By name, the block of the most derived file first, which replaces the others.
    blocks: dict[str, list[nodes.Block]] = {}
    for each in chain:
        for block in trees[each].find_all(nodes.Block):
            blocks.setdefault(block.name, []).append(block)
    printed = _printed(trees[chain[-1]], blocks)
    replaceable = {block.name for each in chain[1:] for block in trees[each].find_all(nodes.Block)} & printed
    if (line := _first_line_outside(tree)) is not None:
        yield (
            line,
            "text outside the blocks of a file that extends another would be lost; "
            f"write it in one of its blocks: {', '.join(sorted(replaceable))}",
        )
    for block in _outermost(tree):
        if block.name not in printed:
            yield (
                block.lineno,
                f"no file that this one extends prints a block {block.name}, so its words would be lost; "
                f"write them in one of its blocks: {', '.join(sorted(replaceable))}",
            )


def _parent(tree: nodes.Template) -> str:
    """Return the name of the file that a file always extends; empty for a layout."""
    extends = next((node for node in tree.body if isinstance(node, nodes.Extends)), None)
    name = extends.template.value if extends is not None and isinstance(extends.template, nodes.Const) else ""
    return str(name)


def _printed(layout: nodes.Template, blocks: Mapping[str, Sequence[nodes.Block]]) -> set[str]:
    """Return the names of the blocks that the layout prints, directly, within other blocks, or by ``self.NAME()``."""
    printed = set[str]()
    waiting: list[nodes.Node] = [layout]
    while waiting:
        node = waiting.pop()
        for child in node.iter_child_nodes():
            name = child.name if isinstance(child, nodes.Block) else _called(child)
            if name is None or name not in blocks:
                waiting.append(child)
            elif name not in printed:
                printed.add(name)
                # A block that calls super() prints the replaced one too.
                for block in blocks[name]:
                    waiting.append(block)
                    if not any(each.name == "super" for each in block.find_all(nodes.Name)):
                        break
    return printed


def _called(node: nodes.Node) -> str | None:
    """Return NAME if the node is ``self.NAME``."""
    is_own = isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name == "self"
    return node.attr if is_own and isinstance(node, nodes.Getattr) else None


def _first_line_outside(tree: nodes.Template) -> int | None:
    """Return the line of the first text or value after `extends` outside of blocks and macros, or None."""
    after = next(i for i, node in enumerate(tree.body) if isinstance(node, nodes.Extends))
    waiting: list[nodes.Node] = list(reversed(tree.body[after + 1 :]))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (nodes.Block, nodes.Macro, nodes.AssignBlock)):
            continue
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                if not isinstance(part, nodes.TemplateData):
                    return part.lineno
                if text := part.data.strip():
                    return part.lineno + part.data[: part.data.index(text[0])].count("\n")
        waiting += reversed(list(node.iter_child_nodes()))
    return None


def _outermost(node: nodes.Node) -> Iterator[nodes.Block]:
    """Yield the blocks that are in no other block."""
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.Block):
            yield child
        else:
            yield from _outermost(child)
