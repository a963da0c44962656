"""The process that a command runs in: its standard streams, and the signals that end it."""

import os
import signal
import sys
from types import FrameType

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def open_standard_streams() -> None:
    """Have something stand where standard streams are closed: else files of ours would get their numbers.

    Reading from it, or writing to standard output, still fails with "Bad file descriptor".
    """
    for number, name, flags, mode in (
        (0, "stdin", os.O_WRONLY, "r"),
        (1, "stdout", os.O_RDONLY, "w"),
        (2, "stderr", os.O_RDWR, "w"),
    ):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # it gets the lowest number that is free
            os.set_inheritable(number, True)
            stream = open(number, mode, closefd=False)  # noqa: SIM115  # for as long as the process lives
            setattr(sys, name, stream)


class Ending:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that it cleans up; `exit_code` tells which one it was."""

    def __init__(self) -> None:
        self.exit_code = 128 + signal.SIGINT
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in _ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
                signal.signal(number, self._end)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        signal.raise_signal(signal.SIGINT)
