"""One HTTPS request, from a thread: without redirects, files and FTP, and with bounds."""

import http.client
import ssl
import urllib.request
from typing import Any


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Without it, urllib follows a redirect: to a host that nobody has named, with what the request says.

    urllib would raise any other status but success as an exception, which holds the connection until it is closed.
    """

    def http_response(self, request: Any, response: Any) -> Any:
        """Return the answer as it is."""
        return response

    https_response = http_response


def fetch(request: urllib.request.Request | str, *, timeout: float, max_bytes: int) -> tuple[int, bytes]:
    """Return the status of the answer, and at most `max_bytes` of its body. `timeout`, in seconds, is for each step.

    The certificate is checked with those of the system. `HTTPS_PROXY` is respected.

    Raises:
        OSError: There is no answer, or it is not HTTP.
    """
    # Opened without handlers for files and FTP.
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _AnyStatus()
    )
    try:
        with opener.open(request, timeout=timeout) as response:
            return response.status, response.read(max_bytes)
    except http.client.HTTPException as exc:
        raise OSError(f"not an HTTP answer: {type(exc).__name__}") from None
