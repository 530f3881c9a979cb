"""Templates: compiled and checked at start-up, then rendered into the words of a message for one row.

A template has the files ``NAME/subject.txt.j2`` and ``NAME/body.txt.j2``. With ``NAME/body.html.j2`` its messages have
an HTML part too, and with ``NAME/event.ics.j2`` a calendar entry. A translation has the same files in a folder of its
own, such as ``NAME/de/body.txt.j2``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Template, TemplateNotFound, TemplateSyntaxError, nodes

from listener.config.rules import BUILT_IN_VARIABLES
from listener.errors import BadData, RuleBroken
from listener.mail.blocks import misplaced
from listener.mail.calendar import VALUE, InvalidEntry, Publication, entry, property_fault
from listener.mail.environment import TemplateEnvironment, place_of, too_large
from listener.mail.language import PARTS, choose, direction, direction_of_words, translations, wider
from listener.mail.message import Content
from listener.mail.reader import reader_of, writing_for
from listener.mail.skeleton import skeleton
from listener.mail.values import as_value
from listener.mail.variables import Variables, references, variables_of
from listener.resources import resource
from listener.transport.base import MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class _CompiledTemplate:
    """The files of one template in one language."""

    subject: Template
    text: Template
    html: Template | None
    calendar: Template | None
    variables: Variables
    direction: str
    """that of its words, ``ltr`` or ``rtl``"""


class Templates:
    """The templates of the rules. A file in the operator's `directory` replaces the shipped file of the same name.

    All templates are compiled here. Afterwards no file is read, so that an edit cannot break a running daemon.

    Raises:
        RuleBroken: A template is invalid. The text names the file, the line and the remedy.
    """

    def __init__(self, names: Iterable[str], directory: Path | None = None) -> None:
        self._folders = [folder for folder in (directory, resource("templates")) if folder]
        # A file is compiled for each kind of part that uses it, so that its name does not decide what is escaped.
        self._texts = TemplateEnvironment(self._folders)
        self._pages = TemplateEnvironment(self._folders, html=True)
        self._calendars = TemplateEnvironment(self._folders, calendar=True)
        self._compiled = {name: self._compile_languages(name) for name in names}

    def languages(self, name: str) -> list[str]:
        """Return the languages of a template. The first is ``""``, the default."""
        return list(self._compiled[name])

    def variables(self, name: str, *, translated: bool) -> frozenset[str]:
        """Return the variables that the template needs; if `translated`, those of all its languages together.

        A variable that it asks for with ``is defined`` or ``default`` is not needed.
        """
        compiled = self._compiled[name]
        return frozenset().union(
            *(each.variables.needed for language, each in compiled.items() if translated or not language)
        )

    def has_calendar(self, name: str) -> bool:
        """Return whether the template has a calendar entry in any language."""
        return any(each.calendar is not None for each in self._compiled[name].values())

    def render(self, name: str, context: Mapping[str, object], publication: Publication | None = None) -> Content:
        """Render the message for one row, in the language of its column `language` if there is that translation.

        The message has a calendar entry if the template has one and `publication` is given.

        Raises:
            BadData: This row cannot be rendered (``render_error`` or ``too_large``).
            RuleBroken: The context lacks a variable. Every row of the rule would fail.
        """
        languages = self._compiled[name]
        language = choose(languages.keys(), context.get("language"))
        template = languages[language]
        if missing := sorted(template.variables.needed - context.keys()):
            raise RuleBroken(
                f"template {name} uses {{{{ {missing[0]} }}}}, which the lookup does not return; add it to the SELECT"
            )
        for variable in template.variables.used & context.keys():
            value = context[variable]
            # A template copies a value several times and escapes it. Stop one gigabyte before it becomes ten.
            if isinstance(value, str) and len(value) > MAX_MESSAGE_BYTES:
                raise too_large(f"{variable} has {len(value)} characters")
        try:
            used = template.variables.used.union(BUILT_IN_VARIABLES)
            row = {name: as_value(value) for name, value in context.items() if name in used}
            values = {**self._texts.globals, "template_language": language, **row}
            calendar = fault = None
            with writing_for(reader := reader_of(context, language, template.direction)):
                subject = self._render_file(template.subject, values)
                text = self._render_file(template.text, values) + "\n"
                html = None if template.html is None else self._render_file(template.html, values) + "\n"
                if template.calendar is not None and publication is not None:
                    lines = self._render_file(template.calendar, values)
                    try:
                        calendar = entry(lines, publication, reader.zone)
                    except InvalidEntry as error:
                        fault = str(error)
        except BadData:
            raise
        except Exception as error:
            # Only the type and the place, without the cause: the error's own message may quote the row.
            raise BadData("render_error", f"{type(error).__name__} in {place_of(error)}") from None
        return Content(subject, text, html, calendar, fault)

    def _render_file(self, template: Template, values: dict[str, object]) -> str:
        """Render one file, and stop as soon as the result is larger than a message may be.

        `Template.render` would merge globals and values again for each of the three files.
        """
        pieces, length = [], 0
        try:
            for piece in template.root_render_func(template.new_context(values, shared=True)):
                length += len(piece)
                if length > MAX_MESSAGE_BYTES:
                    raise too_large("the template makes more of this row")
                pieces.append(piece)
            return "".join(pieces).strip()
        except Exception:
            template.environment.handle_exception()

    def _compile_languages(self, name: str) -> dict[str, _CompiledTemplate]:
        default = self._compile(name, [name])
        compiled = {"": default}
        for language in sorted(self._translations(name)):
            compiled[language] = each = self._compile(name, [f"{name}/{tag}" for tag in wider(language)], language)
            if each.html is None and default.html is not None:
                raise RuleBroken(f"there is no template {name}/{language}/body.html.j2, while {name} has one; write it")
        return compiled

    def _translations(self, name: str) -> set[str]:
        *own, shipped = (folder / name for folder in self._folders)
        # The shipped translations do not say what an operator's own words say.
        rewritten = any((folder / part).exists() for folder in own for part in PARTS[1:3])
        try:
            return set().union(*(translations(folder) for folder in (own if rewritten else [*own, shipped])))
        except OSError as error:
            raise RuleBroken(f"the template {name} cannot be read ({error}); correct its permissions") from None

    def _compile(self, name: str, folders: list[str], language: str = "") -> _CompiledTemplate:
        """Compile the files of one language, each from the first of `folders` that has it.

        The language of the files outside any language folder is not known. The letters of the text show its direction.
        """
        texts: dict[str, nodes.Template] = {}
        pages: dict[str, nodes.Template] = {}
        calendars: dict[str, nodes.Template] = {}
        *words, event = PARTS
        subject_file, text_file, html_file = (self._find(folders, part) for part in words)
        # An entry is mostly data. A translation without one of its own takes the default's.
        calendar_file = self._find([*folders, name], event)
        subject = self._compile_file(self._texts, subject_file, texts)
        text = self._compile_file(self._texts, text_file, texts)
        html = self._compile_file(self._pages, html_file, pages) if self._exists(html_file) else None
        calendar = (
            self._compile_file(self._calendars, calendar_file, calendars) if self._exists(calendar_file) else None
        )
        if calendar is not None:
            self._check_calendar(calendar_file, calendars)
        for each in (texts, pages, calendars):
            self._check_blocks(each)
        trees = [*texts.values(), *pages.values(), *calendars.values()]
        words_of_text = "".join(found.data for found in texts[text_file].find_all(nodes.TemplateData))
        way = direction(language) if language else direction_of_words(words_of_text)
        return _CompiledTemplate(subject, text, html, calendar, variables_of(trees), way)

    def _check_blocks(self, trees: dict[str, nodes.Template]) -> None:
        """Check that each block of a file has its place in the files that this one extends."""
        for file in trees:
            place = self._source(file)[1] or file
            # A layout of the operator's own may leave out what the shipped templates fill in.
            if Path(place).is_relative_to(self._folders[-1]):
                continue
            for line, fault in misplaced(file, trees):
                raise RuleBroken(f"{place}, line {line}: {fault}")

    def _check_calendar(self, file: str, trees: dict[str, nodes.Template]) -> None:
        """Check that each line that the template can print is a property of an event, and that it can print a start."""
        # Loaded here, so that the first message does not wait for it.
        import icalendar  # noqa: F401

        lines = [line for line in skeleton(file, trees, VALUE) if line.text.strip()]
        for line in lines:
            if fault := property_fault(line.text.strip()):
                raise RuleBroken(f"{self._source(line.file)[1] or line.file}, line {line.number}: {fault}")
        if lines and not any(line.text.strip().upper().startswith("DTSTART:") for line in lines):
            raise RuleBroken(f"{self._source(file)[1] or file}: the event has no DTSTART; write DTSTART:{{{{ … }}}}")

    def _find(self, folders: list[str], part: str) -> str:
        """Return the file of the first folder that has this part, and otherwise the name that it should have."""
        return next((file for folder in folders if self._exists(file := f"{folder}/{part}")), f"{folders[0]}/{part}")

    def _compile_file(self, environment: TemplateEnvironment, file: str, trees: dict[str, nodes.Template]) -> Template:
        """Compile a file and those it extends, includes or imports. Add their syntax trees to `trees`."""
        place = file
        try:
            source, filename, _ = self._source(file)
            place = filename or file
            trees[file] = environment.parse(source)
            template = environment.get_template(file)
        except TemplateNotFound:
            *own, _ = self._folders
            remedy = f"write it in {own[0]}" if own else "set [mail] templates to the folder that has it"
            raise RuleBroken(f"there is no template {file}; {remedy}, or correct its name") from None
        except TemplateSyntaxError as error:
            raise RuleBroken(f"{place}, line {error.lineno}: {error.message}; correct the template") from None
        except UnicodeDecodeError as error:
            raise RuleBroken(f"the template {file} is not UTF-8 ({error.reason}); save it as UTF-8") from None
        except OSError as error:
            raise RuleBroken(f"the template {file} cannot be read ({error}); correct its permissions") from None
        for line, other, may_be_missing in references(trees[file]):
            if other is None:
                # A name from a row could make the daemon read any file below the folders.
                raise RuleBroken(
                    f"{place}, line {line}: the name of the other template is an expression, and could come from a "
                    "row; write one name in quotes"
                )
            if other not in trees and not (may_be_missing and not self._exists(other)):
                self._compile_file(environment, other, trees)
        return template

    def _source(self, file: str) -> tuple[str, str | None, object]:
        loader = self._texts.loader
        assert loader is not None
        return loader.get_source(self._texts, file)

    def _exists(self, file: str) -> bool:
        try:
            self._source(file)
        except TemplateNotFound:
            return False
        except (OSError, UnicodeDecodeError):
            # The file exists. Compiling it reports the error.
            pass
        return True
