"""Commands that show images in detail: `info` and `du`."""

from contextlib import suppress

from rbdfs.cli.access import open_ioctx, say
from rbdfs.cli.options import (
    Arguments,
    Parser,
    add_connection_options,
    add_format_options,
    add_image_argument,
    image_spec,
)
from rbdfs.cli.output import Table, format_size, format_time, print_json, write
from rbdfs.errors import NotFound, RbdfsError
from rbdfs.image import directory
from rbdfs.image.features import Feature, ImageFlag, feature_names
from rbdfs.image.header import Header, Parent, SnapInfo, read_header
from rbdfs.image.lookup import lookup, name_of
from rbdfs.image.spec import DEFAULT_POOL, ImageSpec, PoolSpec
from rbdfs.image.usage import Usage, disk_usage
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import PoolId

_OP_FEATURES = ("clone-parent", "clone-child", "group", "snap-trash")
_FLAGS = {ImageFlag.OBJECT_MAP_INVALID: "object map invalid", ImageFlag.FAST_DIFF_INVALID: "fast diff invalid"}


def declare_info(parser: Parser) -> None:
    """The arguments of `rbdfs info`."""
    add_image_argument(parser, optional_snap=True)
    add_format_options(parser)
    add_connection_options(parser)
    parser.set_defaults(run=show_info)


def declare_du(parser: Parser) -> None:
    """The arguments of `rbdfs du`."""
    add_image_argument(parser, optional_snap=True)
    add_format_options(parser)
    add_connection_options(parser)
    parser.set_defaults(run=show_usage)


async def parent_spec(ioctx: IoCtx, parent: Parent) -> ImageSpec:
    """The names of a clone's parent; ids stand for those of what is in the trash, gone, or not ours to read."""
    pool_name, name, snap = str(parent.pool_id), parent.image_id, str(parent.snap_id)
    with suppress(RbdfsError):
        pool = await ioctx.cluster.open_pool(PoolId(parent.pool_id), parent.namespace)
        pool_name = pool.pool_name
        with suppress(NotFound):
            name = await name_of(pool, parent.image_id)
        found = (await read_header(pool, parent.image_id)).snap_by_id(parent.snap_id)
        snap = found.name if found else snap
    return ImageSpec(pool_name, parent.namespace, name, snap)


async def show_info(arguments: Arguments) -> None:
    """`rbdfs info`."""
    spec = image_spec(arguments, may_have_snap=True)
    async with open_ioctx(arguments, spec) as ioctx:
        image_id = await lookup(ioctx, spec.image)
        header = await read_header(ioctx, image_id)
        snap = header.snap_by_name(spec.snap) if spec.snap else None
        if spec.snap and snap is None:
            raise NotFound(f"{spec}: no such snapshot")
        facts = _facts(spec.image, header, snap)
        if header.data_pool_id is not None:
            pools = await ioctx.cluster.list_pools()
            data_pool = pools.get(PoolId(header.data_pool_id), str(header.data_pool_id))
            facts = _inserted(facts, "block_name_prefix", "data_pool", data_pool)
        parent = snap.parent if snap else header.parent
        if parent:
            origin = await parent_spec(ioctx, parent)
            facts["parent"] = {
                "pool": origin.pool,
                "pool_namespace": origin.namespace,
                "image": origin.image,
                "id": parent.image_id,
                "snapshot": origin.snap,
                "trash": origin.image == parent.image_id,
                "overlap": parent.overlap,
            }
    if arguments.format == "json":
        print_json(facts, pretty=arguments.pretty_format)
    else:
        write(_as_text(facts))


def _facts(name: str, header: Header, snap: SnapInfo | None) -> dict[str, object]:
    """What is known of an image, with the keys of `rbd info --format json` and in their order."""
    size = snap.size if snap else header.size
    facts: dict[str, object] = {
        "name": name,
        "id": header.image_id,
        "size": size,
        "objects": header.striping.object_count(size),
        "order": header.order,
        "object_size": header.object_size,
        "snapshot_count": len(header.snaps),
        "block_name_prefix": header.object_prefix,
        "format": 2,
        "features": feature_names(header.features),
        "op_features": [name for bit, name in enumerate(_OP_FEATURES) if header.op_features >> bit & 1],
        "flags": [text for flag, text in _FLAGS.items() if (snap.flags if snap else header.flags) & flag],
    }
    for key, timestamp in (
        ("create_timestamp", header.create_timestamp),
        ("access_timestamp", header.access_timestamp),
        ("modify_timestamp", header.modify_timestamp),
    ):
        if timestamp:
            facts[key] = format_time(timestamp)
    if snap:
        facts["protected"] = "true" if snap.is_protected else "false"
    if header.features & Feature.STRIPINGV2:
        facts |= {"stripe_unit": header.stripe_unit, "stripe_count": header.stripe_count}
    return facts


