"""Workers on the nodes of a running Ray cluster: one actor per device, bytes to it and back.

A client in a process of its own carries out what a run asks of its cluster (`pipeline/cluster.py`). Agents, which are
actors (`pipeline/agent.py`), start workers like a run on one host. No file system is shared: the client reads work
files, and writes results under temporary names.

A node takes part if everything that decides results is the same there as on this host; others are refused. Nodes may
come and go. This is the only file that imports Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from virnucpro.core.device import Device
from virnucpro.errors import DeviceError, VirnucproError
from virnucpro.io.files import atomic_path
from virnucpro.pipeline.agent import Agent, Files, Folder, Found
from virnucpro.pipeline.cluster import Terms, is_loopback
from virnucpro.pipeline.events import Answer, Died, Fatal, FileDone, Joined, Lost, Request
from virnucpro.pipeline.launch_local import GONE_SECONDS, Said, Sink, Work

logger = logging.getLogger("virnucpro.ray")

#: Seconds between two looks at the nodes; the least seconds for nodes to answer, and the most once one has answered.
LOOK_SECONDS, SLOW_SECONDS = 1.0, 60.0

#: Seconds in which the head of a cluster must answer.
REACH_SECONDS = 30.0

#: Results of a worker that wait for the one that is being written.
RESULTS_BEHIND = 2


@dataclass
class _Member:
    """A device of a node, and the agent that holds it or will hold it.

    gpu: False for all CPUs of the node; slot: its number in the run, once it takes part.
    """

    node: str
    address: str
    gpu: bool
    cpus: int
    threads: int
    agent: Any = None
    answer: Any = None
    device: Device | None = None
    slot: int = -1
    lost: bool = False

    @property
    def model(self) -> str:
        """The manufacturer's name of the device."""
        return self.device.model if self.device else ""

    def engage(self) -> None:
        """Ask Ray for an agent on this device; it starts when the device is free."""
        self.agent = (
            ray.remote(Agent)
            .options(
                num_gpus=int(self.gpu),
                num_cpus=1 if self.gpu else self.cpus,
                max_restarts=0,  # the schedule decides
                max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
            )
            .remote()
        )

    def share(self, work: Work) -> Work:
        """The work for a worker there."""
        device = "cuda:0" if self.gpu else "cpu"  # the only one that the agent sees
        return replace(work, devices=[device], kwargs={**work.kwargs, "threads": self.threads})

    def dismiss(self) -> None:
        """End the agent, and its worker with it."""
        with contextlib.suppress(RayError):
            ray.kill(self.agent)
        self.agent = None


