"""What every launcher must do, however it starts workers; a subclass says which launcher is tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import light_workers as light
import pytest

from virnucpro.errors import VirnucproError
from virnucpro.pipeline.events import STOP, Answer, Crashed, Died, Fatal, FileDone, Progress, Ready, Request, Unusable
from virnucpro.pipeline.launch_local import Launch, Launcher, Said, Work

#: An answer to a request after which the worker is killed.
KILL = Path("kill")


def but_requests(said: Sequence[Said]) -> list[Said]:
    """All else comes in the order in which it is said; a request may overtake what is said before it."""
    return [each for each in said if not isinstance(each, Request)]


def outputs(folder: Path) -> set[str]:
    return {path.name.removesuffix(".h5") for path in folder.glob("*.h5")}


class Parent:
    """Answers each request with the next of the answers, and keeps all messages."""

    def __init__(self, launch: Launch, worker: Any, folder: Path, answers: Sequence[Answer]) -> None:
        self.launcher: Launcher = launch(Work(worker, ["cpu"], 0, folder, {}))
        self.answers, self.said = list(answers), list[Said]()
        try:
            self.launcher.start(0)
            while not any(isinstance(said, Died) for said in self.said):
                self.launcher.pump(self.hear, 1.0)
        finally:
            self.launcher.close()

    def hear(self, slot: int, said: Said) -> None:
        assert slot == 0
        self.said.append(said)
        if isinstance(said, Request):
            answer = self.answers.pop(0)
            if answer == KILL:
                self.launcher.kill(0)
            else:
                self.launcher.answer(0, answer)


class LauncherTests:
    """launch: makes the launcher; returned, crashed: the cause of death of a worker that returned, or raised."""

    launch: Launch
    returned, crashed = "exit code 0", "exit code 1"

    def said(self, worker: Any, folder: Path, *answers: Answer) -> list[Said]:
        return Parent(type(self).launch, worker, folder, answers).said

    def test_it_carries_files_and_what_is_said(self, tmp_path: Path) -> None:
        said = self.said(light.copier, tmp_path, Path("1.fa"), None, Path("2.fa"), STOP)
        first, second = (
            [Progress(1, 1, 0.1), FileDone(Path(name), tmp_path / f"{name}.h5")] for name in ("1.fa", "2.fa")
        )
        assert but_requests(said) == [Ready(), *first, *second, Died(self.returned)]
        assert said.count(Request()) == 4
        assert outputs(tmp_path) == {"1.fa", "2.fa"}

    @pytest.mark.parametrize(("worker", "told"), [(light.no_model, Fatal), (light.unusable, Unusable)])
    def test_it_tells_an_error(self, worker: Any, told: type, tmp_path: Path) -> None:
        end, death = self.said(worker, tmp_path)
        assert isinstance(end, (Fatal, Unusable))
        assert (type(end), type(death)) == (told, Died)
        assert isinstance(end.error, VirnucproError)
        assert end.error.hint

    def test_it_tells_an_error_that_nobody_foresaw(self, tmp_path: Path) -> None:
        ready, end, death = but_requests(self.said(light.raises_on_3, tmp_path, Path("3.fa"), STOP))
        assert ready == Ready()
        assert isinstance(end, Crashed)
        assert end.reason == "KeyError: 'colour'"
        assert death == Died(self.crashed)


class KillingLauncherTests(LauncherTests):
    """Tests of a launcher whose workers can be killed."""

    def test_it_tells_how_a_worker_died(self, tmp_path: Path) -> None:
        said = self.said(light.dies_on_3, tmp_path, Path("3.fa"))
        assert but_requests(said) == [Ready(), Died("SIGKILL; out of memory?")]

    def test_it_kills_a_worker(self, tmp_path: Path) -> None:
        said = self.said(light.copier, tmp_path, Path("1.fa"), KILL)
        assert said[-1] == Died("SIGKILL; out of memory?")
        assert outputs(tmp_path) == {"1.fa"}
