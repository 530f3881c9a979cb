"""The sample of preview: which row it takes, to whom the message goes, and what it says if there is none."""

from typing import Any

import pytest

from listener.address import parse_address
from listener.config.rules import default_rules
from listener.config.settings import Settings
from listener.errors import PgheraldError
from listener.mail.composer import templates
from listener.preview.sample import RenderedSample, make
from tests.support.database import Database

RULE = "dateplan_verified"


async def sample(database: Database, key: str | None = None, to: str | None = None, **rule: Any) -> RenderedSample:
    settings = Settings.model_validate(
        {
            "database": {"url": database.url},
            "rules": {RULE: {**default_rules()[RULE].model_dump(exclude_unset=True), **rule}},
        }
    )
    return await make(settings, templates(settings), RULE, key, parse_address(to) if to else None)


async def test_without_a_key_it_is_the_greatest_that_matches(database: Database) -> None:
    for place, status in (("Café", "VE"), ("Bar", "VE"), ("Zoo", "PE")):
        database.add_plan(place, f"{place.lower().replace('é', 'e')}@example.org", status=status)
    made = await sample(database)
    assert (made.key, str(made.message.recipient), made.note) == ("2", "bar@example.org", None)
    assert "Your date plan at Bar is now verified." in made.message.content.text
    assert made.translations == {}


async def test_a_row_that_would_not_be_mailed_says_why(database: Database) -> None:
    plan = database.add_plan("Café", "anna@example.org", consent=False, status="VE")
    made = await sample(database, str(plan))
    assert made.note == "this row's message would not be sent: no_consent (consent is false)"
    assert str(made.message.recipient) == "nobody@example.org"


async def test_the_recipient_can_be_given(database: Database) -> None:
    plan = database.add_plan("Café", "anna@example.org", status="VE")
    made = await sample(database, str(plan), to="me@example.org")
    assert str(made.message.recipient) == "me@example.org"
    assert b"anna@example.org" not in made.message.octets


async def test_two_samples_of_one_row_are_two_messages(database: Database) -> None:
    plan = database.add_plan("Café", "anna@example.org", status="VE")
    assert (await sample(database, str(plan))).message.key != (await sample(database, str(plan))).message.key


async def test_a_language_brings_every_translation(database: Database) -> None:
    database.add_plan("Café", "anna@example.org", status="VE")
    lookup = default_rules()[RULE].lookup.replace(", p.place", ", p.place, 'de' AS language")
    made = await sample(database, lookup=lookup)
    assert list(made.translations) == ["default", "de"]
    assert made.message.octets == made.translations["de"].octets
    assert made.translations["default"].content.text.startswith("Congratulations!")


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (None, "no row of public.dateplan has status = 'VE'; name a row with --key"),
        ("4711", "the lookup of rule dateplan_verified finds no row for key 4711; name another row with --key"),
        ("nope", "(SQLSTATE 22P02); the key of public.dateplan is id bigint"),
    ],
)
async def test_without_a_row_there_is_an_error(database: Database, key: str | None, error: str) -> None:
    with pytest.raises(PgheraldError) as caught:
        await sample(database, key)
    assert error in str(caught.value)
