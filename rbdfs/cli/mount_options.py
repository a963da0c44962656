"""What may stand behind `-o`: options of the mount, of the store (a line of fstab can name it), and of mount(8)."""

import grp
import pwd
from collections.abc import Callable, Iterable
from typing import Any

from rbdfs.cli.options import Arguments
from rbdfs.connect import ConnectFlags
from rbdfs.errors import InvalidArgument
from rbdfs.fuse.options import MountOptions
from rbdfs.image.striping import MAX_ORDER, MIN_ORDER


def _user(text: str) -> int:
    return int(text) if text.isdigit() else pwd.getpwnam(text).pw_uid


def _group(text: str) -> int:
    return int(text) if text.isdigit() else grp.getgrnam(text).gr_gid


def _octal(text: str) -> int:
    mode = int(text, 8)
    if not 0 <= mode <= 0o777:
        raise ValueError(text)
    return mode


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _pattern(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _kibibytes(text: str) -> int:
    size = int(text)
    if not 0 <= size < 1 << 22:
        raise ValueError(text)
    return size


def _order(text: str) -> int:
    order = int(text)
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise ValueError(text)
    return order


# Options without a value: the field of MountOptions that they set, to what, and what `--help` says.
FLAGS: dict[str, tuple[str, bool, str]] = {
    "ro": ("read_only", True, "read-only"),
    "rw": ("read_only", False, "read and write, as without it"),
    "allow_other": ("allow_other", True, "other users may use the mount"),
    "auto_unmount": ("auto_unmount", True, "the mount goes when the daemon dies, however it dies"),
    "no_shrink": ("no_shrink", True, "never make an image smaller, such as by '> image'"),
    "noatime": ("noatime", True, "do not keep access times"),
    "noexec": ("noexec", True, "files cannot be run"),
    "single_lane": ("single_lane", True, "pyfuse3 serves everything: slower, no fallocate, no holes shown"),
    "writeback": ("writeback", True, "the kernel keeps writes back: faster; what others write to a file is lost"),
}

# Options with a value: the field, how the value is read, and what `--help` says.
VALUES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "uid": ("uid", _user, "owner of the files, a name or a number"),
    "gid": ("gid", _group, "group of the files, a name or a number"),
    "umask": ("umask", _octal, "what the permissions of files and directories lack [077]"),
    "image": ("image", _pattern, "only images whose name matches, as the shell matches"),
    "order": ("order", _order, "object size of images made here, as a power of two [as configured, or 22]"),
    "fsname": ("fsname", str, "first column of df [the pool]"),
    "entry_timeout": ("entry_timeout", _seconds, "seconds that the kernel believes names [1]"),
    "attr_timeout": ("attr_timeout", _seconds, "seconds that the kernel believes sizes [1]"),
    "read_ahead": ("read_ahead", _kibibytes, "KiB that the kernel reads ahead [4096]"),
}

# For mount(8) and fstab; they mean nothing here, or what is the case anyway.
_OF_FSTAB = {"defaults", "_netdev", "auto", "noauto", "nofail", "user", "users", "nouser", "async", "nonempty"}
_OF_THE_KERNEL = {"dev", "nodev", "suid", "nosuid", "exec", "atime", "relatime", "default_permissions"}
_IGNORED = _OF_FSTAB | _OF_THE_KERNEL


def parse_mount_options(values: Iterable[str], arguments: Arguments) -> MountOptions:
    """Read all `-o`; those that name the store go to `arguments`, as if given as options of their own."""
    chosen: dict[str, Any] = {}
    for option in ",".join(values).split(","):
        name, equals, value = option.partition("=")
        name = name.replace("-", "_") if not name.startswith("x-") else name
        if name in FLAGS and not equals:
            field, setting, _ = FLAGS[name]
            chosen[field] = setting
        elif name in VALUES and equals:
            field, read, _ = VALUES[name]
            try:
                chosen[field] = read(value)
            except (ValueError, KeyError) as err:
                raise InvalidArgument(f"-o {option}: {value!r} is not valid for {name}") from err
        elif name in ConnectFlags.__dataclass_fields__ and equals:
            setattr(arguments, name, value)
        elif name and name not in _IGNORED and not name.startswith("x-"):
            raise InvalidArgument(f"-o {option}: {_why_not(name)}")
    return MountOptions(**chosen)


def _why_not(name: str) -> str:
    if name in FLAGS:
        return f"{name} takes no value"
    if name in VALUES or name in ConnectFlags.__dataclass_fields__:
        return f"{name} needs a value: {name}=..."
    if name == "remount":
        return "a mount cannot be changed; unmount it, and mount again"
    return "unknown mount option (see rbdfs help mount)"


def describe_options() -> str:
    """The options, for `--help`."""
    lines = [(name, text) for name, (_, _, text) in FLAGS.items()]
    lines += [(f"{name}=...", text) for name, (_, _, text) in VALUES.items()]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in lines)
