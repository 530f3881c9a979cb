"""Who may ask, what a browser may do with the answer, and what becomes of a fault."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from listener.logs import log

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: a form would then be sent with `Origin: null`, as if from nowhere.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


PUBLIC = "/unsubscribe/"


def check_request(hosts: Collection[str], public: str | None) -> Middleware:
    """Answers only who asks for an address, for localhost, or for one of `hosts`; and for `public` what is public.

    A web page elsewhere can point a name of its own here (DNS rebinding) and read what its visitor's browser gets; it
    cannot do so with an address.
    """
    names = {"localhost", *(host.lower() for host in hosts)}
    public_names = {*names, public} if public else names

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _welcome(request.headers.get("Host", ""), public_names if request.path.startswith(PUBLIC) else names):
            response: web.StreamResponse = web.Response(
                status=421, text="This host name is not one of http.allowed_hosts in pgherald's configuration.\n"
            )
        else:
            try:
                response = await handler(request)
            except web.HTTPException:
                raise
            except (ConnectionError, TimeoutError) as exc:
                response = web.Response(status=503, text=f"{type(exc).__name__}\n")
            except Exception as exc:
                # The daemon's work is mail; whatever is wrong here must not disturb it.
                log.error("http_failed", path=request.path, error=repr(exc))
                response = web.Response(status=500, text="This is a defect; the log says more.\n")
        return response

    return middleware


async def set_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer; one that sets its own keeps it."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "pgherald"


def _welcome(host: str, names: Collection[str]) -> bool:
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
    """Whether a POST comes from this site's own page, or from no page at all."""
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()
