"""`rbdfs check`: verifies a local store, and says what is wrong with it."""

import errno
from pathlib import Path

from rbdfs import connect
from rbdfs.cli.access import say
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    add_connection_options,
    add_format_options,
    connect_flags,
)
from rbdfs.cli.output import print_json, write
from rbdfs.connect import StoreAddress
from rbdfs.errors import NotFound, NotSupported


def _check(parser: Parser) -> None:
    parser.add_argument("directory", nargs="?", metavar="STORE", help="its directory [default: the store of --store]")
    add_format_options(parser)
    add_connection_options(parser)
    parser.set_defaults(run=check)


COMMANDS: dict[str, Declare] = {"check": _check}


async def check(arguments: Arguments) -> int:
    """`rbdfs check`: exit code 0 where all is well, 5 (EIO) where anything is wrong."""
    if arguments.directory is not None:
        path = Path(arguments.directory).absolute()  # noqa: ASYNC240  # asks for the working directory only
    else:
        address, explanation = connect.choose_address(connect_flags(arguments))
        if not isinstance(address, StoreAddress):
            raise NotSupported(f"{address}: a cluster verifies itself (ceph pg scrub); rbdfs check is for local stores")
        if explanation:
            say(explanation)
        path = address.path
    if not connect.store_exists(path):
        raise NotFound(f"no store in {path}")
    report = await connect.check_store(path)
    if arguments.format == "json":
        found: dict[str, object] = {
            "store": str(path),
            "pools": report.pools,
            "objects": report.objects,
            "clones": report.clones,
            "blocks": report.blocks,
            "findings": report.findings,
        }
        print_json(found, pretty=arguments.pretty_format)
    else:
        write("".join(f"{finding}\n" for finding in report.findings))
        verdict = "clean" if report.is_clean else f"{len(report.findings)} things are wrong"
        seen = f"{report.pools} pools, {report.objects} objects, {report.clones} clones, {report.blocks} blocks"
        write(f"{path}: {seen}: {verdict}\n")
    return 0 if report.is_clean else errno.EIO
