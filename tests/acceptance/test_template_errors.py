"""A template that does not parse, names an unknown variable or leaves the sandbox."""

from pathlib import Path

import pytest

from tests.support.command import Pgherald
from tests.support.configuration import refuses
from tests.support.database import Database
from tests.support.mail import MailServer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ plaice }}", ("{{ plaice }}",)),
        ("{% if %}", ("body.txt.j2", "line 1")),
        ("{{ place.__class__.__mro__ }}", ()),
    ],
    ids=["undefined", "syntax", "not sandboxed"],
)
def test_a_template_that_is_wrong(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, text: str, says: tuple[str, ...]
) -> None:
    folder = tmp_path / "templates" / "dateplan_verified"
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text(text)
    database.verify(database.add_plan("Café", "a@example.org"))
    if says:
        # The lookup's columns are known only from the database.
        status = 1 if "plaice" in text else 78
        refuses(pgherald, "run", "--once", says=says, status=status, PGHERALD_MAIL_TEMPLATES=str(folder.parent))
        assert [event["state"] for event in database.events()] == ["available"]
    else:
        done = pgherald("run", "--once", env={"PGHERALD_MAIL_TEMPLATES": str(folder.parent)})
        assert "Traceback" not in done.stderr
        assert mail.messages == []
