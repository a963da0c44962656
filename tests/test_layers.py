"""Imports point down: which package may import which, and which files are pure."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "rbdfs"

ARROWS = {
    "cli": {"connect", "fuse", "image", "rados", "errors"},
    "fuse": {"image", "rados", "wire", "errors"},
    "connect": {"local", "ceph", "rados", "errors"},
    "cls": {"rados", "entities", "wire", "errors"},
    "image": {"rados", "cls", "entities", "wire", "errors"},
    "local": {"rados", "cls", "entities", "wire", "errors"},
    "ceph": {"rados", "entities", "wire", "errors"},
    "rados": {"errors"},
    "entities": {"wire", "errors"},
    "wire": {"errors"},
    "errors": set(),
    "__main__": {"cli"},
    "__init__": set(),
}

PURE = [
    "wire.py",
    "entities.py",
    "cls/*.py",
    "fuse/abi.py",
    "image/spec.py",
    "image/striping.py",
    "ceph/osdmap.py",
    "ceph/placement.py",
    "ceph/cephx/*.py",
    "ceph/crush/*.py",
    "ceph/msgr2/buffers.py",
    "ceph/msgr2/features.py",
    "ceph/msgr2/frames.py",
    "ceph/msgr2/handshake.py",
    "ceph/msgr2/login.py",
    "ceph/msgr2/secure.py",
]
IMPURE = {"trio", "socket", "os", "time", "random", "secrets"}

FILES = sorted(ROOT.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            modules |= {f"rbdfs.{alias.name}" for alias in node.names} if node.module == "rbdfs" else {node.module}
    return modules


def layer_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of(path)
    layers = {module.split(".")[1] for module in imported_modules(path) if module.startswith("rbdfs.")}
    assert layers - {own} <= ARROWS[own]


@pytest.mark.parametrize("pattern", PURE)
def test_pure_files_do_no_io(pattern: str) -> None:
    for path in ROOT.glob(pattern):
        tops = {module.split(".")[0] for module in imported_modules(path)}
        assert not tops & IMPURE, path
