"""Only regular files are read, and what the disk refuses is one line."""

import errno
import os
import re
import socket

import pytest

from linsey import errors, files


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A folder with a short name, since the names of sockets are limited."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"hello")
    return tmp_path


def make_socket(name):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)


STRANGE = {
    "link": lambda: os.symlink("file", "x"),
    "dangling link": lambda: os.symlink("nothing", "x"),
    "FIFO": lambda: os.mkfifo("x"),
    "folder": lambda: os.mkdir("x"),
    "socket": lambda: make_socket("x"),
    "no such file": lambda: None,
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.timeout(5)
def test_what_is_no_regular_file_is_refused_at_once(kind, short):
    STRANGE[kind]()
    with pytest.raises(errors.InputError, match=kind.removeprefix("dangling ")):
        files.read_regular("x")


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "x\0y", "file/below"])
def test_devices_and_impossible_names_are_refused(name, short):
    with pytest.raises(errors.InputError):
        files.read_regular(name)


def test_a_link_that_is_made_after_the_check_is_not_followed(short, monkeypatch):
    os.symlink("file", "x")
    monkeypatch.setattr(os, "lstat", os.stat)
    with pytest.raises((errors.DiskError, errors.InputError)):
        files.read_regular("x")


def test_sizes_come_first(short):
    assert files.read_regular("file", limit=5) == b"hello"
    with pytest.raises(errors.InputError, match="at most 4 bytes, found 5"):
        files.open_regular("file", limit=4)
    with open("sparse", "wb") as file:
        file.truncate(2**42)
    with pytest.raises(errors.InputError, match="too large"):
        files.read_regular("sparse")


def test_an_unreadable_file_says_so(short, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.InputError, match="may not be read"):
        files.read_regular("file")


def test_reporting_names_path_cause_and_sizes(short):
    with pytest.raises(errors.DiskError) as caught:
        with files.reporting(short / "new" / "step", "save", needed=12345):
            raise OSError(errno.ENOSPC, "No space left on device")
    expected = r"/new/step: cannot save: No space left on device \(ENOSPC\): 12,345"
    assert re.search(
        expected + r" bytes are needed, [\d,]+ are free$", str(caught.value)
    )
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, OSError)


def test_reporting_lets_other_errors_pass():
    with pytest.raises(KeyError), files.reporting("x"):
        raise KeyError
    first = errors.DiskError(OSError(5, "Input/output error"), "a")
    with pytest.raises(errors.DiskError) as caught, files.reporting("b"):
        raise first
    assert caught.value is first


def test_messages_cannot_command_a_terminal():
    told = str(errors.InputError("bad\x1b[2J\u202e", file="a\nb", key="\x07"))
    assert told == r"a b: \x07: bad\x1b[2J\u202e"
    told = str(errors.DiskError(OSError(5, "x\x1b"), "/tmp/\x9b"))
    assert told.isprintable()
