"""The result of an inference: a rule whose settings may be undecided, each with the reason."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
class About:
    """The one row of `reference`'s own table, here `table`, that refers to the owner. A profile is one.

    `only` are booleans that must be true of it, for tables with several rows an owner.
    """

    table: Table
    reference: Reference
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinedColumn:
    """A column of the watched table (`via` is empty), or of the table that the reference `via` leads to.

    With `about`, it is a column of the row about that row.
    """

    via: Reference | None
    column: str
    about: About | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The state to wait for: `column` and `becomes`, or `when`.

    If `when` is undecided, `conditions` are what to choose from, or the one to complete. `name` is the state in a word,
    and `changed_at` the column that says when a row reached it. A rule that the database watches already may wait for
    `more` values, and have a condition `left` on the row before, and `changes`.
    """

    column: Choice[str] | None
    becomes: Choice[str] | None
    when: Choice[str] | None = None
    conditions: tuple[str, ...] = ()
    name: str = ""
    changed_at: str = ""
    more: tuple[str, ...] = ()
    left: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inference:
    """A rule as far as it could be inferred.

    `place` is None unless the rule uses the shipped example's email. The others have templates of their own.
    """

    name: str
    table: Table
    key: Choice[tuple[str, ...]]
    state: State
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

    def _choices(self) -> list[tuple[str, Choice[Any]]]:
        state = self.state
        named: list[tuple[str, Choice[Any] | None]] = [
            ("key", self.key), ("column", state.column), ("becomes", state.becomes), ("when", state.when),
            ("owner", self.owner), ("consent", self.consent), ("place", self.place),
        ]  # fmt: skip
        return [(what, choice) for what, choice in named if choice is not None]
