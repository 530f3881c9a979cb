"""A row's name and addresses for answers: what is taken, what is left out, and what is said of it."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.address import parse_address, parse_mailbox
from listener.mail.row_headers import RowHeaders, row_headers
from listener.recipients import RecipientPolicy

ANYBODY = RecipientPolicy()


def read(policy: RecipientPolicy = ANYBODY, **row: Any) -> tuple[str, list[str], tuple[str, ...]]:
    made = row_headers(row, policy)
    return made.from_name, [f"{box.name} <{box.address}>".lstrip() for box in made.reply_to], made.remarks


@pytest.mark.parametrize("row", [{}, {"from_name": None, "reply_to": None}, {"from_name": " \u200b", "reply_to": " "}])
def test_without_values_the_configured_ones_apply(row: Any) -> None:
    assert row_headers(row, ANYBODY) == RowHeaders()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Anna", "Anna"),
        ("  Anna \t Müller\n", "Anna Müller"),
        ('Müller, Anna "Nan"', 'Müller, Anna "Nan"'),
        ("An\u200bna\u202e \ufeffM\0\x1b[31m", "Anna M[31m"),
        ("Anna\r\nBcc: evil", "Anna Bcc: evil"),
        ("דנה 👩‍👩‍👧", "דנה 👩‍👩‍👧"),
        ("=?utf-8?q?x?=", "=?utf-8?q?x?="),
        ("x" * 100, "x" * 100),
    ],
)
def test_a_name_is_cleaned(value: str, name: str) -> None:
    assert read(from_name=value) == (name, [], ())


@pytest.mark.parametrize(
    ("value", "remark"),
    [
        ("ceo@bank.example", "it has an @, < or >, and could be taken for the sender's address"),
        ("ceo＠bank.example", "it has an @, < or >"),
        ("ceo﹫bank.example", "it has an @, < or >"),
        ("Bank <ceo", "it has an @, < or >"),
        ("Bank ＞", "it has an @, < or >"),
        ("x" * 101, "it has more than 100 characters"),
        ("Anna" + "\u200b" * 1000, "it has more than 100 characters"),
        ("\u0301" * 1_000_000, "it has more than 100 characters"),
        (7, "it is not text"),
        (["Anna"], "it is not text"),
    ],
    ids=range(10),
)
def test_a_bad_name_is_left_out(value: Any, remark: str) -> None:
    name, _, [said] = read(from_name=value)
    assert name == ""
    assert said.startswith(f"from_name is left out: {remark}")
    assert not isinstance(value, str) or value not in said


@pytest.mark.parametrize(
    ("value", "mailboxes"),
    [
        ("anna@example.org", ["<anna@example.org>"]),
        (" mailto:anna@Bücher.example ", ["<anna@xn--bcher-kva.example>"]),
        ('"Müller, Anna" <anna@example.org>', ["Müller, Anna <anna@example.org>"]),
        ("evil@bank.example <anna@example.org>", None),
        ("Bank＠x <anna@example.org>", ["<anna@example.org>"]),
        (["anna@example.org", None, "", "Ben <ben@example.org>"], ["<anna@example.org>", "Ben <ben@example.org>"]),
        ("anna@example.org, ben@example.org", None),
        ("anna@example.org; ben@example.org", None),
        ("anna@example.org\r\nBcc: evil@example.org", None),
        ("nobody", None),
        ("josé@example.org", None),
        (["anna@example.org", "nobody"], None),
        (["anna@example.org"] * 11, None),
        (7, None),
        ([7], None),
        ([["anna@example.org"]], None),
    ],
)
def test_the_answers_go_to_one_address_or_to_an_array_of_them(value: Any, mailboxes: list[str] | None) -> None:
    _, found, remarks = read(reply_to=value)
    assert found == (mailboxes or [])
    assert [remark.startswith("reply_to is left out: ") for remark in remarks] == ([] if mailboxes else [True])
    assert not any("example.org" in remark for remark in remarks)


def test_each_column_is_left_out_alone() -> None:
    assert read(from_name="a@b", reply_to="anna@example.org")[1] == ["<anna@example.org>"]
    assert read(from_name="Anna", reply_to="nobody")[0] == "Anna"


@pytest.mark.parametrize(
    ("policy", "answered"),
    [
        (RecipientPolicy(redirect_to=parse_address("qa@example.org")), []),
        (RecipientPolicy(allow=("@example.com",)), []),
        (RecipientPolicy(allow=("anna@example.org",)), ["<anna@example.org>"]),
        (RecipientPolicy(redirect_to=parse_address("anna@example.org")), ["<anna@example.org>"]),
    ],
)
def test_a_staging_system_names_nobody_to_whom_it_may_not_write(policy: RecipientPolicy, answered: list[str]) -> None:
    assert read(policy, reply_to=["anna@example.org", "ben@example.net"]) == ("", answered, ())


@given(st.text(max_size=300), st.text(max_size=80) | st.lists(st.text(max_size=80), max_size=12))
@example("Anna", '"a@b" <anna@example.org>')
def test_whatever_is_in_the_row_the_headers_are_safe(name: str, answers: str | list[str]) -> None:
    made = row_headers({"from_name": name, "reply_to": answers}, ANYBODY)
    for shown in (made.from_name, *(mailbox.name for mailbox in made.reply_to)):
        assert len(shown) <= 100
        assert not set(shown) & {*"@<>", *map(chr, range(0x20))}
    assert all(parse_mailbox(str(mailbox.address)).address == mailbox.address for mailbox in made.reply_to)
    assert len(made.remarks) <= 2
