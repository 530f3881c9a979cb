"""Templates that fail for a row, let a row change the message, or make a message that cannot be shown."""

from pathlib import Path

import pytest

from listener.config.settings import Settings
from tests.support.database import Database
from tests.support.doctor import HEALTHY, MAIL, RULE, TEMPLATE, Examine, ill, names, rule_with, without


def test_a_template_that_takes_what_the_lookup_does_not_give(plan: int, doctor: Examine) -> None:
    def change(settings: Settings) -> Settings:
        lookup = without(settings.rules[RULE].lookup, ", p.place")
        return rule_with(lookup=lookup, require=())(settings)

    names(doctor(change), TEMPLATE, "fault", "{{ place }}", "add it to the SELECT")


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("{{ plaice }}", "fault", ("uses {{ plaice }}",)),
        ("{% if %}", "fault", ("body.txt.j2", "line 1")),
        ("{{ 1 // 0 }}", "fault", ("fails for 2 of 2 rows", "ZeroDivisionError", "pgherald preview")),
        ("{{ 1 // (place | length - 4) }}", "warn", ("fails for 1 of 2 rows", "key 1:", "ZeroDivisionError")),
    ],
    ids=["undefined", "syntax", "every row", "one row"],
)
def test_a_template_that_fails(
    plan: int, database: Database, doctor: Examine, tmp_path: Path, text: str, state: str, words: tuple[str, ...]
) -> None:
    database.add_plan("Elsewhere", "b@example.org")
    # Never mailed, and so nothing that a template need bear.
    database.add_plan(None, "c@example.org")
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text(text)
    names(doctor(PGHERALD_MAIL_TEMPLATES=str(folder.parent)), TEMPLATE, state, *words)


@pytest.mark.parametrize(
    "text", ["{{ tags[0] | safe }}", "{{ data.a[0] | safe }}", '<i title="{{ tags | tojson }}"></i>']
)
def test_texts_in_arrays_and_jsonb_are_hostile_too(plan: int, doctor: Examine, tmp_path: Path, text: str) -> None:
    def change(settings: Settings) -> Settings:
        columns = """, p.place, ARRAY['x'] AS tags, '{"a": ["x"]}'::jsonb AS data"""
        return rule_with(lookup=without(settings.rules[RULE].lookup, ", p.place", columns))(settings)

    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.html.j2").write_text(text)
    finding = doctor(change, PGHERALD_MAIL_TEMPLATES=str(folder.parent))[TEMPLATE]
    assert finding.state == "warn"
    assert "becomes markup" in finding.seen
    assert "single quotes around | tojson" in finding.remedy


@pytest.mark.parametrize(
    ("part", "text", "check", "words"),
    [
        ("body.html", "<b>{{ place | safe }}</b>", TEMPLATE, ("becomes markup in the HTML", "remove | safe")),
        ("body.html", "<b title={{ place }}></b>", TEMPLATE, ("becomes markup in the HTML", "quotes")),
        ("body.txt", "at {{ place }}", TEMPLATE, ("the text of place can begin a new line", "{{ place | oneline }}")),
        ("body.txt", "{{ place.index('f') }}", TEMPLATE, ("fails for a text that contains markup", "any text")),
        ("body.html", "<p>{{ place }}</p>", MAIL, ("<html> has no lang", "pgherald preview")),
        ("subject.txt", "", MAIL, ("the subject is empty",)),
    ],
    ids=["safe", "no quotes", "a line of its own", "hostile", "remarks", "no subject"],
)
def test_a_mail_that_is_not_right(
    plan: int, doctor: Examine, tmp_path: Path, part: str, text: str, check: str, words: tuple[str, ...]
) -> None:
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    page = '<html lang="en"><meta charset="utf-8">' if words[0].startswith("becomes") else ""
    (folder / f"{part}.j2").write_text(page + text)
    names(doctor(PGHERALD_MAIL_TEMPLATES=str(folder.parent)), check, "warn", *words)


def test_the_column_that_breaks_a_line_is_named(plan: int, doctor: Examine, tmp_path: Path) -> None:
    def change(settings: Settings) -> Settings:
        return rule_with(lookup=without(settings.rules[RULE].lookup, ", p.place", ", 'x' AS note, p.place"))(settings)

    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text("{{ note | oneline }} {{ place }}")
    finding = doctor(change, PGHERALD_MAIL_TEMPLATES=str(folder.parent))[TEMPLATE]
    assert finding.remedy == "put it on one line: {{ place | oneline }}"


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("{{ note | title }} {{ note.real }} {{ '%d' % note }} {{ 1 / note }}", "ok", ("NULL and hostile text",)),
        ("{{ 1 // (note or 0) }}", "warn", ("fails if note is NULL", "ZeroDivisionError", "require")),
        ("{{ note or 'None' }}", "warn", ("prints None in the text if note is NULL",)),
    ],
)
def test_each_row_is_rendered_with_null_too(
    plan: int, doctor: Examine, tmp_path: Path, text: str, state: str, words: tuple[str, ...]
) -> None:
    def change(settings: Settings) -> Settings:
        return rule_with(lookup=without(settings.rules[RULE].lookup, ", p.place", ", p.place, 7 AS note"))(settings)

    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text(text)
    finding = doctor(change, PGHERALD_MAIL_TEMPLATES=str(folder.parent))[TEMPLATE]
    assert finding.state == state
    for word in words:
        assert word in f"{finding.seen} {finding.remedy}"


