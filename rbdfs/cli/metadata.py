"""`rbdfs image-meta`: keys and values kept with an image."""

from rbdfs.cli.access import open_ioctx
from rbdfs.cli.options import Arguments, Declare, Parser, add_format_options, add_image_argument, image_spec
from rbdfs.cli.output import Table, print_json, write
from rbdfs.cli.verbs import add_verb, verbs_of
from rbdfs.errors import InvalidArgument
from rbdfs.image.image import open_image


def _image_meta(parser: Parser) -> None:
    verbs = verbs_of(parser)
    ls = add_verb(verbs, "ls", "List keys and values", list_metadata, aliases=["list"])
    add_image_argument(ls)
    add_format_options(ls)
    get = add_verb(verbs, "get", "Show the value of a key", get_metadata)
    add_image_argument(get)
    get.add_argument("key", metavar="KEY")
    put = add_verb(verbs, "set", "Set the value of a key", set_metadata)
    add_image_argument(put)
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="VALUE")
    rm = add_verb(verbs, "rm", "Remove a key", remove_metadata, aliases=["remove"])
    add_image_argument(rm)
    rm.add_argument("key", metavar="KEY")


COMMANDS: dict[str, Declare] = {"image-meta": _image_meta}


async def list_metadata(arguments: Arguments) -> None:
    """`rbdfs image-meta ls`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image, read_only=True) as image:
        pairs = dict(sorted((await image.metadata_list()).items()))
    if arguments.format == "json":
        print_json(pairs, pretty=arguments.pretty_format)
        return
    noun = "metadata on this image"
    if not pairs:
        write(f"There are 0 {noun}.\n")
        return
    write(f"There {'is' if len(pairs) == 1 else 'are'} {len(pairs)} {noun}:\n\n")
    table = Table("Key", "Value")
    for key, value in pairs.items():
        table.add(key, value)
    table.print()


async def get_metadata(arguments: Arguments) -> None:
    """`rbdfs image-meta get`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image, read_only=True) as image:
        value = await image.metadata_get(arguments.key)
    write(f"{value}\n")


async def set_metadata(arguments: Arguments) -> None:
    """`rbdfs image-meta set`."""
    spec = image_spec(arguments)
    for what in ("key", "value"):
        if not getattr(arguments, what):
            raise InvalidArgument(f"metadata {what} was not specified")
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image) as image:
        await image.metadata_set(arguments.key, arguments.value)


async def remove_metadata(arguments: Arguments) -> None:
    """`rbdfs image-meta rm`."""
    spec = image_spec(arguments)
    async with open_ioctx(arguments, spec) as ioctx, open_image(ioctx, spec.image) as image:
        await image.metadata_remove(arguments.key)
