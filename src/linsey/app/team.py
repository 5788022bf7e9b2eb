"""The processes that train one model together, and what they tell each other.

All of them run the same program, in the same order: the same steps, evaluations and
saves. The first process prints, and writes the files that are written once. It also
tells the others what only it can know, such as the checkpoint from which a run
continues. Each process has the part of every batch, and of every checkpoint, that is on
its own devices.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from linsey.app.config import TrainConfig
from linsey.app.failures import report
from linsey.app.job_options import JobOptions
from linsey.app.one_process import refuse_several_processes
from linsey.app.run_folder import RunFolder, claim, default_out
from linsey.app.stopping import Stopped, StopRequest, Stops
from linsey.app.terminal import hush
from linsey.checkpoint import Processes
from linsey.checkpoint.group import ALONE, Group
from linsey.errors import InputError

if TYPE_CHECKING:
    from linsey.app.devices import Devices

_OWN = frozenset("out config resume rank coordinator plain workers threads".split())
"""Options that may differ between the processes."""


class Fate(Protocol):
    """The type of what `linsey.distributed.shared_fate` yields."""

    def step(self, step: int) -> Literal["", "save", "stop"]:
        """Return what all processes do now: the same answer in all of them."""
        ...

    def beat(self, doing: str | None = None) -> None:
        """Report that this process is alive."""
        ...

    def ask(self, action: Literal["save", "stop"]) -> None:
        """Ask all processes to save or to stop."""
        ...


class Team:
    """The processes of a run; by default this one alone.

    Args:
        group: gathers values from all of them.
        fate: makes them stop together. If `None`, there are no others.
    """

    def __init__(self, group: Group = ALONE, fate: Fate | None = None) -> None:
        self.group, self._fate = group, fate

    @property
    def is_alone(self) -> bool:
        """Whether there are no other processes."""
        return self.group.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.group.index == 0

    def devices(self) -> Devices:
        """Return the devices of all processes."""
        import jax

        from linsey.app.devices import Devices

        return Devices(jax.devices() if not self.is_alone else None)

    def told(self, value: Any) -> Any:
        """Return the JSON value that the first process passes, in all processes."""
        if self.is_alone:
            return value
        content = json.dumps(value).encode() if self.is_first else b""
        return json.loads(self.group.gather(content)[0])

    def beat(self, doing: str) -> None:
        """Say what this process begins to do."""
        if self._fate is not None:
            self._fate.beat(doing)

    def stops(self, own: StopRequest) -> Stops:
        """Return requests that reach all processes if a signal asks one of them."""
        return own if self._fate is None else _StopTogether(own, self._fate)

    def refuse_differences(
        self, config: TrainConfig, data: str, source: str | None = None
    ) -> None:
        """Refuse differences in what has to be the same in all processes.

        Args:
            config: the options.
            data: a digest of the data.
            source: a digest of the source of a user's own model.

        Raises:
            InputError: options, data, source or the version of jax differ.
        """
        if self.is_alone:
            return
        own = {
            f"--{name.replace('_', '-')}": repr(value)
            for name, value in vars(config).items()
            if name not in _OWN
        }
        own["the data"] = f"SHA-256 {data[:12]}"
        own["the source of the model"] = str(source)
        own["jax"] = version("jax")
        first, *others = map(json.loads, self.group.gather(json.dumps(own).encode()))
        for rank, other in enumerate(others, 1):
            _refuse_difference(first, other, rank)


def _refuse_difference(
    first: Mapping[str, str], other: Mapping[str, str], rank: int
) -> None:
    for name, value in first.items():
        if other.get(name) != value:
            raise InputError(
                "not the same in all processes", key=name,
                expected=f"{value} as in rank 0",
                found=f"{other.get(name)} in rank {rank}",
                hint="start all of them with the same options, on the same files",
            )  # fmt: skip


class _StopTogether:
    """Requests to any process: all get the same answer at the same call."""

    def __init__(self, own: StopRequest, fate: Fate) -> None:
        self._own, self._fate = own, fate
        self._step, self._is_save_asked = 0, False

    def check(self, step: int | None = None) -> None:
        self._step = self._step if step is None else step
        if self._own.signal_name:
            self._fate.ask("stop")
        if self._own.takes_save():
            self._fate.ask("save")
        asked = self._fate.step(self._step)
        if asked == "stop":
            raise Stopped(self._own.signal_name or "a signal to another process")
        self._is_save_asked |= asked == "save"

    def takes_save(self) -> bool:
        asked, self._is_save_asked = self._is_save_asked, False
        return asked


@contextlib.contextmanager
def joined(options: JobOptions) -> Iterator[Team]:
    """Join the processes of a job while a block runs.

    An error in one process ends all of them, with its exit code.

    Args:
        options: say which process of which job this is, if no launcher does.

    Yields:
        The processes; this one alone if there is no job.

    Raises:
        InputError: the job cannot begin, or its launcher is not known.
    """
    from linsey import distributed

    given = options.coordinator, options.processes, options.rank
    try:
        job = distributed.initialize(*given)
    except BaseException:
        # Processes that it has already met wait for it, so they have to end with it.
        with distributed.shared_fate(signals=(), on_error=report):
            raise
    if job.is_alone:
        if options.processes is None:
            refuse_several_processes()
        yield Team()
        return
    if not job.is_first:
        hush()
    with distributed.shared_fate(
        options.step_timeout, signals=(), on_error=report
    ) as fate:
        yield Team(Processes(), fate)


@contextlib.contextmanager
def claimed(config: TrainConfig, team: Team) -> Iterator[RunFolder]:
    """Lock the folder of a run: the first process does so for all of them.

    Args:
        config: the options.
        team: the processes of the run.

    Yields:
        The folder, the same in all processes.

    Raises:
        InputError: the folder holds something else, or another run has locked it.
        DiskError: a file cannot be read or written.
    """
    if team.is_first:
        path = config.out or default_out(config)
        with claim(path, config):
            team.told(str(path.absolute()))
            yield RunFolder(path, team.group)
    else:
        yield RunFolder(Path(team.told(None)), team.group)
