"""What arrives over a connection is a message, or ends it; who calls is of the job."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from linsey.distributed.life import Life, new_file
from linsey.distributed.meeting import Meeting, Refused, enter
from linsey.distributed.wire import Channel, Message
from tests.distributed.jobs import free_port


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def test_messages_arrive_whole_and_in_order():
    channel, other = pair()
    sender = Channel(other)
    messages = [Message("a", 1, (2, 3), "x\ny"), Message("b", text="é" * 100_000)]
    thread = threading.Thread(target=lambda: [sender.send(m) for m in messages])
    thread.start()
    arrived: list[Message] = []
    while len(arrived) < 2:
        arrived += channel.receive()
    thread.join()
    assert arrived == messages
    sender.close()
    assert channel.receive() == [] and not channel.is_open
    channel.close()


@pytest.mark.parametrize(
    "line",
    [b"{", b"3", b'["a"]', b'["a", 1, ["x"], ""]', b"\xff", b'["a", "1", [], ""]'],
)
def test_anything_else_closes_the_connection(line):
    channel, other = pair()
    other.sendall(line + b"\n")
    assert channel.receive() == [] and not channel.is_open
    channel.close()
    other.close()


def test_doing_is_cut_to_its_place():
    file = new_file()
    life = Life(file)
    life.doing = "data loading"
    assert Life(file).doing == "data loading"
    life.doing = "é" * 100
    assert life.doing == "é" * 60
    os.close(file)


def meet(address, tokens: list[str], seconds: float = 5) -> list[object]:
    """Have ranks meet, each with a token; return the ports or the refusals."""
    links = [pair() for _ in tokens]
    opened: list[Channel] = []
    results: list[object] = [None] * len(tokens)

    def run(rank: int) -> None:
        given = (len(tokens), tokens[rank], seconds)
        try:
            if rank == 0:
                hub, results[0], others, _ = Meeting(address, *given).hold(links[0][0])
                opened.extend(others.values())
            else:
                hub, results[rank] = enter(address, rank, *given, links[rank][0])
            opened.append(hub)
        except Refused as refusal:
            results[rank] = str(refusal)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(tokens))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for channel in [*opened, *(end for link in links for end in link)]:
        channel.close()
    return results


def test_ranks_meet_and_learn_the_port_of_jax():
    ports = meet(("127.0.0.1", free_port()), ["secret"] * 3)
    assert len(set(ports)) == 1 and isinstance(ports[0], int)


def test_who_does_not_know_the_secret_is_not_let_in(monkeypatch):
    monkeypatch.setattr("linsey.distributed.meeting._LATER", 0.2)
    address = ("127.0.0.1", free_port())
    results = meet(address, ["secret", "another"], seconds=0.5)
    assert "rank 1 of 2 did not come" in str(results[0])
    assert "rank 0 did not answer" in str(results[1])
