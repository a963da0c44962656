"""Where the Ceph releases that tests run come from: this machine's packages, or a Debian release in a directory.

    16.2  Debian 12 (bookworm)     18.2  Debian 13 (trixie)     20.2  Debian sid

    python tests/ceph_roots.py 18.2 20.2        make roots for releases that are not installed here, once

A root is a directory made by debootstrap, kept under RBDFS_TEST_ROOTS (by default ~/.cache/rbdfs/roots). Commands run
in it in a mount namespace of their own, in which /tmp, /proc and /dev are this machine's: paths are the same inside
and outside, and no mount is left behind. That takes root's rights.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

SUITES = {"16.2": "bookworm", "18.2": "trixie", "20.2": "sid"}
MIRROR = os.environ.get("RBDFS_TEST_MIRROR", "http://deb.debian.org/debian")
PACKAGES = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph-common", "ceph-base"]
_DONE = "rbdfs-test-root"  # a file in a root that was made whole

_ENTER = """
root=$1; shift
mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" && mount --rbind /tmp "$root/tmp"
exec chroot "$root" "$@"
"""


class Unavailable(Exception):
    """This release cannot run here; the message says what is missing."""


def roots_directory() -> Path:
    """Where roots are kept."""
    return Path(os.environ.get("RBDFS_TEST_ROOTS", Path.home() / ".cache/rbdfs/roots"))


@cache
def command_prefix(release: str) -> tuple[str, ...]:
    """What to put before a command of that release; raises Unavailable."""
    if _version_here() == release:
        missing = [name for name in ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph") if not shutil.which(name)]
        if missing:
            raise Unavailable(f"Ceph {release}: {', '.join(missing)} not installed")
        return ()
    if release not in SUITES:
        raise Unavailable(f"Ceph {release}: neither installed nor in a known Debian release ({', '.join(SUITES)})")
    if os.geteuid() != 0:
        raise Unavailable(f"Ceph {release}: not installed, and only root can run it from a root directory")
    if not _is_whole(release):
        raise Unavailable(f"Ceph {release}: not installed; `python tests/ceph_roots.py {release}` makes a root with it")
    return _enter(release)


def make(release: str) -> None:
    """Make that release's commands run here, where they do not yet; raises Unavailable. It takes minutes."""
    if _version_here() != release and release in SUITES and os.geteuid() == 0 and not _is_whole(release):
        _make(release)
    command_prefix(release)


def _root(release: str) -> Path:
    return roots_directory() / SUITES[release]


def _enter(release: str) -> tuple[str, ...]:
    return "unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "enter", str(_root(release))


def _version_here() -> str | None:
    """The release of the installed `ceph`, such as 16.2."""
    if not shutil.which("ceph-mon"):
        return None
    return _release(subprocess.run(["ceph-mon", "--version"], capture_output=True, text=True, check=False).stdout)


def _release(version: str) -> str:
    words = version.split()  # ceph version 16.2.15 (...) pacific (stable)
    return ".".join(words[2].split(".")[:2]) if len(words) > 2 else ""


def _is_whole(release: str) -> bool:
    root = _root(release)
    if (root / _DONE).exists():
        return True
    if not (root / "usr/bin/ceph-osd").exists():
        return False
    for command in ("ceph-osd", "ceph"):
        result = subprocess.run([*_enter(release), command, "--version"], capture_output=True, text=True, check=False)
        if _release(result.stdout) != release:
            return False
    (root / _DONE).touch()
    return True


def _make(release: str) -> None:
    root = _root(release)
    if not shutil.which("debootstrap"):
        raise Unavailable(f"Ceph {release}: debootstrap is not installed, which would make a root with it")
    if any(line.split()[1].startswith(f"{root}/") for line in Path("/proc/mounts").read_text().splitlines()):
        raise Unavailable(f"Ceph {release}: {root} is not whole, and something is mounted in it: unmount and remove it")
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run("debootstrap", "--variant=minbase", SUITES[release], str(root), MIRROR)
        policy = root / "usr/sbin/policy-rc.d"  # no service is started in there
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        install = "apt-get", "install", "-qy", "--no-install-recommends", *PACKAGES
        _run(*_enter(release), "env", "DEBIAN_FRONTEND=noninteractive", *install)
    except subprocess.SubprocessError as err:
        shutil.rmtree(root, ignore_errors=True)
        last = (getattr(err, "stdout", None) or "").strip().splitlines()[-1:]
        raise Unavailable(f"Ceph {release}: making {root} failed: {' '.join(last) or err}") from err
    if not _is_whole(release):
        raise Unavailable(f"Ceph {release}: Debian {SUITES[release]} has another release by now; see {root}")


def _run(*command: str) -> None:
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=900)


if __name__ == "__main__":
    unavailable = 0
    for name in sys.argv[1:]:
        try:
            make(name)
        except Unavailable as reason:
            print(reason, file=sys.stderr)
            unavailable += 1
    sys.exit(unavailable)
