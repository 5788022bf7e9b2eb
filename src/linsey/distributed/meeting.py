"""How the keepers of a job meet, and find out which rank is missing or wrong.

Rank 0 listens at the coordinator's address; the others try to connect until it answers.
A caller sends its rank, the number of processes, and the job's secret if it has one.
Either all ranks arrive and agree, or all get the same explanation.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import time

from linsey.distributed.wire import Channel, Message

_RETRY_SECONDS = 0.1
_LATER = 1.5  # extra seconds that callers wait, because rank 0 knows the reason
Address = tuple[str, int]


class Refused(Exception):
    """The job cannot start: the problem and, after a line break, what to do."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Meeting:
    """The meeting at which rank 0 waits for the others.

    Args:
        address: the coordinator's address.
        processes: number of processes of the job.
        token: the secret of the job; empty if it has none.
        seconds: how long to wait.
    """

    def __init__(
        self, address: Address, processes: int, token: str, seconds: float
    ) -> None:
        self._address = address
        self._processes = processes
        self._token = token
        self._seconds = seconds
        self._present: dict[int, Channel] = {}
        self._hosts: dict[int, str] = {}

    def hold(
        self, link: Channel
    ) -> tuple[Channel, int, dict[int, Channel], dict[int, str]]:
        """Wait until all ranks have connected.

        Args:
            link: the connection to rank 0, which may end in the meantime.

        Returns:
            The connection to the hub for rank 0's own keeper, a free port for JAX's
            service, and for each rank the hub's end of its connection and the name of
            its machine.

        Raises:
            Refused: a rank is missing, or the processes do not agree.
        """
        ours, hub_end = socket.socketpair()
        self._present[0], self._hosts[0] = Channel(hub_end), socket.gethostname()
        try:
            with _listen(self._address) as server:
                self._gather(server, link)
        except Refused as refusal:
            for number, channel in self._present.items():
                channel.send(Message("refused", number, (), str(refusal)))
                channel.close()
            ours.close()
            raise
        jax_port = _free_port(self._address[0])
        for number, channel in self._present.items():
            if number != 0:
                channel.send(Message("welcome", number, (jax_port,)))
        return Channel(ours), jax_port, self._present, self._hosts

    def _gather(self, server: socket.socket, link: Channel) -> None:
        deadline = time.monotonic() + self._seconds
        callers: list[Channel] = []
        while len(self._present) < self._processes:
            left = deadline - time.monotonic()
            if left < 0:
                raise Refused(self._missing())
            known = [self._present[n] for n in self._present if n != 0]
            ready, _, _ = select.select([server, link, *callers, *known], [], [], left)
            if link in ready:
                raise SystemExit  # rank 0 is gone
            if server in ready:
                callers.append(Channel(server.accept()[0]))
            for channel in ready:
                if channel in callers:
                    self._hear(channel, callers)
                elif channel in known and not (channel.receive() or channel.is_open):
                    number = next(n for n, c in self._present.items() if c is channel)
                    raise Refused(f"rank {number} ended before all ranks had met")

    def _hear(self, caller: Channel, callers: list[Channel]) -> None:
        messages = caller.receive()
        if not messages and caller.is_open:
            return
        callers.remove(caller)
        match messages:
            case [Message("hello", rank, (processes,), text)]:
                token, _, host = text.partition("\n")
                if token == self._token:
                    self._admit(caller, rank, processes, host)
                    return
        caller.close()  # not a rank of this job

    def _admit(self, caller: Channel, rank: int, processes: int, host: str) -> None:
        problem = ""
        if processes != self._processes:
            problem = (
                f"the processes do not agree on how many they are: rank {rank} was "
                f"started as one of {processes}, rank 0 as one of {self._processes}\n"
                "start all with the same number of processes"
            )
        elif rank in self._present:
            problem = (
                f"two processes say that they are rank {rank}\n"
                f"give each its own rank, 0 to {self._processes - 1}"
            )
        if problem:
            caller.send(Message("refused", rank, (), problem))
            caller.close()
            raise Refused(problem)
        self._present[rank], self._hosts[rank] = caller, host

    def _missing(self) -> str:
        missing = [n for n in range(self._processes) if n not in self._present]
        numbers = ", ".join(map(str, missing[:8])) + ", ..." * (len(missing) > 8)
        who = f"rank {numbers}" if len(missing) == 1 else f"ranks {numbers}"
        where = "{}:{}".format(*self._address)
        return (
            f"{who} of {self._processes} did not come within {self._seconds:.0f} s\n"
            f"start every rank, 0 to {self._processes - 1}, with coordinator {where}"
        )


def enter(
    address: Address, rank: int, processes: int, token: str, seconds: float,
    link: Channel,
) -> tuple[Channel, int]:  # fmt: skip
    """Connect to rank 0, and wait until all ranks have connected.

    Args:
        address: the coordinator's address.
        rank: the rank that connects.
        processes: number of processes of the job.
        token: the secret of the job; empty if it has none.
        seconds: how long rank 0 waits.
        link: the connection to the rank, which may end in the meantime.

    Returns:
        The connection to the hub, and the port of JAX's service.

    Raises:
        Refused: rank 0 does not answer, a rank is missing, or the processes do not
            agree.
    """
    deadline = time.monotonic() + seconds + _LATER
    hello = Message("hello", rank, (processes,), f"{token}\n{socket.gethostname()}")
    while (left := deadline - time.monotonic()) > 0:
        try:
            hub = Channel(socket.create_connection(address, timeout=left))
        except OSError:
            _rest(link)
            continue
        hub.send(hello)
        while hub.is_open and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([hub, link], [], [], left)
            if link in ready:
                raise SystemExit  # the rank is gone
            for message in hub.receive() if ready else ():
                if message.kind == "refused":
                    hub.close()
                    raise Refused(message.text)
                if message.kind == "welcome":
                    return hub, message.numbers[0]
        hub.close()
        _rest(link)
    where = "{}:{}".format(*address)
    raise Refused(
        f"rank 0 did not answer at {where} within {seconds:.0f} s\n"
        f"start rank 0 with coordinator {where}, on the machine with that address, and "
        "see what it says"
    )


def _rest(link: Channel) -> None:
    if select.select([link], [], [], _RETRY_SECONDS)[0]:
        raise SystemExit


def _listen(address: Address) -> socket.socket:
    """Listen at an address: on all interfaces, unless it is a loopback address.

    The name under which others reach this machine may not belong to its own interfaces.
    """
    host, port = address
    try:
        if is_loopback(host):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Refused(
                f"the port {port} of the coordinator is taken by another process\n"
                "choose another port, the same for all ranks"
            ) from error
        raise Refused(
            f"cannot listen at {host}:{port}: {error.strerror}\n"
            "choose an address of the machine of rank 0"
        ) from error


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.bind((host if is_loopback(host) else "", 0))
        return trial.getsockname()[1]
