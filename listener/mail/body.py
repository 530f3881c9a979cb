"""The body of a message: its parts in quoted-printable (RFC 2045), in lines that end in CRLF."""

import re
from binascii import b2a_qp

# Control characters except tab and line ends. A mail program shows them as boxes, or obeys them.
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_C1_CONTROLS = re.compile(rb"\xc2[\x80-\x9f]")
_LINE_OF_77 = re.compile(rb"^(.{74})(=20|=09)(?=\r$)", re.MULTILINE)


def part(media_type: str, text: str, file: str = "") -> bytes:
    """Return a part: its headers, an empty line, and the encoded text. With `file` it is an attachment of that name."""
    head = (
        f'Content-Type: {media_type}; charset="utf-8"\r\n'
        + (f'Content-Disposition: attachment; filename="{file}"\r\n' if file else "")
        + "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    return head.encode("ascii") + _quoted_printable(text)


def multipart(subtype: bytes, boundary: bytes, *parts: bytes) -> bytes:
    """Return the parts as ``multipart/SUBTYPE`` (RFC 2046 5.1). An ``alternative`` has the preferred one last."""
    # "=_" cannot occur in quoted-printable, so no text can contain the boundary (RFC 2045 6.7).
    head = b'Content-Type: multipart/%b;\r\n boundary="=_%b"\r\n\r\n' % (subtype, boundary)
    return head + b"".join(b"--=_%b\r\n%b\r\n" % (boundary, each) for each in parts) + b"--=_%b--\r\n" % boundary


def _quoted_printable(text: str) -> bytes:
    """Return the text in lines of at most 76 characters (RFC 2045 6.7). Every line ends in CRLF, also the last one."""
    # "ignore" drops lone surrogates, which UTF-8 cannot encode.
    octets = text.encode("utf-8", "ignore").translate(None, _CONTROLS)
    octets = _C1_CONTROLS.sub(b"", octets)
    octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not octets.endswith(b"\n"):
        octets += b"\n"
    # b2a_qp ends its soft breaks in whatever ends the first line of its input.
    encoded = b2a_qp(octets.replace(b"\n", b"\r\n"))
    # b2a_qp has two flaws. White space at the end of a line may make the line 77 characters long. The search for that
    # takes as long as the encoding, so it runs only if there is such white space.
    if b" \n" in octets or b"\t\n" in octets:
        encoded = _LINE_OF_77.sub(rb"\1=\r\n\2", encoded)
    # And a dot may stand alone on a line after a soft break. It would end the message for a careless server.
    return encoded.replace(b"\r\n.\r\n", b"\r\n=2E\r\n")
