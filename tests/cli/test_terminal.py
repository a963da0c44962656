"""What only a terminal sees, and what Ctrl-C does."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Run

COMMAND = [sys.executable, "-m", "rbdfs"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"x" * 20_000_000)
    return path


def on_terminal(*argv: object) -> tuple[int, str]:
    """Run a command with its standard error on a terminal; gives exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *map(str, argv)], stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # EIO: the last one that had the terminal open has closed it
            pass
        code = process.wait(60)
    os.close(ours)
    return code, shown.decode()


def test_terminal_sees_progress(pool: Run, source: Path) -> None:
    code, shown = on_terminal("import", source, "data/vm")
    assert code == 0
    assert shown.startswith("\rImporting image: ")
    assert shown.endswith("\rImporting image: 100% complete...done.\r\n")
    code, shown = on_terminal("export", "data/vm", source.with_suffix(".back"))
    assert shown.endswith("\rExporting image: 100% complete...done.\r\n")


def test_terminal_sees_that_it_failed(pool: Run, source: Path) -> None:
    pool("create", "data/vm", "-s", "1M")
    code, shown = on_terminal("import", source, "data/vm")
    assert code == 17
    assert "complete...failed.\r\nrbdfs: " in shown


def test_no_progress_is_silent(pool: Run, source: Path) -> None:
    assert on_terminal("import", "--no-progress", source, "data/vm") == (0, "")


def test_interrupted_import_leaves_nothing_and_no_traceback(pool: Run, store: Path) -> None:
    command = ["env", "--default-signal=INT", *COMMAND, "import", "-", "data/vm"]  # CI may run us with it ignored
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"x" * 10_000_000)  # more than a pipe holds: it is at work
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""
    assert pool("ls", "data").out == ""
    assert pool("check").code == 0
