"""Commands about images: `ls`, `create`, `mv`, `rm`, `resize`. What shows one in detail is in `info.py`."""

import math

import trio

from rbdfs.cli import info
from rbdfs.cli.access import open_ioctx, say
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    UsageError,
    add_connection_options,
    add_format_options,
    add_image_argument,
    add_pool_argument,
    add_progress_option,
    add_size_option,
    image_spec,
    option_size,
    pool_spec,
    size,
    spec_of,
)
from rbdfs.cli.output import Table, format_size, print_json, write
from rbdfs.cli.progress import Progress
from rbdfs.errors import InvalidArgument, NotEmpty, RbdfsError
from rbdfs.image import directory
from rbdfs.image.features import DEFAULT_FEATURES, FEATURE_NAMES, Feature, feature_names, settle
from rbdfs.image.header import Header, SnapInfo, read_header
from rbdfs.image.image import open_image
from rbdfs.image.layout import ImageLayout
from rbdfs.image.spec import ImageSpec, check_image_name
from rbdfs.image.striping import MAX_ORDER, MIN_ORDER
from rbdfs.rados.api import IoCtx

_READ_AT_ONCE = 32  # headers that `ls -l` asks for at the same time


def _ls(parser: Parser) -> None:
    add_pool_argument(parser)
    parser.add_argument("-l", "--long", action="store_true", help="also sizes, snapshots, parents and locks")
    add_format_options(parser)
    add_connection_options(parser)
    parser.set_defaults(run=list_images)


def _create(parser: Parser) -> None:
    add_image_argument(parser)
    add_size_option(parser)
    add_layout_options(parser)
    parser.add_argument("--no-progress", action="store_true", help="nothing: there is no progress to show")
    add_connection_options(parser)
    parser.set_defaults(run=create_image)


def add_layout_options(parser: Parser) -> None:
    """How a new image keeps its data."""
    parser.add_argument(
        "--order", type=int, metavar="N", help="object size is 2^N bytes [default: as configured, or 22]"
    )
    parser.add_argument("--object-size", metavar="SIZE", help="object size, 4K to 32M, made a power of two")
    parser.add_argument(
        "--image-feature",
        action="append",
        metavar="FEATURE[,...]",
        help=f"features of the image [default: as configured, or {','.join(feature_names(DEFAULT_FEATURES))}]",
    )
    parser.add_argument("--image-shared", action="store_true", help="without the features that need a single writer")
    parser.add_argument("--image-format", type=int, choices=(1, 2), help="format of the image; only 2 can be made")
    parser.add_argument("--stripe-unit", metavar="SIZE", help="bytes that stay together in one object")
    parser.add_argument("--stripe-count", type=int, metavar="N", help="objects that the stripe units go round")
    parser.add_argument("--data-pool", metavar="POOL", help="pool for the data; metadata stays in the image's own")


_SINGLE_WRITER = Feature.EXCLUSIVE_LOCK | Feature.OBJECT_MAP | Feature.FAST_DIFF | Feature.JOURNALING


def layout(arguments: Arguments) -> ImageLayout:
    """What the layout options mean."""
    chosen: ImageLayout = {}
    if arguments.order is not None:
        if not MIN_ORDER <= arguments.order <= MAX_ORDER:
            raise UsageError("the argument for option '--order' is invalid")
        chosen["order"] = arguments.order
    elif arguments.object_size is not None:
        object_size = option_size("--object-size", arguments.object_size)
        chosen["order"] = round(math.log2(object_size)) if object_size else 0
    if arguments.image_format == 1:
        raise InvalidArgument("image format 1 is deprecated")
    if arguments.image_feature is not None:
        chosen["features"] = settle(_features(arguments.image_feature))
    if arguments.image_shared:
        chosen["features"] = settle(chosen.get("features", DEFAULT_FEATURES) & ~_SINGLE_WRITER)
    if (arguments.stripe_unit is None) != (arguments.stripe_count is None):
        raise InvalidArgument("must specify both (or neither) of stripe-unit and stripe-count")
    if arguments.stripe_unit is not None:
        chosen["stripe_unit"] = option_size("--stripe-unit", arguments.stripe_unit)
        chosen["stripe_count"] = arguments.stripe_count
    if arguments.data_pool:
        chosen["data_pool"] = arguments.data_pool
    return chosen


def _features(values: list[str]) -> int:
    features = 0
    for name in ",".join(values).split(","):
        if name not in FEATURE_NAMES:
            known = ", ".join(feature_names(DEFAULT_FEATURES))
            raise UsageError(f"the argument for option '--image-feature' is invalid: {name!r} (known: {known}, ...)")
        features |= FEATURE_NAMES[name]
    return features


def _mv(parser: Parser) -> None:
    parser.add_argument("source", metavar="[POOL/[NAMESPACE/]]IMAGE")
    parser.add_argument("target", metavar="NEW-NAME", help="in the same pool and namespace")
    parser.add_argument("-p", "--pool", help="pool, where the argument names none [default: rbd]")
    parser.add_argument("--namespace", help="namespace of the pool")
    add_connection_options(parser)
    parser.set_defaults(run=rename_image)


def _rm(parser: Parser) -> None:
    add_image_argument(parser)
    add_progress_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=remove_image)


def _resize(parser: Parser) -> None:
    add_image_argument(parser)
    add_size_option(parser)
    parser.add_argument("--allow-shrink", action="store_true", help="permit a size below the present one")
    add_progress_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=resize_image)


