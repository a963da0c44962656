"""A mount namespace for the tests: no other process can get a copy of their mounts, and keep it."""

import ctypes
import os

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18  # linux/sched.h, linux/mount.h


def enter_own_mount_namespace() -> None:
    """Leave the namespace that everybody is in, where we may; processes and threads started later are in ours."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        assert libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0
