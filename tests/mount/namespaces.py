"""A mount namespace for the tests: no other process can get a copy of their mounts, and keep it."""

import ctypes
import os

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18  # linux/sched.h, linux/mount.h


def enter_own_mount_namespace() -> None:
    """Leave the namespace that everybody is in, where we may.

    Processes and threads started later are in ours, those that run already are not: so this comes before any test.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWNS) == 0:
        assert libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0
