"""TLS with a mail server: find out whether it speaks TLS on a port, and the names in its certificate."""

import asyncio
import ssl

# A server that speaks TLS answers the handshake at once. This is as long as a person waits.
_PROBE_TIMEOUT_S = 5.0


async def speaks_tls(address: str, port: int) -> bool:
    """Return whether a server speaks TLS from the start on this port, over a connection of its own.

    The certificate does not matter, and nothing is sent but the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(address, port, ssl=context)
    except ssl.SSLError as error:
        # An alert is TLS, too: the server wants another version, or a certificate of the client.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    writer.transport.abort()
    return True


def any_name(tls: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context that trusts the same authorities as `tls`, and accepts a certificate for any name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if authorities := tls.get_ca_certs(binary_form=True):
        context.load_verify_locations(cadata=b"".join(authorities))
    return context


def certificate_names(transport: asyncio.BaseTransport) -> list[str]:
    """Return the names and addresses in the peer's verified certificate (RFC 6125), or an empty list."""
    certificate = transport.get_extra_info("peercert") or {}
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
