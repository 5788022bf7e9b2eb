"""Tests, and jobs on one machine, use the loopback interface and no other one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.jobs import Jobs
from tests.loopback import BeyondLoopbackError, addresses, is_local

FAR = "192.0.2.1"  # reserved for documentation (RFC 5737)


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection((FAR, 9), timeout=0.1),
        lambda: socket.create_server((FAR, 0)),
        lambda: socket.create_server(("", 0)),
        lambda: socket.create_server(("0.0.0.0", 0)),
        lambda: socket.create_server(("::", 0), family=socket.AF_INET6),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", (FAR, 9)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, (FAR, 9)),
        lambda: socket.getaddrinfo("linsey.example", 80),
        lambda: socket.gethostbyname("linsey.example"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_networks_are_refused_in_tests(reach):
    with pytest.raises(BeyondLoopbackError, match="beyond the loopback interface"):
        reach()


def test_loopback_and_unix_sockets_are_allowed(tmp_path: Path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1])):
            pass
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("here")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), (b"127.0.0.1", True),
     ("::ffff:127.0.0.1", True), ("localhost", True), (None, True),
     ("", False), ("0.0.0.0", False), ("::", False), ("::ffff:192.0.2.1", False),
     ("10.0.0.1", False), ("fe80::1%eth0", False), ("linsey.example", False)],
)  # fmt: skip
def test_local_hosts(host, expected):
    assert is_local(host) is expected


# The system calls by which a process reaches others; answers hold other addresses, too.
REACHING = "connect,bind,sendto,sendmsg,sendmmsg"
PLANTED = (
    "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
)


@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_job_of_one_machine_has_loopback_connections_only(jobs: Jobs, tmp_path: Path):
    """Those of gRPC and of Gloo as well, which Python does not see."""
    trace = ["strace", "-f", "-qq", "-e", f"trace={REACHING}", "-o"]
    planted = tmp_path / "planted"
    command = [*trace, str(planted), sys.executable, "-c", PLANTED]
    if not shutil.which("strace") or (
        subprocess.run([*trace, str(planted), "true"], capture_output=True).returncode
    ):
        pytest.skip("needs strace")
    subprocess.run(command, capture_output=True)
    assert FAR in addresses(planted.read_text())
    log = tmp_path / "job"
    ended = jobs.start([*trace, str(log), *jobs.launched(2, steps=3)]).end()
    assert ended.codes == [0], ended.texts
    found = addresses(log.read_text())
    assert "127.0.0.1" in found  # the trace is one of the job
    assert [address for address in found if not is_local(address)] == []
