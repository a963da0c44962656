"""Running commands: in this process, on a store of the test's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbdfs.cli.main import main


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store of the test's commands is, or will be."""
    path = tmp_path / "store"
    monkeypatch.setenv("RBDFS_STORE", str(path))
    monkeypatch.setenv("RBDFS_RUN_DIR", str(tmp_path / "run"))
    return path


@pytest.fixture
def run(store: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line and give what it printed and its exit code."""

    def run_command(*argv: object) -> Result:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run_command


@pytest.fixture
def pool(run: Run) -> Run:
    """The same, on a store that has the pool `data`."""
    assert run("pool", "create", "data").code == 0
    return run
