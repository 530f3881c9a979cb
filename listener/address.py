"""E-mail addresses, read once and strictly: an `Address` can go into any command or header as it is."""

import re
import unicodedata
from dataclasses import dataclass

import idna

from listener.errors import BadData

# RFC 5321 4.1.2: Dot-string, with the non-ASCII characters that RFC 6531 adds. No quoted local part and no
# address literal: nobody's account needs them, and parsers disagree about them. Nothing that looks like an
# encoded word (RFC 2047) either: some servers decode one there, and mail somebody else.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_LOCAL = re.compile(rf"(?!.*=\?){_ATEXT}(?:\.{_ATEXT})*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})

_MAX_LOCAL = 64
_MAX_ADDRESS = 254
# In characters, before they are normalized: no address shrinks to a quarter by it.
_MAX_TEXT = 4 * _MAX_ADDRESS
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox; `domain` is in A-label form and lower case.

    Cannot be made with anything else in it: raises `BadData` (``bad_address``). The limits are those of
    RFC 5321 4.5.3.1, in octets; 254 follows from its 256 for a path with its brackets.
    """

    local: str
    domain: str

    def __post_init__(self) -> None:
        if not _LOCAL.fullmatch(self.local):
            raise _bad("has a character in its local part that does not belong there, or an empty local part")
        if not self.local.isascii():
            _check_international(self.local)
        if not _DOMAIN.fullmatch(self.domain):
            raise _bad("has no valid domain")
        octets = len(self.local.encode())
        if octets > _MAX_LOCAL:
            raise _bad(f"has a local part of {octets} octets; {_MAX_LOCAL} are allowed")
        if octets + 1 + len(self.domain) > _MAX_ADDRESS:
            raise _bad(f"is longer than {_MAX_ADDRESS} octets")

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def masked(self) -> str:
        """As logs and histories show it: ``j***@example.org``."""
        return f"{self.local[0]}***@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Return whether only a server that announces SMTPUTF8 (RFC 6531) can take it."""
        return not self.local.isascii()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, possibly empty, and its address. Raises `ValueError` where the name is not one line."""

    name: str
    address: Address

    def __post_init__(self) -> None:
        if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in self.name):
            raise ValueError("the display name holds a control character or a line break")
        if len(self.name) > _MAX_NAME:
            raise ValueError(f"the display name is longer than {_MAX_NAME} characters")


def parse_address(text: str) -> Address:
    """Read a bare address; white space around it is forgiven.

    Raises `BadData` (``bad_address``). Its detail goes in the history and so does not repeat the address.
    """
    text = text.strip()
    # The time to normalize grows with the square of a run of combining characters: minutes for a megabyte of them.
    if len(text) > _MAX_TEXT:
        raise _bad(f"is longer than {_MAX_ADDRESS} octets")
    local, at, domain = text.rpartition("@")
    if not at:
        raise _bad("has no @")
    return Address(unicodedata.normalize("NFC", local), _a_label(domain))


def parse_mailbox(text: str) -> Mailbox:
    """Read ``Date Plans <no-reply@example.org>``, ``"Plans, Date" <…>`` or a bare address.

    Raises `ValueError` with a sentence about what is wrong.
    """
    name, bracket, rest = text.strip().rpartition("<")
    if bracket and not rest.endswith(">"):
        raise ValueError("the address is not closed with >")
    name = name.strip()
    if len(name) > 1 and name.startswith('"') and name.endswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    elif "<" in name or ">" in name:
        raise ValueError("more than one address, or a < or > in a name that is not quoted")
    try:
        return Mailbox(name, parse_address(rest[:-1] if bracket else rest))
    except BadData as error:
        raise ValueError(str(error)) from None


_HIDDEN = re.compile(
    # Starts only where a run starts, or the time would grow with the square of the run's length.
    # %40 and +40 are @ in an URL and in the xtext of an ORCPT (RFC 3461).
    r"""(?<![^\s<>()\[\],;:"])([^\s<>()\[\],;:"@])[^\s<>()\[\],;:"]*(@|\uff20|%40|\+40)|"[^"]*"(@)"""
)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_MASKED = 512


def mask(text: str, known: Address | None = None) -> str:
    """A stranger's text, such as a server's reply, as one line for a log: addresses masked, at most 512.

    Of the address that is known the local part alone too, as in ``jane.doe... User unknown``.
    """
    # A pattern of its own for each address costs more than making the message. Where all is ASCII, `in` says as surely
    # whether there is anything to find; elsewhere letters may match that don't look alike.
    if known is not None and (known.local.lower() in text.lower() or not (known.local.isascii() and text.isascii())):
        local = re.compile(rf"(?<!\w){re.escape(known.local)}(?!\w)", re.IGNORECASE)
        text = local.sub(lambda found: f"{found[0][0]}***", text)
    # Nearly every reply that is read has none of these, and to ask for them is cheaper than the patterns.
    if "@" in text or "40" in text or "\uff20" in text:
        text = _HIDDEN.sub(lambda found: f"{found[1] or ''}***{found[2] or found[3]}", text)
    if not text.isprintable():
        text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
    return text if len(text) <= _MAX_MASKED else text[: _MAX_MASKED - 1] + "…"


def _a_label(domain: str) -> str:
    """The domain as DNS spells it (IDNA 2008, mapped as UTS 46 says)."""
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii").lower()
    except UnicodeError:
        raise _bad("has a domain that is no internationalized domain name") from None


def _check_international(local: str) -> None:
    if any(unicodedata.category(char) in _INVISIBLE for char in local):
        raise _bad("has an invisible or unassigned character in its local part")
    # A compatibility character can turn into @ or a bracket on a server that normalizes.
    if not _LOCAL.fullmatch(unicodedata.normalize("NFKC", local)):
        raise _bad("has a character in its local part that may turn into another one")


def _bad(what: str) -> BadData:
    return BadData("bad_address", f"the address {what}")
