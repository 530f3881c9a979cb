"""The result of an inference: a rule whose settings may be undecided, each with the reason."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from listener.scaffold.catalog import Reference, Table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """An inferred setting.

    Without a `value`, the choice is ambiguous or there is no candidate, and `why` says which. With one, `why` is empty
    or a warning.
    """

    value: T | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class JoinedColumn:
    """A column of the watched table (`via` is empty), or of the table that the reference `via` leads to."""

    via: Reference | None
    column: str


@dataclass(frozen=True, slots=True)
class Inference:
    """A rule as far as it could be inferred.

    `place` is None unless the rule uses the shipped example's email. The others have templates of their own.
    """

    name: str
    table: Table
    key: Choice[tuple[str, ...]]
    column: Choice[str]
    becomes: Choice[str]
    owner: Choice[JoinedColumn]
    consent: Choice[JoinedColumn]
    place: Choice[JoinedColumn] | None
    capture: str = "row"

    @property
    def undecided(self) -> list[tuple[str, str]]:
        """Return the settings that could not be inferred, each with the reason."""
        return [(what, choice.why) for what, choice in self._choices() if choice.value is None]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Return the settings that were inferred but should be checked, each with the reason."""
        return [(what, choice.why) for what, choice in self._choices() if choice.value is not None and choice.why]

    def _choices(self) -> list[tuple[str, Choice[object]]]:
        named: list[tuple[str, Choice[object]]] = []
        for what in ("key", "column", "becomes", "owner", "consent", "place"):
            if (choice := getattr(self, what)) is not None:
                named.append((what, choice))
        return named
