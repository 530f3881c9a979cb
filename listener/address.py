"""E-mail addresses, read once and strictly. An `Address` is safe in every SMTP command and every header."""

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

import idna

from listener.errors import BadData

# RFC 5321 4.1.2: the characters of a Dot-string, with the non-ASCII ones that RFC 6531 adds. Dots may stand anywhere,
# because Japanese carriers gave out such addresses; they are then quoted. Other quoted local parts and address literals
# are refused: people's accounts do not need them, and parsers disagree about them. Text that looks like an encoded word
# (RFC 2047) is refused too, because some servers decode it and write to another person.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]"
_LOCAL = re.compile(rf"(?!.*=\?)\.*{_ATEXT}(?:{_ATEXT}|\.)*")
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})

# RFC 5321 4.5.3.1.1.
_MAX_LOCAL_BYTES = 64
# RFC 5321 4.5.3.1.3 allows 256 for a path, which is an address in its angle brackets.
_MAX_ADDRESS_BYTES = 254
# Characters that have no meaning anywhere in an address: soft hyphen, zero-width space, word joiner, BOM. UTS 46 ignores
# them in a domain.
_IGNORED = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
# Around an address: the comma and semicolon of a list, and the marks of direction that copied text carries.
_AROUND = ",;\u061c\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_PAIRS = frozenset({"<>", '""', "''", "``", "()", "[]", "“”", "„“", "‘’", "‚‘", "«»", "»«"})
# Before normalization. No valid address shrinks to a quarter by it.
_MAX_TEXT_CHARS = 4 * _MAX_ADDRESS_BYTES
# A From line with a longer name is cut by every mail program.
_MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Address:
    """An e-mail address. `local` is not quoted. `domain` is in A-label form and in lower case.

    Raises:
        BadData: a part is invalid or too long (``bad_address``).
    """

    local: str
    domain: str

    def __post_init__(self) -> None:
        if not _LOCAL.fullmatch(self.local):
            raise _bad("has an invalid character before the @, or nothing before it")
        if not self.local.isascii():
            _check_international(self.local)
        if not _DOMAIN.fullmatch(self.domain):
            raise _bad("has an invalid domain")
        octets = len(self._written_local.encode())
        if octets > _MAX_LOCAL_BYTES:
            raise _bad(f"has {octets} octets before the @; at most {_MAX_LOCAL_BYTES} are allowed")
        if octets + 1 + len(self.domain) > _MAX_ADDRESS_BYTES:
            raise _bad(f"is longer than {_MAX_ADDRESS_BYTES} octets")

    def __str__(self) -> str:
        return f"{self._written_local}@{self.domain}"

    @property
    def _written_local(self) -> str:
        """The local part as commands and headers write it (RFC 5321 4.1.2, RFC 5322 3.4.1)."""
        return self.local if _DOT_STRING.fullmatch(self.local) else f'"{self.local}"'

    @property
    def masked(self) -> str:
        """The address as logs and histories show it: ``j***@example.org``."""
        return f"{self.local[0]}***@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """True if only a server that announces SMTPUTF8 (RFC 6531) can take the address."""
        return not self.local.isascii()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, which may be empty, and an address.

    Raises:
        ValueError: the name has a control character or a line break, or is too long.
    """

    name: str
    address: Address

    def __post_init__(self) -> None:
        if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in self.name):
            raise ValueError("the display name has a control character or a line break; remove it")
        if len(self.name) > _MAX_NAME_CHARS:
            raise ValueError(f"the display name is longer than {_MAX_NAME_CHARS} characters; shorten it")


def parse_address(text: str) -> Address:
    """Return the one address of a text.

    Copied text brings signs with it, which are ignored: white space, invisible characters, brackets, quotes, the comma,
    semicolon or dot of a sentence. So are ``mailto:`` (RFC 6068) and a display name. Two addresses are an error.

    Raises:
        BadData: the text is not one address (``bad_address``). The message goes into the history, so it does not repeat
            the address.
    """
    text = text.strip()
    # Normalization takes time by the square of a run of combining characters: minutes for a megabyte of them.
    if len(text) > _MAX_TEXT_CHARS:
        raise _bad(f"is longer than {_MAX_ADDRESS_BYTES} octets")
    text = text.translate(_IGNORED)
    if "@" not in text:
        # An input method for Japanese or Chinese types the sign and the letters in full width.
        text = unicodedata.normalize("NFKC", text)
    text = _without_surroundings(text)
    name, bracket, rest = text.rpartition("<")
    if bracket and rest.endswith(">"):
        address = parse_address(rest[:-1])
        # Mail programs repeat the address as its own name. With another one there, it is unclear who is meant.
        if "@" in name and parse_address(name) != address:
            raise _bad("is followed by another one; write only one")
        return address
    local, at, domain = text.rpartition("@")
    if not at:
        raise _bad("has no @")
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = local[1:-1]
    return Address(unicodedata.normalize("NFC", local), _a_label(domain))


