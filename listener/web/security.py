"""Middleware for every request: the check of the Host header, security headers, and uncaught exceptions."""

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from listener.config.sections import Http
from listener.logs import log

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer a browser sends a form with `Origin: null`, and `same_origin` would refuse our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# The paths that answer under the name of [http] public_url as well, in upper case too. Recipients of emails open the first,
# and mail providers post to the second.
UNSUBSCRIBE = "/unsubscribe/"
BOUNCES = "/bounces/"
PUBLIC = (UNSUBSCRIBE, BOUNCES)
# Of a form. A client that sends it by the byte would hold its connection for as long as it likes.
_BODY_TIMEOUT_S = 10.0


def check_request(http: Callable[[], Http]) -> Middleware:
    """Return the middleware that checks the Host header and turns uncaught exceptions into responses.

    Accepted are IP addresses, localhost, and the names of `allowed_hosts` and `listen`. For the paths `PUBLIC` the name in
    `public_url` is accepted too. `http` returns the settings in use, which a reload may replace. Without this check, a
    foreign web page could point a name of its own at this address (DNS rebinding). Its script would then read what the
    visitor's browser gets from here. It cannot do so with an IP address.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        accepted = _accepted_names(http(), public=f"/{request.path.lower().lstrip('/')}".startswith(PUBLIC))
        if not _is_accepted(request.headers.get("Host", ""), accepted):
            response: web.StreamResponse = web.Response(
                status=421, text="This host name is not allowed; add it to [http] allowed_hosts.\n"
            )
        else:
            try:
                if not request.path.startswith(BOUNCES):
                    await _read_body(request)
                response = await handler(request)
            except web.HTTPException:
                raise
            except (ConnectionError, TimeoutError) as exc:
                response = web.Response(status=503, text=f"{type(exc).__name__}\n")
            except Exception as exc:
                # Delivery goes on: a bug of the page must not stop the daemon.
                log.error("http_failed", path=request.path, error=repr(exc))
                response = web.Response(
                    status=500, text="This is a bug in pgherald; please report it with the log event http_failed.\n"
                )
        return response

    return middleware


async def _read_body(request: web.Request) -> None:
    """Read the body, which the handler then finds in memory. Webhooks have a limit of their own.

    Raises:
        HTTPRequestTimeout, HTTPRequestEntityTooLarge: the client sends it too slowly, or it is too large.
    """
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


async def set_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to a response. A header that the handler has set stays as it is."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "pgherald"


def _accepted_names(http: Http, *, public: bool) -> set[str]:
    names = {"localhost", *(host.lower() for host in http.allowed_hosts)}
    if http.address:
        names.add(http.address[0].lower())
    if public and (name := urlsplit(http.public_url).hostname):
        names.add(name)
    return names


def _is_accepted(host: str, names: Collection[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def same_origin(request: web.Request) -> bool:
    """Return whether a POST comes from a page of this server, or from a client that is no browser.

    Browsers send Sec-Fetch-Site (W3C Fetch Metadata); older ones send at least Origin.
    """
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or origin.lower() in (f"http://{request.host}".lower(), f"https://{request.host}".lower())


def is_over_tls(request: web.Request) -> bool:
    """Return whether the browser's connection uses TLS, also if a proxy ends it before us.

    The browser's own Origin says so. It sends one with each POST (Fetch standard, 3.2), and no proxy need be trusted.
    """
    return request.secure or request.headers.get("Origin", "").startswith("https://")
