"""`rbdfs status`: what is mounted, and who has an image open."""

import os
from pathlib import Path

from rbdfs.cli.access import open_ioctx
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    add_connection_options,
    add_format_options,
    add_pool_options,
    spec_of,
)
from rbdfs.cli.output import Table, print_json, write
from rbdfs.cli.running import run_async
from rbdfs.errors import InvalidArgument, NotFound
from rbdfs.fuse import state
from rbdfs.fuse.state import MountStatus
from rbdfs.image.image import open_image
from rbdfs.image.spec import ImageSpec, PoolSpec


def _status(parser: Parser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="MOUNTPOINT|IMAGE", help="one mount; who has an image open [default: all mounts]"
    )
    add_pool_options(parser)
    add_format_options(parser)
    add_connection_options(parser)
    parser.set_defaults(run=show_status)


COMMANDS: dict[str, Declare] = {"status": _status}


def show_status(arguments: Arguments) -> int:
    """`rbdfs status`."""
    what: str | None = arguments.what
    states = [found for found in state.read_states() if found.is_alive]
    if what is not None:
        path = Path(what).absolute()
        places = (str(path), str(path.parent.resolve() / path.name), os.path.realpath(path))
        states = [found for found in states if found.mountpoint in places]
        if not states and what.startswith(("/", "./", "../")):
            raise NotFound(f"{what}: no mount of rbdfs (of this user) here")
    if what is None or states:
        _show_mounts(arguments, states)
        return 0
    spec = spec_of(arguments, what)
    return run_async(_show_watchers, arguments, spec)


def _show_mounts(arguments: Arguments, states: list[MountStatus]) -> None:
    if arguments.format == "json":
        print_json([_as_json(found) for found in states], pretty=arguments.pretty_format)
        return
    if states:
        table = Table("MOUNTPOINT", "POOL", ">PID", ">OPEN", ">HIDDEN", "STORE")
        for found in states:
            pool = str(PoolSpec(found.pool, found.namespace)) + (" (ro)" if found.read_only else "")
            opened, hidden = len(found.open_images), len(found.hidden)
            table.add(found.mountpoint, pool, found.pid, opened, hidden, found.store)
        table.print()
    for found in states:
        if found.open_images:
            write(f"\n{found.mountpoint}: open images\n" + "".join(f"  {name}\n" for name in found.open_images))
        if found.hidden:
            reasons = "".join(f"  {name}: {reason}\n" for name, reason in found.hidden.items())
            write(f"\n{found.mountpoint}: not shown as files\n{reasons}")


def _as_json(found: MountStatus) -> dict[str, object]:
    return {
        "mountpoint": found.mountpoint,
        "pool": found.pool,
        "pool_namespace": found.namespace,
        "pid": found.pid,
        "store": found.store,
        "read_only": found.read_only,
        "open_images": found.open_images,
        "hidden": [{"name": name, "reason": reason} for name, reason in found.hidden.items()],
    }


async def _show_watchers(arguments: Arguments, spec: ImageSpec) -> None:
    """Who has an image open, as `rbd status` shows it."""
    if spec.snap:
        raise InvalidArgument(f"{spec}: snapshot name specified for a command that doesn't use it")
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image, read_only=True) as image:
        # We watch it, too, to look at it; the user did not ask for us.
        own = f"client.{ioctx.cluster.instance_id}"
        watchers = [watcher for watcher in (await image.status()).watchers if watcher.entity != own]
    if arguments.format == "json":
        rows = [
            {"address": one.address, "client": int(one.entity.rpartition(".")[2]), "cookie": one.cookie}
            for one in watchers
        ]
        print_json({"watchers": rows}, pretty=arguments.pretty_format)
    elif watchers:
        lines = [f"\twatcher={one.address} {one.entity} cookie={one.cookie}\n" for one in watchers]
        write("Watchers:\n" + "".join(lines))
    else:
        write("Watchers: none\n")
