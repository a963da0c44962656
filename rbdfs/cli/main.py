"""The command `rbdfs`: finds a command's family, reads its arguments, runs it, and ends with an exit code.

The family of a command is imported once it is known, so a command starts in the time that its own imports take.
"""

import errno
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rbdfs.cli.mount_helper import HELPER_NAME, arguments_of_mount_helper
from rbdfs.cli.options import Arguments, Parser, add_connection_options
from rbdfs.cli.process import Ending, open_standard_streams
from rbdfs.cli.running import run_async
from rbdfs.errors import InvalidArgument, RbdfsError


class Command(NamedTuple):
    """Where a command is, and what it does."""

    family: str  # rbdfs.cli.<family>.COMMANDS declares its arguments
    summary: str


COMMANDS = {
    "mount": Command("mount", "Mount a pool: each image is a file"),
    "umount": Command("umount", "Unmount; returns when all is flushed and the daemon is gone"),
    "status": Command("status", "Show what is mounted, or who has an image open"),
    "pool": Command("pool", "Create, list and remove pools"),
    "namespace": Command("pool", "Create, list and remove namespaces of a pool"),
    "check": Command("check", "Verify a local store"),
    "ls": Command("image", "List images"),
    "create": Command("image", "Create an empty image"),
    "info": Command("image", "Show an image's size, features and more"),
    "du": Command("image", "Show what images really occupy"),
    "cp": Command("transfer", "Copy an image, or what it was at a snapshot"),
    "mv": Command("image", "Rename an image"),
    "rm": Command("image", "Remove an image"),
    "resize": Command("image", "Grow or shrink an image"),
    "snap": Command("snap", "Create, list, remove, roll back snapshots"),
    "lock": Command("lock", "Show who has locked an image; lock it, or take a lock away"),
    "import": Command("transfer", "Make an image of a file or of standard input"),
    "export": Command("transfer", "Write an image to a file or to standard output"),
    "image-meta": Command("metadata", "Get, set, list and remove an image's metadata"),
}
ALIASES = {
    "list": "ls",
    "copy": "cp",
    "rename": "mv",
    "remove": "rm",
    "disk-usage": "du",
    "snapshot": "snap",
    "unmount": "umount",
}

_BROKEN_PIPE = 141  # 128 + SIGPIPE


def top_parser() -> Parser:
    """The parser of everything up to the command."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="rbdfs",
        usage="rbdfs [OPTION...] COMMAND [ARGUMENT...]",
        description=f"RBD images as files, on a Ceph cluster or on a store in a directory.\n\ncommands:\n{commands}",
        epilog="See 'rbdfs help COMMAND' for a command's arguments.",
    )
    parser.add_argument("--version", action="store_true", help="show the version and leave")
    add_connection_options(parser)
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="what to do")
    parser.add_argument("rest", nargs="...", metavar="ARGUMENT", help="on what, and how")
    return parser


def command_parser(name: str) -> Parser:
    """The parser of a command's own arguments."""
    family = importlib.import_module(f"rbdfs.cli.{COMMANDS[name].family}")
    parser = Parser(prog=f"rbdfs {name}", description=COMMANDS[name].summary + ".")
    family.COMMANDS[name](parser)
    return parser


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line; leaves (SystemExit) where it asks for help or makes no sense."""
    top = top_parser()
    arguments = top.parse_args(argv)
    name = ALIASES.get(arguments.command, arguments.command)
    if arguments.version:
        print(f"rbdfs {version()}")
        top.exit()
    if name is None or (name == "help" and not arguments.rest):
        top.print_help()
        top.exit(0 if name else 1)
    rest = arguments.rest
    if name == "help":
        name, rest = ALIASES.get(rest[0], rest[0]), [*rest[1:], "--help"]
    if name not in COMMANDS:
        top.error(f"unknown command {name!r}")
    return command_parser(name).parse_args(rest, arguments)


def version() -> str:
    """The version that is installed."""
    from importlib import metadata  # slow to import

    try:
        return metadata.version("rbdfs")
    except metadata.PackageNotFoundError:
        return "from its source tree"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    open_standard_streams()
    ending, debug = Ending(), False
    try:
        if argv is None:
            argv = sys.argv[1:]
            if Path(sys.argv[0]).name == HELPER_NAME:
                argv = arguments_of_mount_helper(argv)
                if argv is None:
                    return 0
        try:
            arguments = parse(argv)
        except SystemExit as left:  # with help, or after a message
            code = left.code if isinstance(left.code, int) else 0
        else:
            debug = bool(getattr(arguments, "debug", False))
            if debug or getattr(arguments, "verbose", False):
                _log_to_stderr(debug=debug)
            code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ending.exit_code
    except (RbdfsError, OSError) as err:
        if err.errno in (errno.EPIPE, errno.EBADF) or (isinstance(err, OSError) and err.errno == errno.ENOSPC):
            # Nothing more can be written, so the interpreter's own end must not try.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if err.errno == errno.EPIPE:  # whoever read our output has enough
            return _BROKEN_PIPE
        return _report(err, debug=debug)
    return code


def _run(arguments: Arguments) -> int:
    """Run the command, under trio where it is a coroutine."""
    if getattr(arguments, "pretty_format", False) and arguments.format != "json":
        raise InvalidArgument("--pretty-format only works when --format is json")
    if inspect.iscoroutinefunction(arguments.run):
        return run_async(arguments.run, arguments)
    return arguments.run(arguments) or 0


def _report(error: RbdfsError | OSError, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"rbdfs: {describe(error)}\n")
    return error.errno or 1


def describe(error: RbdfsError | OSError) -> str:
    """An error for a person."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def _log_to_stderr(*, debug: bool) -> None:
    import logging

    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
