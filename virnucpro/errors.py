"""One tree of errors; each class carries the exit code of the command line and each error a hint."""

from __future__ import annotations


class VirnucproError(Exception):
    """Base of all errors that this package raises on purpose.

    `hint` says what the user can do about it, with one remedy per line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({'; '.join(self.hint.splitlines())})"


class UsageError(VirnucproError):
    """Options that contradict each other or mean nothing together."""

    exit_code = 2


class InputError(VirnucproError):
    """A file that cannot be read, or whose contents cannot be used."""

    exit_code = 3


class OutputError(VirnucproError):
    """A file that cannot be written."""

    exit_code = 3


class ModelError(VirnucproError):
    """Model files that are missing, damaged, or not of the requested family."""

    exit_code = 4


class DeviceError(VirnucproError):
    """A device that is missing or cannot do what was requested."""

    exit_code = 5


class Interrupted(VirnucproError):
    """Stopped by a signal; `exit_code` is 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            "interrupted; finished work files are kept",
            hint="run the same command again to continue",
        )
        self.args = (signal_number,)  # for pickle
        self.exit_code = 128 + signal_number


#: How PyTorch, NumPy, the loader and the threads say that there is no memory, where they do not raise MemoryError.
_NO_MEMORY = ("failed to map segment", "allocate memory", "start new thread", "unable to allocate", "bad_alloc")


def lack_of_memory(error: BaseException | None) -> DeviceError | None:
    """What to say of an error that came of too little memory, or came while one was dealt with; None of another."""
    while error is not None:
        said = str(error) or type(error).__name__
        if isinstance(error, MemoryError) or any(words in said.lower() for words in _NO_MEMORY):
            hint = "raise its limit (`ulimit -v`, the memory of the job), or use fewer --threads"
            return DeviceError(f"not enough memory: {said.strip().splitlines()[-1]}", hint=hint)
        error = error.__context__
    return None


#: The run finished, but some sequences or files are in the failed list.
EXIT_SOME_FAILED = 6
