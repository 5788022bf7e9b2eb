import os

import pytest

from linsey.app import memory


@pytest.fixture
def called(monkeypatch):
    """What the C library is asked for."""
    calls = []
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)

    def function(name):
        return lambda *values: calls.append((name, *values)) or 1

    monkeypatch.setattr(memory, "_function", function)
    return calls


def test_one_heap_is_asked_for_unless_the_environment_says_otherwise(
    called, monkeypatch
):
    memory.use_one_heap()
    assert called == [("mallopt", -8, 1)]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    memory.use_one_heap()
    assert len(called) == 1


def test_what_is_free_is_given_back_where_the_c_library_can(called, monkeypatch):
    assert memory.give_back()
    assert called == [("malloc_trim", 0)]
    monkeypatch.setattr(memory, "_function", lambda name: None)
    assert not memory.give_back()
    memory.use_one_heap()  # asks nobody
    assert len(called) == 1
