"""Going on in the background: the command returns once the daemon works, or with what kept it from working.

The fork happens before trio and before any store is open. The child stays on the terminal's standard error until it
is ready, so errors and notes reach the user; the parent waits, and leaves with the child's exit code where the child
ends before it is ready. An interrupted parent ends the child.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_READY = b"r"


def detach(log_file: Path | None) -> Callable[[], None]:
    """Go on in a child process; returns there, with the function that lets the parent return.

    Once ready, standard input and output are closed, and standard error goes to the log file.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(write_end)
        os._exit(_wait(child, read_end))
    os.close(read_end)
    os.setsid()

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        errors = null
        if log_file is not None:
            errors = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        for standard, replacement in ((0, null), (1, null), (2, errors)):
            os.dup2(replacement, standard)
        for opened in {null, errors}:
            if opened > 2:
                os.close(opened)
        os.chdir("/")
        with contextlib.suppress(BrokenPipeError):  # the parent was killed; we work all the same
            os.write(write_end, _READY)
        os.close(write_end)

    return ready


def _wait(child: int, read_end: int) -> int:
    """Wait until the child is ready (0) or has ended (its exit code)."""
    try:
        if os.read(read_end, 1) == _READY:
            return 0
        return _exit_code(child)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        _exit_code(child)
        return 128 + signal.SIGINT


def _exit_code(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        sys.stderr.write(f"rbdfs: the daemon was killed by {signal.Signals(-code).name}\n")
        return 128 - code
    return code