class Client:
    """Talks to Ray. Commands come in the main thread; a thread for each running worker receives its messages."""

    def __init__(self, terms: Terms, sink: Sink, level: int) -> None:
        self.terms, self.sink, self.level = terms, sink, level
        _join(terms.address)
        self.gpu = terms.device == "cuda"
        self.model: str | None = None
        self.members: list[_Member] = []
        self.asked: list[_Member] = []
        self.nodes: set[str] = set()
        self.lock = threading.Lock()
        self.work: Work | None = None

    # Nodes come and go.

    def survey(self) -> list[Device]:
        """The devices with which the run begins, of the most frequent kind. Raises DeviceError."""
        found: list[_Member] = []
        end = time.monotonic() + max(self.terms.wait_seconds, SLOW_SECONDS)
        self.gpu |= self.terms.device == "auto" and any(node["Resources"].get("GPU") for node in _alive())
        while (self.asked or not found) and time.monotonic() < end:
            found += self._look()
            if found:
                end = min(end, time.monotonic() + SLOW_SECONDS)
        if not found:
            raise _none(self.terms, self.gpu)
        self.model = Counter(member.model for member in found).most_common(1)[0][0]
        return [member.device for member in found if self._admit(member) and member.device]

    def watch(self) -> None:
        """Admit nodes that come, and report those that go, for as long as this process lives."""
        while True:
            with contextlib.suppress(RayError):
                for member in self._look():
                    if self._admit(member) and member.device:
                        self.sink.put((member.slot, Joined(member.device.label)))

    def _look(self) -> list[_Member]:
        """Ask new nodes, for a second; returns those that have answered and may take part."""
        nodes = _alive()
        for node in nodes:
            if node["NodeID"] not in self.nodes:
                self.nodes.add(node["NodeID"])
                self.asked += self._ask(node)
        alive = {node["NodeID"] for node in nodes}
        for member in self.members:
            if member.node not in alive:
                self._lose(member)
        return list(self._answered())

    def _ask(self, node: Mapping[str, Any]) -> Iterator[_Member]:
        there = node["Resources"]
        cpus = int(there.get("CPU", 0))
        devices = int(there.get("GPU", 0)) if self.gpu else min(cpus, 1)
        for _ in range(devices):
            threads = max(1, (self.terms.threads or cpus) // devices)
            member = _Member(node["NodeID"], node["NodeManagerAddress"], self.gpu, cpus, threads)
            member.engage()
            member.answer = member.agent.probe.remote(self.terms.models, self.gpu)
            yield member

    def _answered(self) -> Iterator[_Member]:
        if not self.asked:
            time.sleep(LOOK_SECONDS)
            return
        members = {member.answer: member for member in self.asked}
        for answer in ray.wait(list(members), num_returns=len(members), timeout=LOOK_SECONDS)[0]:
            member = members[answer]
            self.asked.remove(member)
            if self._suits(member):
                yield member

    def _suits(self, member: _Member) -> bool:
        """Whether everything is the same there as here; the device is known then."""
        try:
            found: Found = ray.get(member.answer)
        except RayError as error:
            return _refuse(member, f"it does not answer: {_reason(error)}")
        member.device = replace(found.device, host=member.address)
        there, here = found.traits, self.terms.traits
        unlike = [
            f"{name} is {there.get(name)} there and {here[name]} here" for name in here if there.get(name) != here[name]
        ]
        return not unlike or _refuse(member, "; ".join(unlike))

    def _admit(self, member: _Member) -> bool:
        """Give a device its number in the run, if it is of the right kind."""
        if member.model != self.model:
            return _refuse(member, f"it has {member.model}, the run is on {self.model}")
        member.slot = len(self.members)
        self.members.append(member)
        return True

    def _lose(self, member: _Member) -> None:
        with self.lock:
            known, member.lost = member.lost, True
        if not known:
            self.sink.put((member.slot, Lost("its node has left the cluster")))

    # Commands.

    def begin(self, work: Work) -> None:
        """Set the work of this run's workers; folders that they need are sent with it."""
        work.output_dir.mkdir(parents=True, exist_ok=True)
        kwargs = {name: Folder.read(value) if _is_folder(value) else value for name, value in work.kwargs.items()}
        self.work = replace(work, kwargs=kwargs)

    def start(self, slot: int) -> None:
        """Start a worker, and a thread that receives its messages."""
        member = self.members[slot]
        if not member.lost:
            if member.agent is None:
                member.engage()
            threading.Thread(target=self._hear, args=(member, self.work), daemon=True).start()

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request; nothing happens if the agent has died by now."""
        if agent := self.members[slot].agent:
            agent.answer.remote(answer, self._files(answer))

    def _files(self, answer: Answer) -> Files:
        """A work file and what belongs to it. If one cannot be read, the worker reports that it is missing."""
        files: dict[str, bytes] = {}
        if not isinstance(answer, Path) or self.work is None:
            return files
        for path in (answer, *map(answer.with_suffix, self.work.beside)):
            with contextlib.suppress(OSError):
                files[path.name] = path.read_bytes()
        return files

    def kill(self, slot: int) -> None:
        """End a worker by force."""
        if agent := self.members[slot].agent:
            agent.kill.remote()

    # What a worker says.

    def _hear(self, member: _Member, work: Work) -> None:
        """Start a worker, and pass on what it says until it has died."""
        try:
            self._pass_on_all(member, work)
        except RayError as error:
            self._agent_is_gone(member, error)
        except OSError:
            pass  # the run has closed its pipe and receives nothing any more

    def _pass_on_all(self, member: _Member, work: Work) -> None:
        """Pass on what a worker says. Raises RayError if its agent is gone.

        Another thread fetches and writes results, and all that is said after one waits for it, but for requests: the
        worker needs its next file meanwhile. If results come faster than they are written, the worker has to wait.
        That it has died is passed on once all has arrived: if a result does not, its agent is gone, and dies only once.
        """
        agent, results = member.agent, deque[Future[None]]()
        with ThreadPoolExecutor(1) as writer:
            try:
                for said in _said(agent, member.share(work), self.level):
                    if isinstance(said, Died):
                        break
                    if isinstance(said, Request):
                        self.sink.put((member.slot, said))
                        continue
                    passed_on = writer.submit(self._pass_on, member, agent, work.output_dir, said)
                    if isinstance(said, FileDone):
                        results.append(passed_on)
                    if len(results) > RESULTS_BEHIND:
                        results.popleft().result()
            finally:
                for each in results:
                    each.result()
        self.sink.put((member.slot, said))

    def _pass_on(self, member: _Member, agent: Any, folder: Path, said: Said) -> None:
        """Pass a message on, and before that write the result that it reports. Raises RayError."""
        try:
            if isinstance(said, FileDone):
                for name, content in _fetched(agent.result.remote(said.path)).items():
                    with atomic_path(folder / name) as temporary:
                        temporary.write_bytes(content)
            if isinstance(said, logging.LogRecord):
                said.msg = f"{member.address} {said.msg}"
            self.sink.put((member.slot, said))
        except VirnucproError as error:
            self.sink.put((member.slot, Fatal(error)))
        except RayError:
            ray.kill(agent)  # so that nothing more is heard of it
            raise

    def _agent_is_gone(self, member: _Member, error: RayError) -> None:
        error = _final(member, error)
        if not any(node["NodeID"] == member.node for node in _alive()):
            self._lose(member)
            return
        member.dismiss()
        self.sink.put((member.slot, Died(_reason(error))))

    def close(self) -> None:
        """End agents and their workers, and leave the cluster."""
        agents = [member.agent for member in self.members if member.agent and not member.lost]
        closed = [agent.close.remote() for agent in agents]
        if closed:
            ray.wait(closed, num_returns=len(closed), timeout=GONE_SECONDS / 2)
        ray.shutdown()


def _join(address: str) -> None:
    """Join a cluster as a client. Raises DeviceError."""
    folder = Path.cwd()
    os.chdir("/")  # Ray lets nodes look for modules in the current folder
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of a dozen classes
        raise DeviceError(
            f"cannot join the Ray cluster {address}: {_reason(error)}",
            hint="run it on a node of the cluster, with the cluster's token; see docs/cluster.md",
        ) from error
    finally:
        os.chdir(folder)
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and not all(
        is_loopback(node["NodeManagerAddress"]) for node in _alive()
    ):
        raise DeviceError(
            f"the Ray cluster {address} asks for no token, so whoever reaches it can run programs on it",
            hint="start its nodes, and this, with RAY_AUTH_MODE=token; see docs/cluster.md",
        )


def _reach(address: str) -> None:
    """Try for some seconds to connect, since Ray would try for minutes. Raises OSError."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def _said(agent: Any, work: Work, level: int) -> Iterator[Said]:
    """Start a worker; yields what it says, last that it has died. Raises RayError."""
    ray.get(agent.start.remote(work, level))
    while True:
        yield from ray.get(agent.said.remote())


def _fetched(reference: Any) -> Any:
    """An object of another node, once it is on this one. Raises RayError.

    As `ray.get` waits for an object, Ray sends nothing for up to a second, not even what would bring the object.
    """
    ray.wait([reference])
    return ray.get(reference)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _is_folder(value: object) -> bool:
    return isinstance(value, Path) and value.is_dir()


def _refuse(member: _Member, why: str) -> Literal[False]:
    logger.warning("%s is refused: %s", member.device.label if member.device else member.address, why)
    member.dismiss()
    return False


def _final(member: _Member, error: RayError) -> RayError:
    """What happened to an agent that could not be reached: it takes Ray a while to notice that a whole node is gone."""
    while isinstance(error, ActorUnavailableError):
        time.sleep(LOOK_SECONDS)
        try:
            ray.get(member.agent.kill.remote())
            return error  # it is there again, but its messages are lost
        except RayError as later:
            error = later
    return error


def _reason(error: Exception) -> str:
    """The first line of an error: of what an agent has raised, not of Ray's report of it."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


def _none(terms: Terms, gpu: bool) -> DeviceError:
    kind = "GPU" if gpu else "CPU"
    return DeviceError(
        f"for {terms.wait_seconds / 60:.0f} min the Ray cluster {terms.address} had no {kind} for this run",
        hint="see the warnings above, and `ray status`",
    )
