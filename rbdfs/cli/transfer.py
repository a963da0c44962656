"""`rbdfs import` and `rbdfs export`: whole images in and out of files and streams."""

import os
import sys
from pathlib import Path

from rbdfs.cli.access import open_ioctx
from rbdfs.cli.image import add_layout_options, layout
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    add_connection_options,
    add_pool_options,
    add_progress_option,
)
from rbdfs.cli.progress import Progress
from rbdfs.errors import InvalidArgument
from rbdfs.image.image import open_image
from rbdfs.image.spec import DEFAULT_POOL, ImageSpec
from rbdfs.image.transfer import export_file, import_file


def _import(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file or a block device; '-' is standard input")
    parser.add_argument(
        "target", nargs="?", metavar="[POOL/[NAMESPACE/]]IMAGE", help="the new image [default: the file's name]"
    )
    add_pool_options(parser)
    add_layout_options(parser)
    add_progress_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=import_image)


def _export(parser: Parser) -> None:
    parser.add_argument("source", metavar="[POOL/[NAMESPACE/]]IMAGE[@SNAP]")
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="a new file; '-' is standard output [default: the image's name]"
    )
    add_pool_options(parser)
    add_progress_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=export_image)


COMMANDS: dict[str, Declare] = {"import": _import, "export": _export}


async def import_image(arguments: Arguments) -> None:
    """`rbdfs import`."""
    name = arguments.target or Path(arguments.path).name
    if name == "-":
        raise InvalidArgument("importing from standard input needs the new image's name")
    spec = ImageSpec.parse(name, arguments.pool or DEFAULT_POOL, arguments.namespace or "")
    if spec.snap:
        raise InvalidArgument(f"{spec}: snapshot name specified for a command that doesn't use it")
    chosen = layout(arguments)
    source = sys.stdin.fileno() if arguments.path == "-" else Path(arguments.path)
    if isinstance(source, Path):
        os.close(os.open(source, os.O_RDONLY))  # what cannot be read is said before a store is opened
    async with open_ioctx(arguments, spec) as ioctx:
        with Progress("Importing image", enabled=not arguments.no_progress) as progress:
            await import_file(ioctx, source, spec.image, on_progress=progress, **chosen)  # type: ignore[arg-type]


async def export_image(arguments: Arguments) -> None:
    """`rbdfs export`."""
    spec = ImageSpec.parse(arguments.source, arguments.pool or DEFAULT_POOL, arguments.namespace or "")
    path = arguments.path or (f"{spec.image}@{spec.snap}" if spec.snap else spec.image)
    target = sys.stdout.fileno() if path == "-" else Path(path)
    async with (
        open_ioctx(arguments, spec) as ioctx,
        open_image(ioctx, spec.image, snap_name=spec.snap, read_only=True) as image,
    ):
        with Progress("Exporting image", enabled=not arguments.no_progress) as progress:
            await export_file(image, target, on_progress=progress)
