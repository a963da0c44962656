"""What only a terminal sees, and what Ctrl-C does."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_import_leaves_nothing_and_no_traceback(pool: Run, store: Path, how: signal.Signals) -> None:
    command = ["env", "--default-signal=INT,TERM,HUP", *COMMAND, "import", "-", "data/vm"]  # CI may have them ignored
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"x" * 10_000_000)  # more than a pipe holds: it is at work
        process.stdin.flush()
        process.send_signal(how)
        assert process.wait(60) == 128 + how
        assert process.stderr.read() == b""
    assert pool("ls", "data").out == ""
    assert pool("check").code == 0


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        (("create", "data/new", "-s", "1M"), 1, 0),
        (("ls", "data"), 1, errno.EBADF),
        (("ls", "data"), 0, 0),
        (("ls", "none"), 2, errno.ENOENT),
        (("export", "data/vm", "-"), 1, errno.EBADF),
        (("import", "-", "data/new"), 0, errno.EBADF),
    ],
)
def test_closed_standard_streams_harm_only_who_needs_them(
    pool: Run, source: Path, arguments: tuple[str, ...], closed: int, code: int
) -> None:
    pool("import", "--no-progress", source, "data/vm")
    script = f'exec "$@" {closed}>&-'
    done = subprocess.run(["sh", "-c", script, "sh", *COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_import_reads_a_fifo_once_and_ctrl_c_ends_the_wait_for_its_writer(pool: Run, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen([*COMMAND, "import", fifo, "data/vm"], stderr=subprocess.DEVNULL) as process:
        fifo.write_bytes(b"x" * 5_000_000)
        assert process.wait(60) == 0
    assert json.loads(pool("info", "data/vm", "--format", "json").out)["size"] == 5_000_000
    command = ["env", "--default-signal=INT", *COMMAND, "import", fifo, "data/other"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not _waits_for_partner(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def _waits_for_partner(pid: int) -> bool:
    return any("wait_for_partner" in wchan.read_text() for wchan in Path(f"/proc/{pid}/task").glob("*/wchan"))
