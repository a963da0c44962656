"""`rbdfs import`, `rbdfs export`, `rbdfs cp`: whole images in and out of files and streams, and into other images."""

import os
import sys
from pathlib import Path

from rbdfs.cli.access import open_cluster, open_ioctx, open_pool
from rbdfs.cli.image import add_layout_options, layout
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    add_connection_options,
    add_pool_options,
    add_progress_option,
    image_spec,
    spec_of,
)
from rbdfs.cli.progress import Progress
from rbdfs.errors import InvalidArgument
from rbdfs.image import transfer
from rbdfs.image.image import open_image
from rbdfs.image.spec import DEFAULT_POOL, ImageSpec


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
    parser.add_argument("path", nargs="?", metavar="PATH", help="a new file; '-' is standard output")
    add_pool_options(parser)
    add_progress_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=export_image)


def _cp(parser: Parser) -> None:
    parser.add_argument("image_spec", nargs="?", metavar="[POOL/[NAMESPACE/]]IMAGE[@SNAP]")
    parser.add_argument("target", nargs="?", metavar="[POOL/[NAMESPACE/]]NEW-IMAGE")
    add_pool_options(parser)
    parser.add_argument("--image", help="source image, where the argument names none")
    parser.add_argument("--snap", help="snapshot of the source, where the argument names none")
    parser.add_argument("--dest-pool", metavar="POOL", help=f"pool of the new image [default: {DEFAULT_POOL}]")
    parser.add_argument("--dest-namespace", metavar="NAMESPACE", help="namespace of the new image")
    parser.add_argument("--dest", metavar="IMAGE", help="the new image, where the argument names none")
    add_layout_options(parser)
    add_progress_option(parser)
    add_connection_options(parser)
    parser.epilog = "The copy is laid out as the source where no option says otherwise. Its snapshots are not copied."
    parser.set_defaults(run=copy_image)


COMMANDS: dict[str, Declare] = {"import": _import, "export": _export, "cp": _cp}


async def import_image(arguments: Arguments) -> None:
    """`rbdfs import`."""
    name = arguments.target or Path(arguments.path).name
    if name == "-":
        raise InvalidArgument("importing from standard input needs the new image's name")
    spec = spec_of(arguments, name)
    if spec.snap:
        raise InvalidArgument(f"{spec}: snapshot name specified for a command that doesn't use it")
    chosen = layout(arguments)
    source = sys.stdin.fileno() if arguments.path == "-" else Path(arguments.path)
    if isinstance(source, Path) and not source.is_fifo():
        os.close(os.open(source, os.O_RDONLY))  # what cannot be read is said before a store is opened
    async with open_ioctx(arguments, spec) as ioctx:
        with Progress("Importing image", enabled=not arguments.no_progress) as progress:
            await transfer.import_file(ioctx, source, spec.image, on_progress=progress, **chosen)


async def export_image(arguments: Arguments) -> None:
    """`rbdfs export`."""
    spec = spec_of(arguments, arguments.source)
    if arguments.path is None:
        raise InvalidArgument("path was not specified")
    target = sys.stdout.fileno() if arguments.path == "-" else Path(arguments.path)
    async with (
        open_ioctx(arguments, spec) as ioctx,
        open_image(ioctx, spec.image, snap_name=spec.snap, read_only=True) as image,
    ):
        with Progress("Exporting image", enabled=not arguments.no_progress) as progress:
            await transfer.export_file(image, target, on_progress=progress)


async def copy_image(arguments: Arguments) -> None:
    """`rbdfs cp`."""
    if arguments.image is not None and arguments.target is None:  # --image leaves the argument to the new image
        arguments.image_spec, arguments.target = None, arguments.image_spec
    source = image_spec(arguments, may_have_snap=True)
    name = arguments.target or arguments.dest
    if name is None:
        raise InvalidArgument("destination image name was not specified")
    target = ImageSpec.parse(name, arguments.dest_pool or DEFAULT_POOL, arguments.dest_namespace or "")
    if target.snap:
        raise InvalidArgument("destination snapshot name specified for a command that doesn't use it")
    chosen = layout(arguments)
    async with open_cluster(arguments) as cluster:
        from_pool, to_pool = await open_pool(cluster, source.pool_spec), await open_pool(cluster, target.pool_spec)
        async with open_image(from_pool, source.image, snap_name=source.snap, read_only=True) as image:
            with Progress("Image copy", enabled=not arguments.no_progress) as progress:
                await transfer.copy_image(image, to_pool, target.image, on_progress=progress, **chosen)
