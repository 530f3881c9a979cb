"""TCP connections to a host that may have several addresses."""

import asyncio
import os
import socket


async def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Try the host's addresses in turn, each for its share of `timeout`, and return a connected socket.

    Raises:
        OSError: No address could be reached. The text names the last address tried.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"{host}: cannot resolve the name: {error.strerror}") from error
    failure: OSError = OSError(f"{host}: the name has no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(timeout / len(found)):
                await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = _unreachable(str(address[0]), port, error)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _unreachable(address: str, port: int, error: OSError) -> OSError:
    # asyncio's own text is "[Errno 111] Connect call failed ('127.0.0.1', 25)".
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    reason = os.strerror(error.errno).lower() if error.errno else "no answer in time"
    return OSError(f"{place}: {reason}")