COMMANDS: dict[str, Declare] = {
    "ls": _ls,
    "create": _create,
    "mv": _mv,
    "rm": _rm,
    "resize": _resize,
    "info": info.declare_info,
    "du": info.declare_du,
}


async def create_image(arguments: Arguments) -> None:
    """`rbdfs create`."""
    spec = image_spec(arguments)
    chosen = layout(arguments)
    length = size(arguments)
    async with open_ioctx(arguments, spec) as ioctx:
        await directory.create(ioctx, spec.image, length, **chosen)


async def rename_image(arguments: Arguments) -> None:
    """`rbdfs mv`."""
    source = spec_of(arguments, arguments.source)
    target = ImageSpec.parse(arguments.target, source.pool, source.namespace)
    if source.snap or target.snap:
        raise InvalidArgument("snapshot name specified for a command that doesn't use it (see rbdfs snap rename)")
    if source.pool_spec != target.pool_spec:
        raise InvalidArgument(f"{source} to {target}: an image cannot be renamed into another pool or namespace")
    check_image_name(target.image)
    async with open_ioctx(arguments, source) as ioctx:
        await directory.rename(ioctx, source.image, target.image)


async def remove_image(arguments: Arguments) -> None:
    """`rbdfs rm`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx:
        with Progress("Removing image", enabled=not arguments.no_progress) as progress:
            try:
                await directory.remove(ioctx, spec.image, on_progress=progress)
            except NotEmpty as err:
                raise NotEmpty(f"{spec}: image has snapshots; remove them first: rbdfs snap purge {spec}") from err


async def resize_image(arguments: Arguments) -> None:
    """`rbdfs resize`."""
    spec = image_spec(arguments)
    length = size(arguments)
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image) as image:
        if length == image.size:
            raise InvalidArgument(f"{spec}: new size is equal to original size")
        if length < image.size and not arguments.allow_shrink:
            raise InvalidArgument(f"{spec}: shrinking an image is only allowed with the --allow-shrink flag")
        with Progress("Resizing image", enabled=not arguments.no_progress) as progress:
            await image.resize(length, allow_shrink=arguments.allow_shrink, on_progress=progress)


async def list_images(arguments: Arguments) -> int:
    """`rbdfs ls`."""
    spec = pool_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx:
        images = await directory.list_images(ioctx)
        if arguments.long:
            return await _list_long(arguments, ioctx, images)
    if arguments.format == "json":
        print_json(list(images), pretty=arguments.pretty_format)
    else:
        write("".join(f"{name}\n" for name in images))
    return 0


async def _list_long(arguments: Arguments, ioctx: IoCtx, images: dict[str, str]) -> int:
    """Every image and snapshot in a row; what cannot be read is said, counted as failure, and hides nothing else."""
    headers: dict[str, Header] = {}
    limit = trio.CapacityLimiter(_READ_AT_ONCE)
    code = 0

    async def read(name: str, image_id: str) -> None:
        nonlocal code
        async with limit:
            try:
                headers[name] = await read_header(ioctx, image_id)
            except RbdfsError as err:
                say(f"error opening {name}: {err}")
                code = err.errno

    async with trio.open_nursery() as nursery:
        for name, image_id in images.items():
            nursery.start_soon(read, name, image_id)
    rows = [
        _Row(name, images[name], headers[name], snap)
        for name in images
        if name in headers
        for snap in [None, *headers[name].snaps]
    ]
    parents = {row: await info.parent_spec(ioctx, row.parent) for row in rows if row.parent}
    if arguments.format == "json":
        print_json([row.as_json(parents.get(row)) for row in rows], pretty=arguments.pretty_format)
    elif rows:
        table = Table("NAME", ">SIZE", "PARENT", ">FMT", "PROT", "LOCK")
        for row in rows:
            parent = parents.get(row)
            lock = {"": "", "shared": "shr", "exclusive": "excl"}[row.lock_type]
            is_protected = row.snap is not None and row.snap.is_protected
            table.add(row.spec, format_size(row.size), parent or "", 2, "yes" if is_protected else "", lock)
        table.print()
    return code


class _Row:
    """An image or a snapshot in the long listing."""

    def __init__(self, name: str, image_id: str, header: Header, snap: SnapInfo | None) -> None:
        self.name, self.image_id, self.header, self.snap = name, image_id, header, snap
        self.spec = f"{name}@{snap.name}" if snap else name
        self.size = snap.size if snap else header.size
        self.parent = snap.parent if snap else header.parent
        self.lock_type = "" if snap or not header.lockers else "shared" if header.lockers[0].is_shared else "exclusive"

    def as_json(self, parent: ImageSpec | None) -> dict[str, object]:
        """With the keys of `rbd ls -l --format json`."""
        row: dict[str, object] = {"image": self.name, "id": self.image_id}
        if self.snap:
            row |= {"snapshot": self.snap.name, "snapshot_id": self.snap.id}
        row["size"] = self.size
        if parent is not None:
            row["parent"] = {
                "pool": parent.pool,
                "pool_namespace": parent.namespace,
                "image": parent.image,
                "snapshot": parent.snap,
            }
        row["format"] = 2
        if self.snap:
            row["protected"] = "true" if self.snap.is_protected else "false"
        if self.lock_type:
            row["lock_type"] = self.lock_type
        return row
