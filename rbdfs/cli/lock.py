"""`rbdfs lock`: who has locked an image, by writing it or by hand."""

from rbdfs.cli.access import open_ioctx
from rbdfs.cli.options import Arguments, Declare, Parser, add_format_options, add_image_argument, image_spec
from rbdfs.cli.output import Table, print_json, write
from rbdfs.cli.verbs import add_verb, verbs_of
from rbdfs.errors import InvalidArgument
from rbdfs.image import locks
from rbdfs.image.header import read_header
from rbdfs.image.lookup import lookup


def _lock(parser: Parser) -> None:
    verbs = verbs_of(parser)
    ls = add_verb(verbs, "ls", "Show the locks on an image", list_locks, aliases=["list"])
    add_image_argument(ls)
    add_format_options(ls)
    add = add_verb(verbs, "add", "Lock an image: nobody writes it then", add_lock)
    add_image_argument(add)
    add.add_argument("lock_id", nargs="?", metavar="LOCK-ID", help="a name for the lock")
    add.add_argument("--shared", metavar="TAG", help="share it with all who name the same tag")
    rm = add_verb(verbs, "rm", "Take a lock away, and fence the client that holds it", remove_lock, aliases=["remove"])
    add_image_argument(rm)
    rm.add_argument("lock_id", nargs="?", metavar="LOCK-ID", help="as rbdfs lock ls shows it")
    rm.add_argument("locker", nargs="?", metavar="LOCKER", help="client.NUMBER, as rbdfs lock ls shows it")


COMMANDS: dict[str, Declare] = {"lock": _lock}


async def list_locks(arguments: Arguments) -> None:
    """`rbdfs lock ls`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx:
        lockers = (await read_header(ioctx, await lookup(ioctx, spec.image))).lockers
    if arguments.format == "json":
        rows = [{"id": one.cookie, "locker": one.entity, "address": one.address} for one in lockers]
        print_json(rows, pretty=arguments.pretty_format)
    elif lockers:
        is_one = len(lockers) == 1
        kind = "shared" if lockers[0].is_shared else "exclusive"
        write(f"There {'is' if is_one else 'are'} {len(lockers)} {kind} lock{'' if is_one else 's'} on this image.\n")
        if lockers[0].is_shared:
            write(f"Lock tag: {lockers[0].tag}\n")
        table = Table("Locker", "ID", "Address")
        for one in lockers:
            table.add(one.entity, one.cookie, one.address)
        table.print()


async def add_lock(arguments: Arguments) -> None:
    """`rbdfs lock add`."""
    spec = image_spec(arguments)
    if arguments.lock_id is None:
        raise InvalidArgument("lock id was not specified")
    async with open_ioctx(arguments, spec) as ioctx:
        await locks.add_lock(ioctx, spec.image, arguments.lock_id, arguments.shared)


async def remove_lock(arguments: Arguments) -> None:
    """`rbdfs lock rm`."""
    spec = image_spec(arguments)
    if arguments.lock_id is None:
        raise InvalidArgument("lock id was not specified")
    if arguments.locker is None:
        raise InvalidArgument("locker was not specified")
    async with open_ioctx(arguments, spec) as ioctx:
        await locks.break_lock(ioctx, spec.image, arguments.lock_id, arguments.locker)
