"""Runs on the nodes of a Ray cluster: two on this host, each killed, left and joined for real; bytes as on one CPU."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import light_workers as light
import psutil
import pytest
from conftest import HANGS, command_line, random_records, run_cli, to_fasta
from launcher_tests import KillingLauncherTests, Parent, but_requests
from light_workers import wait_for
from toy_set import other, viral

import virnucpro
from virnucpro.errors import DeviceError, UsageError
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.pipeline.agent import FOLDERS, Agent, here, traits
from virnucpro.pipeline.cluster import Cluster, is_loopback
from virnucpro.pipeline.events import STOP, Died, Event, Fatal, FileDone, Phase, Request
from virnucpro.pipeline.launch_local import Said
from virnucpro.runs.config import EmbedConfig, PredictConfig, TrainConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.predict import run_predict
from virnucpro.runs.train import run_train

# It is imported once the settings of its nodes are in the environment, since it reads them on import.
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ray, from PyPI"),
]

TESTS = Path(__file__).parent
TOKEN = "a-token-for-tests-0123456789abcdef"

#: Files that depend on when and where a run was made.
TOLD = (".log", ".run.json")


def patiently(start: Callable[[], Any], tries: int = 9) -> Any:
    """Start a process of Ray, which gives up after half a minute: a busy machine may need longer."""
    for _ in range(tries):
        try:
            return start()
        except Exception as error:
            last = error
    raise last


class Nodes:
    """A cluster on the loopback address whose head computes nothing; it asks for a token."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Local

        self.local = patiently(lambda: Local(initialize_head=True, head_node_args=self.settings(num_cpus=0)))
        self.address = str(self.local.address)

    @staticmethod
    def settings(**others: Any) -> dict[str, Any]:
        small = {"num_cpus": 1, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
        return {**small, "include_dashboard": False, **others}

    def add(self, **others: Any) -> Any:
        return patiently(lambda: self.local.add_node(**self.settings(**others)))

    def remove(self, node: Any) -> None:
        self.local.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self.local.shutdown()


def agents(node: Any) -> list[psutil.Process]:
    """The processes of agents on a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    found = []
    for each in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name().startswith("ray::Agent"):
                found.append(each)
    return found


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """The environment of nodes and their users: with a token, and without usage statistics."""
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": paths}
    settings["RAY_worker_niceness"] = (
        "0"  # otherwise the computing processes would have the lowest priority on a busy machine
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def nodes(environment: None) -> Iterator[Nodes]:
    """A cluster of two nodes."""
    found = Nodes()
    try:
        found.pair = [found.add(), found.add()]
        yield found
    finally:
        found.close()


# The launcher.


class KeptOpen(Cluster):
    """A cluster that is joined once for several runs of the tests below."""

    def close(self) -> None:
        pass


class Waiting(Parent):
    """Leaves requests unanswered when there are no more answers; kills the worker when the run has failed."""

    def hear(self, slot: int, said: Said) -> None:
        if self.answers or not isinstance(said, Request):
            super().hear(slot, said)
        if isinstance(said, Fatal):
            self.launcher.kill(slot)


class TestRayLauncher(KillingLauncherTests):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def joined(cls, nodes: Nodes) -> Iterator[None]:
        cluster = KeptOpen(nodes.address, "cpu", [], None, HANGS)
        cls.launch = cluster.launch
        yield
        Cluster.close(cluster)

    def test_the_next_file_comes_while_a_result_is_under_way(self, tmp_path: Path) -> None:
        said = self.said(light.needs_the_next, tmp_path, Path("1.fa"), Path("2.fa"), STOP)
        assert [each.path.name for each in said if isinstance(each, FileDone)] == ["1.fa", "2.fa"]
        assert {path.read_text() for path in tmp_path.glob("*.h5")} == {"1.fa", "2.fa"}

    def test_a_result_that_cannot_be_written_is_reported_at_once(self, tmp_path: Path) -> None:
        """The worker waits for a file then, and says nothing."""
        (tmp_path / "1.fa.h5" / "in the way").mkdir(parents=True)
        parent = Waiting(type(self).launch, light.copier, tmp_path, [Path("1.fa")])
        (error,) = (each.error for each in parent.said if isinstance(each, Fatal))
        assert str(tmp_path / "1.fa.h5") in str(error)

    def test_a_worker_dies_once_if_its_result_does_not_arrive(self, tmp_path: Path) -> None:
        said = but_requests(self.said(light.leaves_a_folder, tmp_path, Path("1.fa"), STOP))
        (died,) = said
        assert isinstance(died, Died)
        assert "Is a directory" in died.cause


# Runs.


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    """A run of 24 work files, on one CPU."""
    folder = tmp_path_factory.mktemp("embed")
    path = to_fasta(folder / "in.fa", random_records(120))
    return EmbedConfig((path,), folder / "o.h5", device="cpu", dtype="fp32", batch_size=256, sequences_per_file=5)


@pytest.fixture(scope="module")
def expected(config: EmbedConfig) -> bytes:
    run_embed(config)
    return config.output.read_bytes()


def on(nodes: Nodes, config: Any, output: Path) -> Any:
    """The same run on a cluster."""
    return replace(config, output=output, ray=nodes.address, ray_wait=HANGS / 60)


class Once:
    """Does something when the first work file is done, while others are being computed."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def __call__(self, _worker: int | None, event: Event | Phase) -> None:
        if isinstance(event, FileDone) and self.act is not None:
            act, self.act = self.act, None
            act()


def test_embed(nodes: Nodes, config: EmbedConfig, expected: bytes, tmp_path: Path) -> None:
    result = run_embed(on(nodes, config, tmp_path / "o.h5"))
    assert (tmp_path / "o.h5").read_bytes() == expected
    assert [stats.device for stats in result.devices] == ["127.0.0.1/cpu"] * 2
    assert sum(stats.files for stats in result.devices) == 24


def test_predict(nodes: Nodes, complete: Path, toy: Path, tmp_path: Path) -> None:
    """With a classifier in a folder, and with all outputs kept."""
    everything = {"vanilla_output": True, "keep_embeddings": True, "sequences_per_file": 20}
    config = PredictConfig((complete.with_name("in.fa"),), tmp_path, model=str(toy), device="cpu", dtype="fp32")
    run_predict(on(nodes, replace(config, **everything), tmp_path / "out"))
    results = {each.name: each.read_bytes() for each in complete.iterdir() if not each.name.endswith(TOLD)}
    assert results
    for name, content in results.items():
        assert (tmp_path / "out" / name).read_bytes() == content, name


def test_train(nodes: Nodes, tmp_path: Path) -> None:
    """The classifier and the files about it."""
    paths = tuple(
        to_fasta(tmp_path / f"{make.__name__}.fa", [(f"{make.__name__}{i}", make(400, i)) for i in range(12)])
        for make in (viral, other)
    )
    settings = {"model_set": "mini-1", "device": "cpu", "dtype": "fp32", "sequences_per_file": 10, "window": 200}
    config = TrainConfig(paths, tmp_path / "here" / "model", **settings, epochs=5)
    run_train(config)
    run_train(on(nodes, config, tmp_path / "there" / "model"))
    for path in config.output.iterdir():
        if not path.name.endswith(TOLD):
            assert (tmp_path / "there" / "model" / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_agent_is_killed(
    nodes: Nodes, config: EmbedConfig, expected: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill() -> None:
        for node in nodes.pair:
            agents(node)[0].kill()

    run_embed(on(nodes, config, tmp_path / "o.h5"), Once(kill))
    assert (tmp_path / "o.h5").read_bytes() == expected
    assert "the worker on 127.0.0.1/cpu died (" in caplog.text


def test_the_driver_is_killed_and_goes_on(
    nodes: Nodes, config: EmbedConfig, expected: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "o.h5"
    settings = ["--device", "cpu", "--dtype", "fp32", "--batch-size", 256, "--sequences-per-file", 5]
    command = command_line("embed", config.inputs[0], "-o", output, "--ray", nodes.address, *settings)
    with subprocess.Popen(command) as driver:
        wait_for(lambda: list(tmp_path.glob("o.h5.work/shards/*.h5")) or driver.poll() is not None)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    wait_for(lambda: not any(agents(node) for node in nodes.pair))
    with caplog.at_level(logging.INFO, "virnucpro"):
        run_embed(on(nodes, config, output))
    assert output.read_bytes() == expected
    assert "resuming: " in caplog.text


def test_a_node_goes_and_another_comes(
    nodes: Nodes, config: EmbedConfig, expected: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No node is left for a while."""

    def exchange() -> None:
        for node in nodes.pair:
            nodes.remove(node)
        nodes.pair = [nodes.add(), nodes.add()]

    with caplog.at_level(logging.INFO, "virnucpro"):
        result = run_embed(on(nodes, config, tmp_path / "o.h5"), Once(exchange))
    assert (tmp_path / "o.h5").read_bytes() == expected
    assert caplog.text.count("127.0.0.1/cpu is gone (its node has left the cluster)") == 2
    assert "127.0.0.1/cpu has joined" in caplog.text
    assert len(result.devices) > 2
    assert result.failures == []


def test_an_unlike_node_is_refused(nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(Path(virnucpro.__file__).parent, tmp_path / "virnucpro")
    (tmp_path / "virnucpro" / "_version.py").write_text('__version__ = "0.0.1"\n')
    unlike = nodes.add(env_vars={"PYTHONPATH": str(tmp_path)})
    try:
        cluster = Cluster(nodes.address, "cpu", [resolve("dnabert-mini")], None, HANGS)
        cluster.close()
        assert len(cluster.devices) == 2
        assert f"127.0.0.1/cpu is refused: virnucpro is 0.0.1 there and {virnucpro.__version__} here" in caplog.text
    finally:
        nodes.remove(unlike)


@pytest.mark.parametrize("token", [{"RAY_AUTH_TOKEN": "not-the-token-0123456789abcdef"}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_wrong_token_is_refused(token: dict[str, str], nodes: Nodes, config: EmbedConfig, tmp_path: Path) -> None:
    done = run_cli("embed", config.inputs[0], "-o", tmp_path / "o.h5", "--ray", nodes.address, env=token)
    assert done.returncode == 5
    assert f"virnucpro: error: cannot join the Ray cluster {nodes.address}: " in done.stderr
    assert "with the cluster's token; see docs/cluster.md" in done.stderr


def test_nobody_is_there(config: EmbedConfig, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot join the Ray cluster 127\.0\.0\.1:1: .*refused"):
        run_embed(replace(config, output=tmp_path / "o.h5", ray="127.0.0.1:1"))


def test_the_head_is_lost(environment: None, config: EmbedConfig, expected: bytes, tmp_path: Path) -> None:
    """Ray ends its client after a minute; the next run continues from the finished work files, here on one CPU."""
    nodes = Nodes()
    try:
        nodes.add()
        gcs = nodes.local.head_node.all_processes["gcs_server"][0].process
        pause = Once(
            lambda: (gcs.kill(), [each.suspend() for node in nodes.local.worker_nodes for each in agents(node)])
        )
        with pytest.raises(DeviceError, match="lost the Ray cluster") as caught:
            run_embed(on(nodes, config, tmp_path / "o.h5"), pause)
        assert "run the same command again" in str(caught.value.hint)
    finally:
        nodes.close()
    run_embed(replace(config, output=tmp_path / "o.h5"))
    assert (tmp_path / "o.h5").read_bytes() == expected


# Requirements for a node.


def test_where_a_model_is_found_on_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same path as on the first host, or else by its name; its content has to be the same."""
    model = resolve("dnabert-mini")
    assert here(model) == model
    folder = tmp_path / "elsewhere" / "dnabert-mini"
    shutil.copytree(model.weights.parent, folder)
    elsewhere = LocalModel.of(folder / model.weights.name, "dnabert-mini", "dnabert", revision=model.revision)
    assert traits([elsewhere]) == traits([model])
    shutil.rmtree(folder)
    assert here(elsewhere) == model
    shutil.copytree(model.weights.parent, folder)
    with open(folder / model.weights.name, "ab") as file:
        file.write(b"\0")
    assert traits([elsewhere]) != traits([model])


def test_a_node_without_a_model_says_so(tmp_path: Path) -> None:
    model = replace(resolve("dnabert-mini"), name="nowhere", weights=tmp_path / "model.safetensors")
    assert "no model 'nowhere'" in Agent().probe([model], gpu=False).traits["nowhere"]


@pytest.mark.parametrize("address", ["10.0.0.5", "ray://host:1", "host", "http://host:1"])
def test_addresses_that_make_no_sense(address: str, config: EmbedConfig) -> None:
    with pytest.raises(UsageError, match="ray must be auto or HOST:PORT"):
        replace(config, ray=address)


def test_single_devices_of_a_cluster_cannot_be_chosen(config: EmbedConfig) -> None:
    with pytest.raises(UsageError, match="on a cluster, all devices of the nodes are used"):
        replace(config, ray="auto", device="0,1")


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.5.0.1", "localhost", "[::1]")))
    assert not any(map(is_loopback, ("10.0.0.1", "192.0.2.2", "head", "")))


def test_folders_of_killed_agents_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for pid in (int(gone.stdout), os.getpid()):
        (tmp_path / f"{FOLDERS}{pid}-x").mkdir()
    Agent().close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{FOLDERS}{os.getpid()}-x"]


def test_an_agent_without_a_worker() -> None:
    agent = Agent()
    agent.answer(None, {})
    agent.kill()
    assert (agent.said(), agent.result(Path("1.fa"))) == ([], {})
