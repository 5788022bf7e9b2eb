"""No test reaches beyond the machine: what a process of a test may ask of its sockets.

`forbid_other_networks` watches Python's own sockets; `addresses` reads the system calls
of whole jobs, in which gRPC and Gloo have sockets that Python does not see.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys

# The events of `socket` whose second argument is an address.
_ADDRESSED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
# Those whose first argument is the name of a host.
_NAMED = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_PATTERN = re.compile(
    r'(?:sin_addr=inet_addr\(|inet_pton\(AF_INET6, )"([^"]*)"', re.ASCII
)


class BeyondLoopbackError(RuntimeError):
    """A test asked for more than the loopback interface."""


def is_local(host: object) -> bool:
    """Return whether a host is this machine, by its loopback interface."""
    if isinstance(host, bytes | bytearray):
        host = host.decode(errors="replace")
    if host is None or host == "localhost":  # `None` is the loopback of a client
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Raise if an event of Python's audit hooks goes beyond the loopback interface."""
    if event in _NAMED:
        host = arguments[0]
    elif event in _ADDRESSED:
        used, address = arguments[:2]
        if getattr(used, "family", None) not in (socket.AF_INET, socket.AF_INET6):
            return
        if not isinstance(address, tuple):  # `sendmsg` of a connected socket
            return
        host = address[0]
    else:
        return
    if not is_local(host):
        raise BeyondLoopbackError(
            f"{event} of {host!r}: a test reached beyond the loopback interface. Tests "
            "have to pass without a network. Use 127.0.0.1, ::1 or a Unix socket."
        )


def forbid_other_networks() -> None:
    """Refuse, in this process and for good, all but loopback and Unix sockets."""
    sys.addaudithook(_refuse)


def addresses(trace: str) -> list[str]:
    """The addresses in the calls that `strace` printed, each once, in order."""
    return list(dict.fromkeys(_PATTERN.findall(trace)))
