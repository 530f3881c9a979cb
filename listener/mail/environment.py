"""The sandbox in which templates run: the operator writes the template, and strangers write the text of a row."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import wraps
from pathlib import Path
from traceback import walk_tb
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

from listener.config.rules import BUILT_IN_VARIABLES
from listener.errors import BadData
from listener.mail.calendar import marked
from listener.mail.filters import FILTERS
from listener.mail.reader import current_reader
from listener.mail.values import NULL, Null, as_json, as_printed, as_python, isolated
from listener.transport.base import MAX_MESSAGE_BYTES

# These give NULL a value. Every other filter returns NULL for it, as most functions of SQL do.
_TAKE_NULL = frozenset({"default", "d", "tojson"})
# A conversion of `%`: its key, its flags, width and precision, and its type.
_CONVERSION = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<form>[-#0 +]*\d*(?:\.\d+)?)(?P<type>[a-zA-Z%])")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """A Jinja2 sandbox that takes templates from `folders`, the first one first.

    With `html`, every value is escaped, whatever the name of the file that prints it. With `calendar`, every value is
    marked (see `listener.mail.calendar`). A missing variable is an error.
    NULL prints as nothing (see `listener.mail.values`). Code in a template cannot repeat a text into gigabytes.
    """

    intercepted_binops = frozenset({"*", "%", "/", "**"})
    null = NULL

    def __init__(self, folders: Sequence[Path], *, html: bool = False, calendar: bool = False) -> None:
        super().__init__(
            # Compiled in advance, `5 | currency("EUR")` would have the form of no reader, and `true` that of Python.
            optimized=False,
            # utf-8-sig drops the byte order mark that some editors write. Otherwise it would begin the message.
            loader=ChoiceLoader([FileSystemLoader(folder, encoding="utf-8-sig") for folder in folders]),
            undefined=StrictUndefined,
            autoescape=html,
            finalize=marked if calendar else _printed_in_html if html else _printed_in_text,
            # In a calendar part, a block at the end of a line may not join it to the next one.
            trim_blocks=not calendar,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        self.filters.update(FILTERS)
        self.filters["format"] = lambda text, *args, **kwargs: _formatted(text, kwargs or args)
        self.filters = {name: each if name in _TAKE_NULL else _strict(each) for name, each in self.filters.items()}
        self.filters["text"] = as_printed
        tests: dict[str, Any] = self.tests
        self.tests = {name: _unwrapped(test) for name, test in tests.items()}
        self.policies["json.dumps_function"] = as_json
        # A template may test for a link that this message does not have. Without a value that would be an error.
        self.globals.update(dict.fromkeys(BUILT_IN_VARIABLES, NULL))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Rewriter().visit(super()._parse(source, name, filename))
        return tree.set_environment(self)  # type: ignore[return-value]

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return ``obj.attribute``. Everything of NULL is NULL."""
        return obj if isinstance(obj, Null) else as_printed(super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return ``obj[argument]``. Everything of NULL is NULL."""
        return obj if isinstance(obj, Null) else as_printed(super().getitem(obj, argument))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function of the template, with values as they print. A method of NULL returns NULL."""
        if isinstance(__obj, Null):
            return __obj
        named = {name: as_printed(value) for name, value in kwargs.items()}
        return as_printed(super().call(__context, __obj, *map(as_printed, args), **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluate ``left * right``, unless the result is a text larger than a message may be, and ``text % values``.

        An interval can be multiplied with and divided by every number.

        Raises:
            BadData: ``too_large``.
        """
        if operator == "%" and isinstance(left, str) and not isinstance(left, Null):
            return _formatted(left, right)
        for text, times in ((left, right), (right, left)):
            if (
                operator == "*"
                and isinstance(text, str | bytes | list | tuple)
                and isinstance(times, int)
                and len(text) * times > MAX_MESSAGE_BYTES
            ):
                raise too_large(f"a text repeated {times} times")
        if isinstance(left, timedelta) or isinstance(right, timedelta):
            left, right = (float(each) if isinstance(each, Decimal) else each for each in (left, right))
        return as_printed(super().call_binop(context, operator, left, right))


class _Rewriter(NodeTransformer):
    """Makes the constants of a template values as those of a row, and lets ``~`` join the texts of what is printed."""

    def visit_Const(self, node: nodes.Const) -> nodes.Expr:  # noqa: N802
        """Replace None, and numbers with a fraction."""
        if node.value is None:
            return nodes.EnvironmentAttribute("null", lineno=node.lineno)
        return _printed(node) if isinstance(node.value, float) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802
        """Replace the operands."""
        self.generic_visit(node)
        node.nodes = list(map(_printed, node.nodes))
        return node


def _printed(node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, "text", [], [], None, None, lineno=node.lineno)


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that returns NULL for NULL, and gets any other value as it prints."""
    # A filter that takes the context, the environment or the like has it before the value.
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def strict(*args: Any, **kwargs: Any) -> Any:
        value = as_printed(args[position])
        if isinstance(value, Null):
            return value
        return as_printed(function(*args[:position], value, *args[position + 1 :], **kwargs))

    return strict


def _unwrapped(test: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test, such as ``is none``, that gets the value of the driver."""
    position = 1 if hasattr(test, "jinja_pass_arg") else 0

    @wraps(test)
    def unwrapped(*args: Any, **kwargs: Any) -> Any:
        return test(*args[:position], *map(as_python, args[position:]), **kwargs)

    return unwrapped


@pass_context
def _printed_in_html(_: Context, value: Any) -> Any:
    """Return what an HTML part prints. With the context, Jinja does not print constants in advance, as Python does."""
    return value if isinstance(value, str) else as_printed(value)


@pass_context
def _printed_in_text(_: Context, value: Any) -> Any:
    """Return what a text part prints: a value against the direction of its words is isolated."""
    value, reader = as_printed(value), current_reader()
    return isolated(str(value), reader.direction) if reader is not None else value


def _formatted(text: Any, values: Any) -> Any:
    """Return ``text % values``. A conversion for numbers prints NULL as nothing."""
    text = text if isinstance(text, str) else str(text)
    given: Any
    if isinstance(values, Mapping) and any(found["key"] is not None for found in _CONVERSION.finditer(text)):
        given = {key: as_printed(value) for key, value in values.items()}
    else:
        given = tuple(map(as_printed, values if isinstance(values, tuple) else (values,)))
    following = iter(given)

    def converted(found: re.Match[str]) -> str:
        if found["type"] == "%":
            return found[0]
        key = found["key"]
        value = next(following, "") if key is None else given.get(key)
        return found[0] if not isinstance(value, Null) else "%s" if key is None else f"%({key})s"

    # Markup escapes the values itself, so its class stays.
    return type(text)(_CONVERSION.sub(converted, str(text))) % given


def too_large(subject: str) -> BadData:
    """Return the error for a row whose message would be too large. `subject` is what is too large."""
    return BadData("too_large", f"{subject}; a message has at most {MAX_MESSAGE_BYTES} octets")


def place_of(error: Exception) -> str:
    """Return the innermost template and line of the error. Jinja2 puts them in the traceback."""
    places = [
        f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_filename.endswith(".j2")
    ]
    return places[-1] if places else "a template"