def _inserted(facts: dict[str, object], before: str, key: str, value: object) -> dict[str, object]:
    ordered: dict[str, object] = {}
    for name, fact in facts.items():
        if name == before:
            ordered[key] = value
        ordered[name] = fact
    return ordered


def _as_text(facts: dict[str, object]) -> str:
    """The same as `rbd info` shows it without a format."""
    lines = [
        f"rbd image '{facts['name']}':",
        f"size {format_size(_number(facts['size']))} in {facts['objects']} objects",
        f"order {facts['order']} ({format_size(_number(facts['object_size']))} objects)",
        f"snapshot_count: {facts['snapshot_count']}",
        f"id: {facts['id']}",
    ]
    lines += [f"{key}: {facts[key]}" for key in ("data_pool", "block_name_prefix", "format") if key in facts]
    for key in ("features", "op_features", "flags"):
        names = facts[key]
        assert isinstance(names, list)
        lines.append(f"{key}: {', '.join(names)}")
    lines += [f"{key}: {value}" for key, value in facts.items() if key.endswith("_timestamp")]
    if "protected" in facts:
        lines.append(f"protected: {str(facts['protected']).capitalize()}")
    parent = facts.get("parent")
    if isinstance(parent, dict):
        spec = ImageSpec(parent["pool"], parent["pool_namespace"], parent["image"], parent["snapshot"])
        lines += [f"parent: {spec}", f"overlap: {format_size(parent['overlap'])}"]
    if "stripe_unit" in facts:
        lines.append(f"stripe unit: {format_size(_number(facts['stripe_unit']))}")
        lines.append(f"stripe count: {facts['stripe_count']}")
    return "\n\t".join(lines) + "\n"


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


async def show_usage(arguments: Arguments) -> None:
    """`rbdfs du`: of an image, of one snapshot, or of all images of a pool."""
    names: list[str]
    snap = ""
    if arguments.image_spec is None and arguments.image is None:
        where = PoolSpec(arguments.pool or DEFAULT_POOL, arguments.namespace or "")
        names = []
    elif arguments.image_spec is not None and arguments.image_spec.endswith("/"):
        where, names = PoolSpec.parse(arguments.image_spec.rstrip("/")), []
    else:
        spec = image_spec(arguments, may_have_snap=True)
        where, names, snap = spec.pool_spec, [spec.image], spec.snap
    rows: list[Usage] = []
    async with open_ioctx(arguments, where) as ioctx:
        for name in names or await directory.list_images(ioctx):
            try:
                rows += await disk_usage(ioctx, name)
            except RbdfsError as err:
                if names:
                    raise
                if not isinstance(err, NotFound):  # else it is half removed, or just has been
                    say(str(err))
    if snap:
        # A snapshot counts what is in it and not in those before, so `rbd du` shows those, too.
        last = next((index for index, row in enumerate(rows) if row.snap_name == snap), None)
        if last is None:
            raise NotFound(f"{where}/{names[0]}@{snap}: no such snapshot")
        rows = rows[: last + 1]
    # Provisioned counts every image once, used counts every row.
    provisioned = sum(row.provisioned for row in rows if snap or row.snap_name is None)
    used = sum(row.used for row in rows)
    if arguments.format == "json":
        usage: dict[str, object] = {"images": [_usage_as_json(row) for row in rows]}
        if not names:
            usage |= {"total_provisioned_size": provisioned, "total_used_size": used}
        print_json(usage, pretty=arguments.pretty_format)
        return
    table = Table("NAME", ">PROVISIONED", ">USED")
    for row in rows:
        name = f"{row.name}@{row.snap_name}" if row.snap_name is not None else row.name
        table.add(name, format_size(row.provisioned), format_size(row.used))
    if len(rows) > 1:
        table.add("<TOTAL>", format_size(provisioned), format_size(used))
    if rows:
        table.print()


def _usage_as_json(row: Usage) -> dict[str, object]:
    usage: dict[str, object] = {"name": row.name, "id": row.id}
    if row.snap_name is not None:
        usage |= {"snapshot": row.snap_name, "snapshot_id": row.snap_id}
    return usage | {"provisioned_size": row.provisioned, "used_size": row.used}
