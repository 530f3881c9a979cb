"""Check the prose of code, SQL, templates and docs: `make check` runs it.

It reports words that the house style rejects, sentences that start with a relative clause, and sentences that are too
long. Paths on the command line limit it to these files or folders.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_WORDS = 25
# The case of `is none` counts, because Python writes `is None`. `a mail server` is what everybody calls it.
_WORDS = (
    "anew",
    "whoever",
    "whomever",
    "at work",
    "in hand",
    "nobody foresaw",
    "(?-i:is none)",
    "mails",
    r"the\smail\sis",
)
_PROGRAMS = "server|provider|program|client|catcher|relay"
REJECTED = re.compile(rf"\b({'|'.join(_WORDS)}|a\smail(?! (?:{_PROGRAMS})))\b", re.IGNORECASE)
STARTS = re.compile(r"(Who|Whoever|Whom|Whose|What|That|Whether)\b(?!.*\?$)")
# The changelog has a table of old names.
SKIPPED = {"CHANGELOG.md"}


def main(arguments: list[str]) -> int:
    """Print each finding as ``file:line: text`` and return the exit status."""
    roots = [ROOT / argument for argument in arguments] or [
        *(ROOT / name for name in ("listener", "sql", "tools", "docs", "cli.py")),
        *ROOT.glob("*.md"),
    ]
    found = 0
    for root in roots:
        for file in sorted(root.rglob("*") if root.is_dir() else [root]):
            if file.name in SKIPPED or "__pycache__" in file.parts:
                continue
            for line, text, whole in passages(file):
                for fault in faults(text, whole=whole):
                    print(f"{file.relative_to(ROOT)}:{line}: {fault}")
                    found += 1
    print(f"{found} findings", file=sys.stderr)
    return 1 if found else 0


def passages(file: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, text, whole) of a file. Of a message in code, which is not `whole`, only the words are checked."""
    if file.suffix not in {".py", ".sql", ".md", ".j2"}:
        return
    text = file.read_text(encoding="utf-8")
    match file.suffix:
        case ".py":
            yield from _python(text)
        case ".sql":
            yield from _comments((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
        case ".md":
            yield from _markdown(text)
        case ".j2":
            yield 1, re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", " ", text, flags=re.DOTALL), False


def faults(text: str, *, whole: bool) -> Iterator[str]:
    """Yield what is wrong with a passage."""
    plain = re.sub(r"``[^`]*``|`[^`]*`", "X", text)
    for rejected in REJECTED.findall(plain):
        yield f"rejected word {rejected!r}: {_short(text)}"
    if not whole:
        return
    for sentence in re.split(r"(?<=[.!?:;])[\")*_]*\s+(?=[A-Z0-9\"(*_`]|\w+\.md)", plain):
        words = sentence.split()
        if STARTS.match(sentence.lstrip('"(*_')):
            yield f"starts with {words[0]!r}: {_short(sentence)}"
        if len([word for word in words if re.search(r"\w", word)]) > MAX_WORDS:
            yield f"{len(words)} words: {_short(sentence)}"


def _python(text: str) -> Iterator[tuple[int, str, bool]]:
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            expression = node.body[0]
            assert isinstance(expression, ast.Expr)
            constant = expression.value
            assert isinstance(constant, ast.Constant)
            docstrings.add(constant)
            yield from _paragraphs(constant.lineno, str(constant.value))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and node not in docstrings
            and isinstance(node.value, str)
            and len(node.value.split()) > 2
        ):
            yield node.lineno, node.value, False
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield from _comments((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)


def _comments(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, bool]]:
    """Join the comment lines that follow one another."""
    first, last, words = 0, -1, ""
    for number, line in lines:
        if not line.startswith(("#", "--")) or set(line) <= {"-", "#"} or re.match(r"# (noqa|type|fmt)|-- name:", line):
            continue
        text = line.lstrip("#-").strip()
        if number != last + 1 or not text:
            if words:
                yield first, words, True
            first, words = number, ""
        words += f" {text}" if words else text
        last = number
    if words:
        yield first, words, True


def _paragraphs(first: int, text: str) -> Iterator[tuple[int, str, bool]]:
    number = first
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.strip().startswith(("\b", "::", ">>>")) and not re.search(
            r"[─▶│]|^\s{8,}\S", paragraph, re.MULTILINE
        ):
            for item in re.split(r"\n\s*(?=[-*] |\w+: |[A-Z]\w+(?:, \w+)*: )", paragraph):
                yield number, re.sub(r"\s+", " ", item).strip(), True
        number += paragraph.count("\n") + 2


def _markdown(text: str) -> Iterator[tuple[int, str, bool]]:
    lines, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            line = ""
        lines.append("" if fenced else line)
    number = 1
    for paragraph in "\n".join(lines).split("\n\n"):
        body = paragraph.strip()
        code = all(line.startswith("    ") or not line for line in paragraph.split("\n"))
        if body and not code and not body.startswith(("|", "<", "#", "![")):
            for item in re.split(r"\n\s*(?=[-*] |\d+\. |> )", paragraph):
                prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\s+", " ", item)).strip("-*> ").strip()
                yield number, re.sub(r"^\d+\. ", "", prose), True
        number += paragraph.count("\n") + 2


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 110 else f"{text[:110]}…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