def _without_surroundings(text: str) -> str:
    while True:
        shorter = text.strip().strip(_AROUND).rstrip(".")
        if len(shorter) > 1 and shorter[0] + shorter[-1] in _PAIRS:
            shorter = shorter[1:-1]
        if shorter[:7].lower() == "mailto:":
            shorter = _of_mailto(shorter[7:])
        if shorter == text:
            return text
        text = shorter


def _of_mailto(url: str) -> str:
    """Return the recipients of a mailto URL, without its scheme (RFC 6068 2)."""
    recipients, _, fields = url.partition("?")
    try:
        if "@" in unquote(fields):
            raise _bad("is followed by another one; write only one")
        return unquote(recipients.removeprefix("//"), errors="strict")
    except UnicodeDecodeError:
        raise _bad("has a %XX that is not UTF-8") from None


def parse_mailbox(text: str) -> Mailbox:
    """Return the mailbox of ``Date Plans <no-reply@example.org>``, ``"Plans, Date" <…>`` or a bare address.

    Raises:
        ValueError: the text is invalid. The message says why.
    """
    name, bracket, rest = text.strip().rpartition("<")
    if bracket and not rest.endswith(">"):
        raise ValueError("the address lacks its closing >; write Name <jane@example.com>")
    name = name.strip()
    if len(name) > 1 and name.startswith('"') and name.endswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    elif "<" in name or ">" in name:
        raise ValueError(
            'has more than one address, or a < or > in the name; put the name in quotes: "<Name>" <jane@example.com>'
        )
    try:
        return Mailbox(name, parse_address(rest[:-1] if bracket else rest))
    except BadData as error:
        raise ValueError(str(error)) from None


_HIDDEN = re.compile(
    # A match may start only where a run starts. Otherwise the time would grow with the square of its length. In a URL
    # @ is %40, and in the xtext of an ORCPT it is +40 (RFC 3461).
    r"""(?<![^\s<>()\[\],;:"])([^\s<>()\[\],;:"@])[^\s<>()\[\],;:"]*(@|\uff20|%40|\+40)|"[^"]*"(@)"""
)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A reply line of RFC 5321 4.5.3.1.5. A server that sends more must not fill the log.
_MAX_MASKED_CHARS = 512


def mask(text: str, known: Address | None = None) -> str:
    """Return text from outside, such as a server's reply, as one line for a log.

    Addresses in it are masked, and it is cut at 512 characters. The local part of the address `known` is masked even
    without its domain, as in ``jane.doe... User unknown``.
    """
    # To compile a pattern for each address costs more than to compose the message. In ASCII text, `in` finds out whether
    # the pattern would match. In other text it does not, since IGNORECASE matches letters that `lower` keeps apart.
    if known is not None and (known.local.lower() in text.lower() or not (known.local.isascii() and text.isascii())):
        local = re.compile(rf"(?<!\w){re.escape(known.local)}(?!\w)", re.IGNORECASE)
        text = local.sub(lambda found: f"{found[0][0]}***", text)
    # Nearly every reply has none of these, and this test is cheaper than the patterns.
    if "@" in text or "40" in text or "\uff20" in text:
        text = _HIDDEN.sub(lambda found: f"{found[1] or ''}***{found[2] or found[3]}", text)
    if not text.isprintable():
        text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
    return text if len(text) <= _MAX_MASKED_CHARS else text[: _MAX_MASKED_CHARS - 1] + "…"


def _a_label(domain: str) -> str:
    """Return the domain as DNS has it (IDNA 2008, with the mapping of UTS 46)."""
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii").lower()
    except UnicodeError:
        raise _bad("has a domain that is not a valid internationalized domain name") from None


def _check_international(local: str) -> None:
    """Raise `BadData` for characters that hide, or that become others on a server that normalizes."""
    if any(unicodedata.category(char) in _INVISIBLE for char in local):
        raise _bad("has an invisible or unassigned character before the @")
    # A compatibility character can become @, a bracket or a dot.
    changed = unicodedata.normalize("NFKC", local)
    if not _LOCAL.fullmatch(changed) or changed.count(".") != local.count("."):
        raise _bad("has a character before the @ that a mail server may turn into another one")


def _bad(what: str) -> BadData:
    return BadData("bad_address", f"the address {what}")
