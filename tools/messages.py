"""Print every message that the program can show to its users, in one list: ``python tools/messages.py [PATH…]``.

Each line is ``file:line  kind  text``. The kinds: errors that are raised, lines that commands print, log events with their
remedies, help texts, and descriptions of settings. A value inserted at run time is shown as ``{…}``. Read the list from
top to bottom, as somebody would who does not know the code.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Functions whose text goes to a terminal, a browser or an exception's reader.
_PRINTED = {"write_line", "write_lines", "write_error", "print", "echo", "confirm", "fail", "write", "ReportedCheck"}
_LOGGED = {"debug", "info", "warning", "error", "critical", "exception"}
_ERROR = re.compile(r"(Error|Exception|Unavailable|RuleBroken|BadData|BadParameter|Fault|Abort|_bad|_unwatched)$")
_HELP = {"help", "short_help", "epilog", "remedy", "detail", "why"}


def main(arguments: list[str]) -> int:
    """Print the messages of these files and folders, or of the whole package."""
    for root in [ROOT / argument for argument in arguments] or [ROOT / "listener"]:
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            for line, kind, text in sorted(messages(file.read_text(encoding="utf-8"))):
                print(f"{file.relative_to(ROOT)}:{line}  {kind:<8}  {text}")
    return 0


def messages(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, kind, text) of each message in a module."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_command(node):
            if text := ast.get_docstring(node):
                yield node.lineno, "help", _one_line(text)
        elif isinstance(node, ast.ClassDef):
            yield from _of_section(node)


def _of_call(call: ast.Call) -> Iterator[tuple[int, str, str]]:
    name = _name(call.func)
    if _ERROR.search(name):
        kind = "error"
    elif name in _PRINTED:
        kind = "printed"
    elif name in _LOGGED and isinstance(call.func, ast.Attribute) and _name(call.func.value) == "log":
        kind = "log"
    else:
        kind = ""
    if kind and (text := " | ".join(filter(None, (_text(argument) for argument in call.args)))):
        yield call.lineno, kind, text
    for keyword in call.keywords:
        if keyword.arg in _HELP and (text := _text(keyword.value)):
            yield keyword.value.lineno, keyword.arg or "", text


def _of_section(node: ast.ClassDef) -> Iterator[tuple[int, str, str]]:
    """Yield the descriptions of a section's keys, which stand as strings below them."""
    for key, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(below, ast.Expr) and (text := _text(below.value)):
            yield key.lineno, "key", f"{ast.unparse(key.target)}: {text}"


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    calls = (decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list)
    return any(_name(call) in ("command", "group") for call in calls)


def _text(node: ast.expr) -> str:
    """Return the text of an expression, or an empty one if it has no words."""
    match node:
        case ast.Constant(value=str()):
            return _one_line(node.value)
        case ast.JoinedStr():
            return _one_line(
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
            )
        case ast.BinOp(op=ast.Add()):
            return f"{_text(node.left)} {_text(node.right)}".strip()
        case ast.IfExp():
            return " / ".join(filter(None, (_text(node.body), _text(node.orelse))))
        case _:
            return ""


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return node.attr
        case _:
            return ""


def _one_line(text: object) -> str:
    return re.sub(r"\s+", " ", str(text)).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
