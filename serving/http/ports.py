"""Addresses to listen at."""

import errno
import ipaddress
import resource
import socket

from mirepoix.models.errors import Refused

BACKLOG = 4096
"""Connections that wait to be taken, as many as Linux allows by default: a burst of clients is not made to connect a second time."""
MOST_FILES = 65_536
"""Files that a server may have open at most, if the system allows more: more connections than one process answers."""


def allow_connections() -> None:
    """Lets this process have as many connections, each an open file, as the system allows; what it has without asking is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_open(host: str, keyed: bool) -> None:
    """Refuses an address that other machines reach where requests need no key."""
    if not keyed and not loopback(host):
        raise Refused(
            f"host {host} is reachable from other machines and no key is set; set MIREPOIX_API_KEY, give --keys FILE, or serve on 127.0.0.1"
        )


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; of port 0 at any free one. Refused where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Refused(f"port {port} is in use; stop what listens there, or give another --port") from None
        raise Refused(f"the server cannot listen on {host}:{port} ({error.strerror}); give another host or port") from None
    return listener