def test_translations_are_tried_too(plan: int, doctor: Examine, tmp_path: Path) -> None:
    def change(settings: Settings) -> Settings:
        lookup = without(settings.rules[RULE].lookup, ", p.place", ", p.place, NULL::text AS language")
        return rule_with(lookup=lookup)(settings)

    findings = doctor(change)
    assert ill(findings) == HEALTHY
    assert findings[TEMPLATE].seen.endswith("in 2 languages")
    folder = tmp_path / "templates" / RULE / "de"
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text("bei {{ place }}")
    names(doctor(change, PGHERALD_MAIL_TEMPLATES=str(tmp_path / "templates")), TEMPLATE, "warn", "text part (de)")
    (folder / "body.txt.j2").write_text("bei {{ ort }}")
    names(doctor(change, PGHERALD_MAIL_TEMPLATES=str(tmp_path / "templates")), TEMPLATE, "fault", "{{ ort }}")


def test_links_that_lead_nowhere(plan: int, doctor: Examine) -> None:
    linked = rule_with(link="/dateplans/{key}", unsubscribe="SELECT 1 WHERE '1' = ANY (%(keys)s)")
    names(doctor(linked), MAIL, "warn", "no button", "no List-Unsubscribe")
    mailto = {"PGHERALD_MAIL_UNSUBSCRIBE_MAILTO": "stop@example.org"}
    names(doctor(linked, **mailto), MAIL, "warn", "no button", "only the address to write to")
    there = {
        "PGHERALD_MAIL_BASE_URL": "https://app.example.org",
        "PGHERALD_HTTP_PUBLIC_URL": "https://mail.example.org",
    }
    assert ill(doctor(linked, **there)) == HEALTHY
    names(doctor(linked, **{**there, "PGHERALD_HTTP_PUBLIC_URL": "http://mail.example.org"}), MAIL, "warn", "not https")
    broken = rule_with(unsubscribe="DELETE FROM public.nobody WHERE id::text = ANY (%(keys)s)")
    names(doctor(broken, **there), f"unsubscribe {RULE}", "fault", "public.nobody", "correct [rules.dateplan_verified]")
    slug = rule_with(link="/dateplans/{slug}")
    names(doctor(slug, **there), TEMPLATE, "fault", "link uses {slug}")


@pytest.mark.parametrize(
    ("event", "state", "words"),
    [
        (None, "ok", ("NULL and hostile text",)),
        ("DTSTART:{{ starts_at }}\nSUMMARY:{{ place }}", "ok", ("NULL and hostile text",)),
        ("DTSTART:{{ starts_at }}\nUID:{{ place }}", "fault", ("event.ics.j2, line 2: pgherald writes UID itself",)),
        ("DTSTART:{{ begins_at }}", "fault", ("{{ begins_at }}",)),
        ("DTSTART:{{ starts_at }}\nDTEND:{{ place }}", "warn", ("the calendar entry is left out: DTEND is",)),
        ("DTSTART:{{ starts_at or none.x or (1 // 0) }}", "warn", ("fails if place, starts_at are NULL",)),
    ],
    ids=["shipped", "own", "not ours", "no column", "bad values", "NULL"],
)
def test_a_calendar_entry(
    plan: int, doctor: Examine, tmp_path: Path, event: str | None, state: str, words: tuple[str, ...]
) -> None:
    lookup = "timestamptz '2026-12-31 18:00+00' AS starts_at"
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    if event is not None:
        (folder / "event.ics.j2").write_text(event)

    def change(settings: Settings) -> Settings:
        shown = without(settings.rules[RULE].lookup, ", p.place", f", p.place, {lookup}")
        return rule_with(lookup=shown, require=())(settings)

    findings = doctor(change, PGHERALD_MAIL_TEMPLATES=str(folder.parent))
    assert ill(findings) - HEALTHY == (set() if state == "ok" else {TEMPLATE})
    assert findings[TEMPLATE].state == state
    for word in words:
        assert word in findings[TEMPLATE].seen


def test_a_column_that_would_be_left_out(plan: int, doctor: Examine) -> None:
    def change(settings: Settings) -> Settings:
        lookup = without(settings.rules[RULE].lookup, ", p.place", ", p.place, 'x' AS from_name, 'nobody' AS reply_to")
        return rule_with(lookup=lookup)(settings)

    words = ("reply_to is left out: the address has no @", "(key 1)", "correct that column")
    names(doctor(change), TEMPLATE, "warn", *words)
