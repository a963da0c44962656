"""`rbdfs snap`: the snapshots of an image."""

from collections.abc import Awaitable, Callable

from rbdfs.cli.access import open_ioctx, say
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    add_format_options,
    add_image_argument,
    add_progress_option,
    image_spec,
)
from rbdfs.cli.output import Table, format_size, format_time, print_json
from rbdfs.cli.progress import Progress
from rbdfs.cli.verbs import add_verb, verbs_of
from rbdfs.errors import InvalidArgument
from rbdfs.image import snapshots
from rbdfs.image.header import read_header
from rbdfs.image.image import Image, open_image
from rbdfs.image.lookup import lookup
from rbdfs.image.spec import ImageSpec, check_snap_name


def _snap(parser: Parser) -> None:
    verbs = verbs_of(parser)
    create = add_verb(verbs, "create", "Record the image as it is now under a name", create_snap, aliases=["add"])
    add_image_argument(create, snap=True)
    add_progress_option(create)
    ls = add_verb(verbs, "ls", "List the snapshots of an image", list_snaps, aliases=["list"])
    add_image_argument(ls)
    add_format_options(ls)
    rm = add_verb(verbs, "rm", "Remove a snapshot", remove_snap, aliases=["remove"])
    add_image_argument(rm, snap=True)
    add_progress_option(rm)
    rename = add_verb(verbs, "rename", "Give a snapshot another name", rename_snap, aliases=["mv"])
    add_image_argument(rename, snap=True)
    rename.add_argument("target", metavar="NEW-NAME", help="the new name, or [[POOL/[NAMESPACE/]]IMAGE]@NEW-NAME")
    for name, summary, run in (
        ("protect", "Forbid a snapshot's removal", protect_snap),
        ("unprotect", "Allow a snapshot's removal again", unprotect_snap),
    ):
        add_image_argument(add_verb(verbs, name, summary, run), snap=True)
    rollback = add_verb(
        verbs, "rollback", "Make the image what it was at a snapshot", roll_back_snap, aliases=["revert"]
    )
    add_image_argument(rollback, snap=True)
    add_progress_option(rollback)
    purge = add_verb(verbs, "purge", "Remove all snapshots of an image that are not protected", purge_snaps)
    add_image_argument(purge)
    add_progress_option(purge)


COMMANDS: dict[str, Declare] = {"snap": _snap}


async def _on_snap(arguments: Arguments, act: Callable[[Image, ImageSpec], Awaitable[object]]) -> None:
    spec = image_spec(arguments, needs_snap=True)
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image) as image:
        await act(image, spec)


async def create_snap(arguments: Arguments) -> None:
    """`rbdfs snap create`."""

    async def act(image: Image, spec: ImageSpec) -> None:
        check_snap_name(spec.snap)
        with Progress("Creating snap", enabled=not arguments.no_progress):
            await snapshots.create(image, spec.snap)

    await _on_snap(arguments, act)


async def remove_snap(arguments: Arguments) -> None:
    """`rbdfs snap rm`."""

    async def act(image: Image, spec: ImageSpec) -> None:
        with Progress("Removing snap", enabled=not arguments.no_progress):
            await snapshots.remove(image, spec.snap)

    await _on_snap(arguments, act)


async def rename_snap(arguments: Arguments) -> None:
    """`rbdfs snap rename`."""
    source = image_spec(arguments, needs_snap=True)
    target: str = arguments.target
    image_part, at, new_name = target.rpartition("@")
    if at and image_part:
        named = ImageSpec.parse(image_part, source.pool, source.namespace)
        if named.snap:
            raise InvalidArgument(f"invalid snap spec {target!r}")
        if (named.pool_spec, named.image) != (source.pool_spec, source.image):
            raise InvalidArgument(f"{source} to {target}: a snapshot stays with its image")
    check_snap_name(new_name)
    async with open_ioctx(arguments, source) as ioctx, open_image(ioctx, source.image) as image:
        await snapshots.rename(image, source.snap, new_name)


async def protect_snap(arguments: Arguments) -> None:
    """`rbdfs snap protect`."""
    await _on_snap(arguments, lambda image, spec: snapshots.protect(image, spec.snap))


async def unprotect_snap(arguments: Arguments) -> None:
    """`rbdfs snap unprotect`."""
    await _on_snap(arguments, lambda image, spec: snapshots.unprotect(image, spec.snap))


async def roll_back_snap(arguments: Arguments) -> None:
    """`rbdfs snap rollback`."""

    async def act(image: Image, spec: ImageSpec) -> None:
        with Progress("Rolling back to snapshot", enabled=not arguments.no_progress) as progress:
            await snapshots.rollback(image, spec.snap, on_progress=progress)

    await _on_snap(arguments, act)


async def purge_snaps(arguments: Arguments) -> None:
    """`rbdfs snap purge`: says which ones are protected and so stay; that is no failure, as for `rbd`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image) as image:
        protected = [snap.name for snap in image.header.snaps if snap.is_protected]
        removable = [snap.name for snap in image.header.snaps if not snap.is_protected]
        if removable:
            with Progress("Removing all snapshots", enabled=not arguments.no_progress) as progress:
                for number, name in enumerate(removable, 1):
                    await snapshots.remove(image, name)
                    progress(number, len(removable))
    if protected:
        say(f"{spec}: protected snapshots stay: {', '.join(protected)} (rbdfs snap unprotect)")


async def list_snaps(arguments: Arguments) -> None:
    """`rbdfs snap ls`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx:
        snaps = (await read_header(ioctx, await lookup(ioctx, spec.image))).snaps
    if arguments.format == "json":
        print_json(
            [
                {
                    "id": snap.id,
                    "name": snap.name,
                    "size": snap.size,
                    "protected": "true" if snap.is_protected else "false",
                    "timestamp": format_time(snap.timestamp) if snap.timestamp else "",
                }
                for snap in snaps
            ],
            pretty=arguments.pretty_format,
        )
    elif snaps:
        table = Table(">SNAPID", "NAME", "SIZE", "PROTECTED", "TIMESTAMP")
        for snap in snaps:
            table.add(
                snap.id,
                snap.name,
                format_size(snap.size),
                "yes" if snap.is_protected else "",
                format_time(snap.timestamp) if snap.timestamp else "",
            )
        table.print()
