"""`rbdfs mount`: checks what can be checked, goes into the background, and serves."""

import logging
import logging.handlers
import os
from collections.abc import Callable
from pathlib import Path

from rbdfs import connect
from rbdfs.cli import daemon
from rbdfs.cli.access import open_cluster, open_pool, say
from rbdfs.cli.mount_options import describe_options, parse_mount_options
from rbdfs.cli.options import Arguments, Declare, Parser, add_connection_options, connect_flags
from rbdfs.cli.running import run_async
from rbdfs.connect import StoreAddress
from rbdfs.errors import InvalidArgument, RbdfsError
from rbdfs.fuse.options import MountOptions
from rbdfs.fuse.session import serve
from rbdfs.fuse.state import MountStatus, write_failure
from rbdfs.image.spec import PoolSpec

_LOG_BYTES, _LOG_FILES = 1 << 20, 5


def _mount(parser: Parser) -> None:
    parser.add_argument("source", metavar="POOL[/NAMESPACE]")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="a directory; made where it is missing")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay; log to standard error")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTION[,...]", help="see below")
    parser.add_argument("--log-file", metavar="FILE", help="log of the daemon, kept small; 'none' for none")
    add_connection_options(parser)
    parser.epilog = (
        f"mount options:\n{describe_options()}\n"
        "  store=..., conf=..., id=..., ...  as the options of those names, for fstab\n\n"
        "The command returns once the mount works. A store that does not exist yet is made, with the pool."
    )
    parser.set_defaults(run=mount)


COMMANDS: dict[str, Declare] = {"mount": _mount}


def mount(arguments: Arguments) -> int:
    """`rbdfs mount`: checks what can be checked, goes into the background, and serves."""
    spec = PoolSpec.parse(arguments.source)
    options = parse_mount_options(arguments.options, arguments)
    # Not resolve(), which would wait for a mount that hangs there; serving prepares the directory.
    mountpoint = Path(os.path.abspath(arguments.mountpoint))
    address, _ = connect.choose_address(connect_flags(arguments))
    if isinstance(address, StoreAddress) and address.path.is_relative_to(mountpoint):
        raise InvalidArgument(f"{mountpoint}: the store {address.path} is inside; the mount would hide it")
    log_file = None if arguments.foreground else _log_file(arguments, mountpoint)
    ready: Callable[[], None] = (lambda: None) if arguments.foreground else daemon.detach(log_file)
    if log_file is not None:
        _log_to(log_file, arguments)
    elif arguments.foreground:
        logging.basicConfig(level=_level(arguments), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serving: list[MountStatus] = []

    def on_ready(status: MountStatus) -> None:
        serving.append(status)
        if arguments.foreground:
            say(f"{spec} of the {status.store} is mounted on {status.mountpoint}")
        ready()

    try:
        return run_async(_serve, arguments, spec, mountpoint, options, on_ready)
    except RbdfsError as err:
        logging.getLogger(__name__).error("%s: %s", mountpoint, err)
        if serving:
            write_failure(Path(serving[0].mountpoint), err)
        raise


async def _serve(
    arguments: Arguments,
    spec: PoolSpec,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[MountStatus], None],
) -> None:
    address, _ = connect.choose_address(connect_flags(arguments))
    is_new = isinstance(address, StoreAddress) and not connect.store_exists(address.path)
    async with open_cluster(arguments, create=is_new) as cluster:
        if is_new and spec.pool not in (await cluster.list_pools()).values():
            await cluster.create_pool(spec.pool)
            say(f"created pool {spec.pool}")
        await serve(await open_pool(cluster, spec), mountpoint, options, on_ready=on_ready)


def _log_file(arguments: Arguments, mountpoint: Path) -> Path | None:
    """Where the daemon of this mount logs; None where the user wants no log."""
    if arguments.log_file == "none":
        return None
    if arguments.log_file:
        return Path(arguments.log_file).absolute()
    if os.geteuid() == 0:
        directory = Path("/var/log/rbdfs")
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
        directory = Path(base) / "rbdfs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        say(f"no log: {directory}: {err.strerror}")
        return None
    return directory / (str(mountpoint).strip("/").replace("/", "-") + ".log")


def _level(arguments: Arguments) -> int:
    return logging.DEBUG if getattr(arguments, "debug", False) else logging.INFO


def _log_to(path: Path, arguments: Arguments) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=_level(arguments), handlers=[handler], force=True)
