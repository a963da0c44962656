"""`rbdfs pool` and `rbdfs namespace`: what images are kept in."""

from rbdfs.cli.access import open_cluster, open_ioctx, say
from rbdfs.cli.options import (
    Arguments,
    Declare,
    Parser,
    add_format_options,
    add_pool_argument,
    pool_spec,
)
from rbdfs.cli.output import Table, print_json, write
from rbdfs.cli.verbs import add_verb, verbs_of
from rbdfs.errors import Busy, InvalidArgument, NotFound
from rbdfs.image import directory
from rbdfs.image.spec import PoolSpec


def _pool(parser: Parser) -> None:
    verbs = verbs_of(parser)
    create = add_verb(verbs, "create", "Create a pool; a local store, too, where there is none", create_pool)
    create.add_argument("pools", nargs="+", metavar="POOL")
    ls = add_verb(verbs, "ls", "List pools", list_pools, aliases=["list"])
    add_format_options(ls)
    rm = add_verb(verbs, "rm", "Remove an empty pool", remove_pool, aliases=["remove"])
    rm.add_argument("pool_name", metavar="POOL")
    rm.add_argument("--force", action="store_true", help="remove the images in it, too")


def _namespace(parser: Parser) -> None:
    verbs = verbs_of(parser)
    for name, summary, run, aliases in (
        ("create", "Create a namespace in a pool", create_namespace, []),
        ("rm", "Remove a namespace that holds no image", remove_namespace, ["remove"]),
    ):
        verb = add_verb(verbs, name, summary, run, aliases=aliases)
        add_pool_argument(verb)
    ls = add_verb(verbs, "ls", "List the namespaces of a pool", list_namespaces, aliases=["list"])
    add_pool_argument(ls)
    add_format_options(ls)


COMMANDS: dict[str, Declare] = {"pool": _pool, "namespace": _namespace}


async def create_pool(arguments: Arguments) -> None:
    """`rbdfs pool create`."""
    for name in arguments.pools:
        if PoolSpec.parse(name).namespace:
            raise InvalidArgument(f"{name}: a pool's name holds no '/'")
    async with open_cluster(arguments, create=True) as cluster:
        for name in arguments.pools:
            await cluster.create_pool(name)


async def list_pools(arguments: Arguments) -> None:
    """`rbdfs pool ls`."""
    async with open_cluster(arguments) as cluster:
        names = sorted((await cluster.list_pools()).values())
    if arguments.format == "json":
        print_json(names, pretty=arguments.pretty_format)
    else:
        write("".join(f"{name}\n" for name in names))


async def remove_pool(arguments: Arguments) -> None:
    """`rbdfs pool rm`."""
    name: str = arguments.pool_name
    async with open_ioctx(arguments, PoolSpec.parse(name)) as ioctx:
        if not arguments.force:
            for namespace in ["", *await directory.list_namespaces(ioctx)]:
                images = await directory.list_images(ioctx.with_namespace(namespace))
                if images:
                    where = PoolSpec(name, namespace)
                    raise Busy(f"{where}: pool holds {len(images)} images; remove them first, or use --force")
        await ioctx.cluster.remove_pool(name)
        if arguments.force:
            say(f"removed pool {name} and all it held")


def _namespace_spec(arguments: Arguments) -> PoolSpec:
    spec = pool_spec(arguments)
    if not spec.namespace:
        raise InvalidArgument(f"{spec}: namespace name was not specified (POOL/NAMESPACE)")
    return spec


async def create_namespace(arguments: Arguments) -> None:
    """`rbdfs namespace create`."""
    spec = _namespace_spec(arguments)
    async with open_ioctx(arguments, PoolSpec(spec.pool)) as ioctx:
        await directory.create_namespace(ioctx, spec.namespace)


async def remove_namespace(arguments: Arguments) -> None:
    """`rbdfs namespace rm`."""
    spec = _namespace_spec(arguments)
    async with open_ioctx(arguments, PoolSpec(spec.pool)) as ioctx:
        if spec.namespace not in await directory.list_namespaces(ioctx):
            raise NotFound(f"{spec}: namespace does not exist")
        await directory.remove_namespace(ioctx, spec.namespace)


async def list_namespaces(arguments: Arguments) -> None:
    """`rbdfs namespace ls`."""
    spec = pool_spec(arguments)
    async with open_ioctx(arguments, PoolSpec(spec.pool)) as ioctx:
        names = sorted(await directory.list_namespaces(ioctx))
    if arguments.format == "json":
        print_json([{"name": name} for name in names], pretty=arguments.pretty_format)
    elif names:
        table = Table("NAME")
        for name in names:
            table.add(name)
        table.print()
