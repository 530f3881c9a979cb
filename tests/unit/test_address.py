"""Addresses: what is taken, what is refused, and what a log may show of them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.address import Address, Mailbox, mask, parse_address, parse_mailbox
from listener.errors import BadData


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jane@example.org", "jane@example.org"),
        ("  jane@example.org\r\n", "jane@example.org"),
        ("Jane.Doe+plans@Example.ORG", "Jane.Doe+plans@example.org"),
        ("o'brien@example.org", "o'brien@example.org"),
        ("root@localhost", "root@localhost"),
        ("jane@bücher.example", "jane@xn--bcher-kva.example"),
        ("jane@BÜCHER.example", "jane@xn--bcher-kva.example"),
        ("jane@xn--bcher-kva.example", "jane@xn--bcher-kva.example"),
        ("jane@faß.de", "jane@xn--fa-hia.de"),
        ("jane@例え。テスト", "jane@xn--r8jz45g.xn--zckzah"),
        ("jane@r3---sn-x.example", "jane@r3---sn-x.example"),
        ("用户@example.org", "用户@example.org"),
        ("jose\u0301@example.org", "jos\u00e9@example.org"),
        ("a" * 64 + "@example.org", "a" * 64 + "@example.org"),
        ('"jane"@example.org', "jane@example.org"),
        ('"jane.doe"@example.org', "jane.doe@example.org"),
    ],
)
def test_an_address_is_taken_and_put_in_its_plain_form(text: str, expected: str) -> None:
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "jane",
        "@example.org",
        "jane@",
        "jane@@example.org",
        "jane@doe@example.org",
        "jane doe@example.org",
        '"jane doe"@example.org',
        '"a\\"@b\r\nRCPT TO:<evil@example.org>"@example.org',
        "jane@example.org\r\nRCPT TO:<evil@example.org>",
        "jane\r\nBcc: evil@example.org",
        "jane\x00@example.org",
        "jane@example.org\x00",
        "jane@exa\x00mple.org",
        "jane\x7f@example.org",
        "jane\u0085x@example.org",
        "jane\u00a0x@example.org",
        "jane\u2028x@example.org",
        "jane\u202ex@example.org",
        "jane\ud800@example.org",
        "jane\uff20evil@example.org",
        "jane\uff1cx@example.org",
        "jane@evil\uff20example.org",
        "jane,evil@example.org",
        "jane;evil@example.org",
        "jane:x@example.org",
        "jane(x)@example.org",
        ".@example.org",
        "...@example.org",
        '"."@example.org',
        '"ja"ne"@example.org',
        '"jane@example.org',
        "jane\u2026@example.org",
        "jane\uff0e\uff0ex@example.org",
        "jane\u200cx@example.org",
        '"jane\\"@example.org',
        '""@example.org',
        "<>",
        "mailto:",
        "jane@example.org,evil@example.org",
        "jane@example.org, evil@example.org",
        "jane@example.org; evil@example.org;",
        "jane@example.org evil@example.org",
        "jane@example.org\nevil@example.org",
        "jane@example.org/evil@example.org",
        "jane@example.org|evil@example.org",
        "<jane@example.org>, <evil@example.org>",
        "<jane@example.org><evil@example.org>",
        '"jane@example.org", "evil@example.org"',
        "'jane@example.org','evil@example.org'",
        "Jane <jane@example.org>, Evil <evil@example.org>",
        "jane@example.org <evil@example.org>",
        '"jane@example.org" <evil@example.org>',
        "jane@example.org<mailto:evil@example.org>",
        "mailto:jane@example.org,evil@example.org",
        "mailto:jane@example.org?cc=evil@example.org",
        "mailto:jane@example.org?bcc=evil%40example.org",
        "mailto:jane%40example.org%2Cevil%40example.org",
        "mailto:jane%0D%0ARCPT%20TO:evil@example.org",
        "mailto:jane%FF@example.org",
        "jane\uff20example.org, evil\uff20example.org",
        "Jane <jane@example.org",
        "jane@example.org>",
        "a" * 63 + ".@example.org",
        "=?utf-8?q?jane=40evil.example=3e=00?=@example.org",
        "x=?utf-8?b?amFuZQ==?=@example.org",
        "jane@example..org",
        "jane@.example.org",
        "jane@-example.org",
        "jane@exa_mple.org",
        "jane@exam ple.org",
        "jane@[127.0.0.1]",
        "jane@127.0.0.1",
        "jane@" + "a" * 64 + ".org",
        "jane@i\u2764.example",
        "jane@\ud800.example",
        "a" * 65 + "@example.org",
        "é" * 33 + "@example.org",
        "jane@" + ".".join(["a" * 60] * 5),
        "jane@" + "ü" * 1_000_000,
        "a" * 1_000_000 + "@example.org",
        "e" + "\u0300\u0316" * 500_000 + "@example.org",
        "jane@" + "\u0300\u0316" * 500_000 + ".org",
    ],
)
@pytest.mark.timeout(60)
def test_a_malformed_address_is_bad_data_and_its_detail_does_not_repeat_it(text: str) -> None:
    with pytest.raises(BadData) as caught:
        parse_address(text)
    assert caught.value.reason == "bad_address"
    assert len(str(caught.value)) < 120
    assert "jane" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("try..this..0511@docomo.ne.jp", "try..this..0511"),
        ("xxx.@docomo.ne.jp", "xxx."),
        (".xxx@docomo.ne.jp", ".xxx"),
        ("...x-._.@ezweb.ne.jp", "...x-._."),
        ('"try..this..0511"@docomo.ne.jp', "try..this..0511"),
        ("Taro <xxx.@docomo.ne.jp>", "xxx."),
        ("mailto:%22a..b%22@docomo.ne.jp", "a..b"),
        ("用..户@example.org", "用..户"),
        ("a" * 61 + ".@docomo.ne.jp", "a" * 61 + "."),
    ],
)
def test_dots_in_places_of_their_own_are_quoted(text: str, local: str) -> None:
    address = parse_address(text)
    assert address.local == local
    assert str(address) == f'"{local}"@{address.domain}'
    assert parse_address(str(address)) == address
    assert address.masked == f"{local[0]}***@{address.domain}"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffjane@example.org",
        "\u200bjane@example.org\u200b",
        "jane@\u200bexample.org",
        "ja\u00adne\u2060@exam\ufeffple.org",
        "\u202ajane@example.org\u202c",
        "\u200e\u2068jane@example.org\u2069\u200d",
        "\u00a0\tjane@example.org\u3000\r\n\u00a0",
        "mailto:jane@example.org",
        "MailTo: jane@example.org",
        "mailto://jane@example.org",
        "mailto:jane%40example.org",
        "mailto:jane@example.org?subject=Hello%20there",
        "<mailto:jane@example.org>",
        "<jane@example.org>",
        "< jane@example.org >;",
        "<<jane@example.org>>",
        "jane@example.org;",
        "jane@example.org, ",
        ";jane@example.org ; ;",
        "jane@example.org.",
        "jane@Example.ORG.;",
        '"jane@example.org"',
        "'jane@example.org'",
        "„jane@example.org“,",
        "`jane@example.org`",
        "(jane@example.org)",
        "[jane@example.org]",
        "Jane <jane@example.org>",
        "Doe, Jane <jane@example.org>;",
        '"Doe, Jane" <jane@example.org>',
        "'jane@example.org' <jane@example.org>",
        "jane@example.org<mailto:jane@EXAMPLE.org>",
        "\ufeffmailto:\u200b<jane@example.org>;\u00a0",
        "jane\uff20example.org",
        "ｊａｎｅ＠ｅｘａｍｐｌｅ．ｏｒｇ",
        "jane\ufe6bexample.org",
        "jane@example.org" + " " * 1_000_000,
    ],
)
def test_what_copying_leaves_around_an_address_is_ignored(text: str) -> None:
    assert parse_address(text) == Address("jane", "example.org")


@pytest.mark.parametrize(
    ("local", "domain"),
    [
        ("jane\r\nDATA", "example.org"),
        ("jane\n", "example.org"),
        ("jane", "example.org\r\nDATA"),
        ("jane", "example.org\n"),
        ("jane", "Example.org"),
        ("jane", "bücher.example"),
        ("<jane", "example.org"),
        ("", "example.org"),
        ("jane", ""),
        ('ja"ne.', "example.org"),
        ('"jane."', "example.org"),
        ("jane.\\", "example.org"),
    ],
)
def test_no_address_can_be_made_past_the_parser(local: str, domain: str) -> None:
    with pytest.raises(BadData):
        Address(local, domain)


@given(st.text())
def test_any_text_is_an_address_or_bad_data(text: str) -> None:
    _parse_or_refuse(text)


@pytest.mark.parametrize("piece", ["<", "<>", ", ", ".,", "mailto:", "a@b<", "a@b <a@b>", '"', "mailto:%3C"])
@pytest.mark.timeout(60)
def test_surroundings_have_no_depth_that_fails(piece: str) -> None:
    _parse_or_refuse(piece * (1016 // len(piece)))
    _parse_or_refuse(f"{piece * 50}a@b.example{'>' * 50}")


@given(st.text(st.sampled_from(string.printable + "@@..<>é用\u200b\uff20\ufe52")), st.text())
def test_an_address_never_holds_what_ends_a_command_or_a_bracket(local: str, domain: str) -> None:
    _parse_or_refuse(f"{local}@{domain}")
    _parse_or_refuse(f"{local}@example.org")


def _parse_or_refuse(text: str) -> None:
    try:
        address = parse_address(text)
    except BadData:
        return
    whole = str(address)
    assert whole.count("@") == 1
    assert whole.isprintable()
    assert not set(address.local + address.domain) & set(' <>()[]\\,;:"')
    assert whole.count('"') in (0, 2)
    assert address.domain.isascii()
    assert len(whole.encode()) <= 254
    assert parse_address(whole) == address


def test_masked_shows_the_first_letter_and_the_domain() -> None:
    assert parse_address("jane@example.org").masked == "j***@example.org"


def test_only_a_local_part_that_is_not_ascii_needs_smtputf8() -> None:
    assert parse_address("josé@example.org").needs_smtputf8
    assert not parse_address("jose@bücher.example").needs_smtputf8


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("Date Plans <no-reply@example.org>", "Date Plans", "no-reply@example.org"),
        ('"Plans, Date" <no-reply@example.org>', "Plans, Date", "no-reply@example.org"),
        (r'"The \"Best\" <Plans>" <no-reply@example.org>', 'The "Best" <Plans>', "no-reply@example.org"),
        ("Dátes 🎉<no-reply@Bücher.example>", "Dátes 🎉", "no-reply@xn--bcher-kva.example"),
        ("<no-reply@example.org>", "", "no-reply@example.org"),
        (" no-reply@example.org ", "", "no-reply@example.org"),
    ],
)
def test_a_mailbox_is_read(text: str, name: str, address: str) -> None:
    assert parse_mailbox(text) == Mailbox(name, parse_address(address))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Date Plans",
        "Date Plans <>",
        "Date Plans <no-reply@example.org",
        "Date Plans no-reply@example.org",
        "no-reply@example.org>",
        "Date Plans <no-reply>",
        "A <a@example.org>, B <b@example.org>",
        "a@example.org, b@example.org",
        "Date\r\nBcc: evil@example.org <no-reply@example.org>",
        '"Date\nPlans" <no-reply@example.org>',
        "Date\u2028Plans <no-reply@example.org>",
        "x" * 201 + " <no-reply@example.org>",
    ],
)
def test_a_malformed_mailbox_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|name"):
        parse_mailbox(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<jane.doe@example.org>: unknown", "<j***@example.org>: unknown"),
        (
            "no a.b@x.example, no c@y.example;d@z.example",
            "no a***@x.example, no c***@y.example;d***@z.example",
        ),
        ('"jane doe"@example.org unknown', "***@example.org unknown"),
        ('unknown "jane@example.org"', 'unknown "j***@example.org"'),
        ("mailto:jane@example.org", "mailto:j***@example.org"),
        ("rfc822;jane%40example.org", "rfc822;j***%40example.org"),
        ("ORCPT=rfc822;jane+40example.org", "ORCPT=rfc822;j***+40example.org"),
        ("jane@inner@outer.example", "j***@outer.example"),
        ("jane＠example.org", "j***＠example.org"),
        ("用户@example.org", "用***@example.org"),
        ("jane\x00doe@example.org", "j***@example.org"),
        ("two\r\nlines\x1b[31m\x85\u2028\u202e", r"two\r\nlines\x1b[31m\x85\u2028\u202e"),
        ("no address here", "no address here"),
        ("", ""),
    ],
)
def test_a_strangers_text_is_masked_and_escaped(text: str, expected: str) -> None:
    assert mask(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('550 5.1.1 <"try..this."@docomo.ne.jp>: no', "550 5.1.1 <***@docomo.ne.jp>: no"),
        ("<try..this.@docomo.ne.jp> no", "<t***@docomo.ne.jp> no"),
        ("try..this.... User unknown", "t***... User unknown"),
        ('"try..this." unknown', '"t***" unknown'),
    ],
)
def test_a_quoted_local_part_is_masked_in_every_form(text: str, expected: str) -> None:
    assert mask(text, parse_address("try..this.@docomo.ne.jp")) == expected


def test_a_strangers_text_is_cut_after_it_is_masked() -> None:
    masked = mask("x" * 300 + " " + "jane" * 60 + "@example.org " + "y" * 1000)
    assert len(masked) == 512
    assert "jane" not in masked


@given(st.text())
def test_a_masked_text_is_one_printable_line_of_at_most_512(text: str) -> None:
    masked = mask(text)
    assert len(masked) <= 512
    assert len((masked + "|").splitlines()) == 1
    assert "\x00" not in masked
    masked.encode()


@pytest.mark.parametrize("piece", ["a", '"', "@", "a@", 'a"', " a", "%4", "+40"])
@pytest.mark.timeout(60)
def test_masking_takes_linear_time(piece: str) -> None:
    assert len(mask(piece * 1_000_000)) <= 512
