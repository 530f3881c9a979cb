"""The sandbox in which templates run: the operator writes the template, and strangers write the text of a row."""

from collections.abc import Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from listener.config.rules import BUILT_IN_VARIABLES
from listener.errors import BadData
from listener.transport.base import MAX_MESSAGE_BYTES


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """A Jinja2 sandbox that takes templates from `folders`, the first one first.

    Only files named ``*.html.j2`` are escaped. A missing variable is an error, and None becomes an empty text. Code in
    a template cannot repeat a text into gigabytes.
    """

    intercepted_binops = frozenset({"*"})

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__(
            # utf-8-sig drops the byte order mark that some editors write. Otherwise it would begin the message.
            loader=ChoiceLoader([FileSystemLoader(folder, encoding="utf-8-sig") for folder in folders]),
            undefined=StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".html.j2"),
            finalize=lambda value: "" if value is None else value,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        self.filters["oneline"] = oneline
        # A template may test for a link that this message does not have. Without a value that would be an error.
        self.globals.update(dict.fromkeys(BUILT_IN_VARIABLES))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluate ``left * right``, unless the result is a text larger than a message may be.

        Raises:
            BadData: ``too_large``.
        """
        for text, times in ((left, right), (right, left)):
            if (
                isinstance(text, str | bytes | list | tuple)
                and isinstance(times, int)
                and len(text) * times > MAX_MESSAGE_BYTES
            ):
                raise too_large(f"a text repeated {times} times")
        return super().call_binop(context, operator, left, right)


def oneline(value: object) -> str:
    """Return the value as one line: the template filter ``oneline``.

    In a text part, a value with line breaks could begin a line of its own and pass for words of the sender.
    """
    return "" if value is None else " ".join(filter(None, str(value).splitlines()))


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
