"""One HTTPS request, from a thread: without redirects, files and FTP, and with bounds."""

import http.client
import ssl
import urllib.request
from typing import Any


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would lead to a host that nobody has named, and take along what the request says."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def fetch(request: urllib.request.Request | str, *, timeout: float, max_bytes: int) -> tuple[int, bytes]:
    """Return the status of the answer, and at most `max_bytes` of its body. `timeout`, in seconds, is for each step.

    The certificate is checked with those of the system. `HTTPS_PROXY` is respected.

    Raises:
        urllib.error.HTTPError: The status is no success.
        OSError: There is no answer, or it is not HTTP.
    """
    # Opened without handlers for files and FTP.
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _NoRedirect()
    )
    try:
        with opener.open(request, timeout=timeout) as response:
            return response.status, response.read(max_bytes)
    except http.client.HTTPException as exc:
        raise OSError(f"not an HTTP answer: {type(exc).__name__}") from None
