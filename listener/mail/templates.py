"""A row becomes words: templates, compiled and checked at the start, and what they make of one row.

A mail has ``NAME/subject.txt.j2``, ``NAME/body.txt.j2`` and, unless it is a text mail, ``NAME/body.html.j2``; and the
same in a folder for each language it is translated to: ``NAME/de/body.txt.j2``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypeAlias

from jinja2 import (
    ChoiceLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateNotFound,
    TemplateSyntaxError,
    meta,
    nodes,
)
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from listener.config.rules import BUILT_IN_VARIABLES
from listener.errors import BadData, RuleBroken
from listener.limits import MAX_MESSAGE_BYTES
from listener.mail.language import PARTS, choose, translations, wider
from listener.mail.message import Content
from listener.resources import resource

__all__ = ["Content", "Templates"]


@dataclass(frozen=True, slots=True)
class _Mail:
    subject: Template
    text: Template
    html: Template | None
    takes: frozenset[str]
    may_take: frozenset[str]


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which a text cannot be repeated into gigabytes: the template is the operator's, the text a stranger's."""

    intercepted_binops = frozenset({"*"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for text, times in ((left, right), (right, left)):
            if (
                isinstance(text, str | bytes | list | tuple)
                and isinstance(times, int)
                and len(text) * times > MAX_MESSAGE_BYTES
            ):
                raise _too_large(f"a text repeated {times} times")
        return super().call_binop(context, operator, left, right)


class Templates:
    """The templates of the rules. Those in the operator's `directory` go before the shipped ones, file by file.

    All are compiled here; afterwards nothing is looked for on the disk. Raises `RuleBroken`, naming the file,
    the line and the remedy, if anything is wrong with one.
    """

    def __init__(self, names: Iterable[str], directory: Path | None = None) -> None:
        self._folders = [folder for folder in (directory, resource("templates")) if folder]
        # An editor's byte order mark at the beginning is not for the reader of the mail.
        self._loader = ChoiceLoader([FileSystemLoader(folder, encoding="utf-8-sig") for folder in self._folders])
        self._environment = _Environment(
            loader=self._loader,
            undefined=StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".html.j2"),
            finalize=lambda value: "" if value is None else value,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        self._environment.filters["oneline"] = _oneline
        # What is made besides the row's own; not all of it always.
        self._environment.globals.update(dict.fromkeys(BUILT_IN_VARIABLES))
        self._mails = {name: self._translated(name) for name in names}

    def languages(self, name: str) -> list[str]:
        """What a mail can be rendered in; first ``""``, the default."""
        return list(self._mails[name])

    def variables(self, name: str, *, translated: bool) -> frozenset[str]:
        """What a mail must be given; with `translated`, in any language.

        What it asks for with ``is defined`` or ``default`` is not among it.
        """
        mails = self._mails[name]
        return frozenset().union(*(mail.takes for language, mail in mails.items() if translated or not language))

    def render(self, name: str, context: Mapping[str, object]) -> Content:
        """Make the mail for one row, in the language that its column `language` asks for, if there is that translation.

        Raises:
            BadData: ``render_error`` or ``too_large``; the fault is in this row.
            RuleBroken: the context lacks a variable, as it would for every row.
        """
        mails = self._mails[name]
        mail = mails[choose(mails.keys(), context.get("language"))]
        if missing := sorted(mail.takes - context.keys()):
            raise RuleBroken(f"the template {name} takes {missing[0]!r}, which the lookup does not give")
        for variable in mail.may_take & context.keys():
            value = context[variable]
            # It is taken several times, and escaped: stop a gigabyte before it is ten.
            if isinstance(value, str) and len(value) > MAX_MESSAGE_BYTES:
                raise _too_large(f"{variable} has {len(value)} characters")
        try:
            values = {**self._environment.globals, **context}
            subject = self._filled(mail.subject, values)
            text = self._filled(mail.text, values) + "\n"
            html = None if mail.html is None else self._filled(mail.html, values) + "\n"
        except BadData:
            raise
        except Exception as error:
            # Only what kind and where, and no cause: the exception's own message may quote the row.
            raise BadData("render_error", f"{type(error).__name__} in {_place(error)}") from None
        return Content(subject, text, html)

    def _filled(self, template: Template, values: dict[str, object]) -> str:
        """As `Template.render`, which would put the globals and the values together anew for every part of a mail.

        It stops where there is more than a message can hold.
        """
        pieces, length = [], 0
        try:
            for piece in template.root_render_func(template.new_context(values, shared=True)):
                length += len(piece)
                if length > MAX_MESSAGE_BYTES:
                    raise _too_large("the template makes more of this row")
                pieces.append(piece)
            return "".join(pieces).strip()
        except Exception:
            self._environment.handle_exception()

    def _translated(self, name: str) -> dict[str, _Mail]:
        mails = {"": self._mail([name])}
        for language in sorted(self._translations(name)):
            mails[language] = mail = self._mail([f"{name}/{tag}" for tag in wider(language)])
            if mail.html is None and mails[""].html is not None:
                raise RuleBroken(f"there is no template {name}/{language}/body.html.j2, while {name} has one; write it")
        return mails

    def _translations(self, name: str) -> set[str]:
        *own, shipped = (folder / name for folder in self._folders)
        # Who has written other words has not translated these.
        rewritten = any((folder / part).exists() for folder in own for part in PARTS[1:])
        try:
            return set().union(*(translations(folder) for folder in (own if rewritten else [*own, shipped])))
        except OSError as error:
            raise RuleBroken(f"the template {name} cannot be read ({error}); correct its permissions") from None

    def _mail(self, folders: list[str]) -> _Mail:
        """Each of its files from the first of `folders` that has it."""
        trees: dict[str, nodes.Template] = {}
        subject_file, text_file, html_file = (
            next((file for folder in folders if self._exists(file := f"{folder}/{part}")), f"{folders[0]}/{part}")
            for part in PARTS
        )
        subject = self._compile(subject_file, trees)
        text = self._compile(text_file, trees)
        html = self._compile(html_file, trees) if self._exists(html_file) else None
        taken = {variable for tree in trees.values() for variable in meta.find_undeclared_variables(tree)}
        made = {variable for tree in trees.values() for variable in _made(tree)}
        optional = {variable for tree in trees.values() for variable in _optional(tree)}
        return _Mail(subject, text, html, frozenset(taken - made - optional), frozenset(taken - made))

    def _compile(self, file: str, trees: dict[str, nodes.Template]) -> Template:
        """Compile `file` and whatever it extends, includes or imports; their trees go in `trees`."""
        place = file
        try:
            source, filename, _ = self._loader.get_source(self._environment, file)
            place = filename or file
            trees[file] = self._environment.parse(source)
            template = self._environment.get_template(file)
        except TemplateNotFound:
            folders = " or ".join(map(str, self._folders))
            raise RuleBroken(f"there is no template {file} in {folders}; write it, or correct its name") from None
        except TemplateSyntaxError as error:
            raise RuleBroken(f"{place}, line {error.lineno}: {error.message}; correct the template") from None
        except UnicodeDecodeError as error:
            raise RuleBroken(f"the template {file} is not UTF-8 ({error.reason}); save it as UTF-8") from None
        except OSError as error:
            raise RuleBroken(f"the template {file} cannot be read ({error}); correct its permissions") from None
        for line, other, may_miss in _references(trees[file]):
            if other is None:
                raise RuleBroken(
                    f"{place}, line {line}: the other template's name is worked out while rendering, and so could "
                    "come from a row; write one name in quotes"
                )
            if other not in trees and not (may_miss and not self._exists(other)):
                self._compile(other, trees)
        return template

    def _exists(self, file: str) -> bool:
        try:
            self._loader.get_source(self._environment, file)
        except TemplateNotFound:
            return False
        except (OSError, UnicodeDecodeError):
            pass  # It is there; compiling it says what is wrong with it.
        return True


def _too_large(what: str) -> BadData:
    return BadData("too_large", f"{what}; a message has {MAX_MESSAGE_BYTES} octets at most")


_Reference: TypeAlias = nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport
_REFERENCES: tuple[type[_Reference], ...] = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


def _references(tree: nodes.Template) -> Iterator[tuple[int, str | None, bool]]:
    """The line, the name (None where it is an expression) and whether the file may be missing."""
    for node in tree.find_all(_REFERENCES):
        name = node.template.value if isinstance(node.template, nodes.Const) else None
        yield node.lineno, name if isinstance(name, str) else None, getattr(node, "ignore_missing", False)


def _made(tree: nodes.Template) -> Iterator[str]:
    """The names that a template makes itself: its blocks, its layout and what it includes see them.

    Not one made of itself (``{% set place = place | oneline %}``): that is taken from the context first.
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
    for picked in tree.find_all(nodes.FromImport):
        yield from (name if isinstance(name, str) else name[1] for name in picked.names)


def _names(node: nodes.Node) -> set[str]:
    return {name.name for name in (node, *node.find_all(nodes.Name)) if isinstance(name, nodes.Name)}


def _optional(tree: nodes.Template) -> Iterator[str]:
    """The names that a template asks for and can do without."""
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        if node.name in ("defined", "undefined", "default", "d") and isinstance(node.node, nodes.Name):
            yield node.node.name


def _oneline(value: object) -> str:
    """For a value that must not begin a line of its own in a text part, where it could pass for the sender's."""
    return "" if value is None else " ".join(filter(None, str(value).splitlines()))


def _place(error: Exception) -> str:
    """The innermost template and its line, which Jinja2 puts in the traceback."""
    places = [
        f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_filename.endswith(".j2")
    ]
    return places[-1] if places else "a template"
