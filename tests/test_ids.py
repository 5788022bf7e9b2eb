"""Identifiers are unique, in all threads, and a copy is a new one."""

from __future__ import annotations

import copy
import importlib.metadata
import pickle
import threading

from linsey.ids import FlaxId, uuid
from linsey.version import __version__


def test_identifiers_equal_themselves_alone():
    first, second = uuid(), uuid()
    assert first == first and hash(first) == hash(FlaxId(first.id))
    assert first != second and first != first.id
    assert repr(first) == f"FlaxId({first.id})"


def test_a_copy_is_a_new_identifier_and_a_pickle_the_same():
    one = uuid()
    assert copy.copy(one) != one and copy.deepcopy([one]) != [one]
    assert pickle.loads(pickle.dumps(one)) == one


def test_threads_get_different_identifiers():
    found: list[FlaxId] = []
    threads = [
        threading.Thread(target=lambda: found.extend(uuid() for _ in range(500)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2000


def test_the_version_is_that_of_the_package():
    assert __version__ == importlib.metadata.version("linsey")
