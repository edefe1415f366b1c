"""A Ray cluster that a run has joined: its devices, and a launcher of workers on them.

    this process ── pipe ── client, a process ── Ray ── agent, an actor on a node ── pipe ── worker, a process there

Ray ends the process that uses it when the head of the cluster is lost. So the client (`pipeline/launch_ray.py`) is a
process of its own: if it ends, this process reports an error, and its finished work files are kept.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

from virnucpro.core import log
from virnucpro.core.device import Device
from virnucpro.errors import DeviceError, UsageError, VirnucproError
from virnucpro.models.local import LocalModel
from virnucpro.pipeline.agent import traits
from virnucpro.pipeline.events import Answer
from virnucpro.pipeline.launch_local import (
    GONE_SECONDS,
    Deliver,
    Sink,
    Work,
    cause_of,
    check_can_spawn,
    end_with_parent,
    spawning,
)

#: Messages between two looks at the clock.
MESSAGES_AT_ONCE = 1000


@dataclass(frozen=True)
class Terms:
    """What is required of the nodes of a cluster.

    address: as for `ray.init`; device: auto, cpu or cuda; traits: those of this host; threads: of a node; wait_seconds:
    for a node.
    """

    address: str
    device: str
    models: tuple[LocalModel, ...]
    traits: Mapping[str, str]
    threads: int | None
    wait_seconds: float


class Cluster:
    """A Ray cluster that was joined: its devices, and the launcher of one run on them.

    Raises DeviceError for a cluster that cannot be joined or has no node for this run, UsageError where no process can
    be started, ModelError.
    """

    def __init__(
        self, address: str, device: str, models: Sequence[LocalModel], threads: int | None, wait_seconds: float
    ) -> None:
        check_can_spawn(["ray"])
        if find_spec("ray") is None:
            raise UsageError("--ray needs Ray, which is not installed", hint="pip install 'virnucpro[ray]'")
        self.wait_seconds = wait_seconds
        terms = Terms(address, device, tuple(models), traits(models), threads, wait_seconds)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        level = logging.getLogger("virnucpro").getEffectiveLevel()
        self.process = context.Process(target=_client_process, args=(theirs, terms, level), daemon=True)
        with spawning():
            self.process.start()
        theirs.close()
        try:
            self.devices = self._devices()
        except BaseException:
            self.close()
            raise

    def _devices(self) -> list[Device]:
        while not isinstance(found := self._receive(), list):
            _, record = found
            logging.getLogger(record.name).handle(record)
        return found

    def _receive(self) -> Any:
        """A list of devices, or a message about a slot. Raises the error that the client has sent."""
        try:
            found = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(GONE_SECONDS)
            raise DeviceError(
                f"lost the Ray cluster: its client ended ({cause_of(self.process.exitcode)})",
                hint="when the cluster is back, run the same command again: it continues from the finished work files",
            ) from error
        if isinstance(found, VirnucproError):
            raise found
        return found

    def launch(self, work: Work) -> Cluster:
        """The launcher of the one run that this cluster was joined for."""
        self._tell("begin", work)
        return self

    def start(self, slot: int) -> None:
        """Start a worker; it says nothing before it has loaded its model."""
        self._tell("start", slot)

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request."""
        self._tell("answer", slot, answer)

    def kill(self, slot: int) -> None:
        """End a worker by force."""
        self._tell("kill", slot)

    def _tell(self, *command: object) -> None:
        with contextlib.suppress(OSError):  # the client has ended, which is the next thing noticed
            self.connection.send(command)

    def pump(self, deliver: Deliver, seconds: float) -> None:
        """Deliver what workers say. Raises DeviceError if the cluster is lost."""
        for _ in range(MESSAGES_AT_ONCE):
            if not self.connection.poll(seconds):
                return
            deliver(*self._receive())
            seconds = 0.0

    def close(self) -> None:
        """Leave the cluster, where all workers of this run end."""
        self.connection.close()
        self.process.join(GONE_SECONDS)
        self.process.kill()
        self.process.join()


# In the client.


def _client_process(connection: Connection, terms: Terms, level: int) -> None:
    """What runs in the spawned process."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if is_loopback(terms.address.rpartition(":")[0]):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # otherwise Ray takes another address of this host
    sink = Sink(connection.send)
    log.send_to(lambda record: sink.put((0, record)), level)  # as what is said of a slot: the parent hears nothing else
    try:
        from virnucpro.pipeline.launch_ray import Client

        client = Client(terms, sink, level)
        sink.put(client.survey())
        threading.Thread(target=client.watch, daemon=True).start()
        for name, *arguments in _commands(connection):
            getattr(client, name)(*arguments)
        client.close()
    except VirnucproError as error:
        sink.put(error)
    except (EOFError, OSError):
        pass  # the parent is gone
    os._exit(0)  # at once, without waiting for threads that wait for agents


def is_loopback(host: str) -> bool:
    """Whether only this host can reach an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def _commands(connection: Connection) -> Iterator[Any]:
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield connection.recv()
