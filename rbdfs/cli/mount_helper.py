"""Called by mount(8) as `mount.fuse.rbdfs SOURCE DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]`, for a line of fstab."""

from collections.abc import Sequence

HELPER_NAME = "mount.fuse.rbdfs"


def arguments_of_mount_helper(argv: Sequence[str]) -> list[str] | None:
    """The command line of rbdfs that it means; None where mount(8) only pretends (`-f`)."""
    places: list[str] = []
    options: list[str] = []
    verbose: list[str] = []
    is_fake = False
    rest = iter(argv)
    for argument in rest:
        if argument in ("-o", "-t", "-N"):
            value = next(rest, "")
            if argument == "-o":
                options += ["-o", value]
        elif argument.startswith("-") and len(argument) > 1:
            is_fake |= "f" in argument
            verbose = ["-v"] if "v" in argument else verbose
        else:
            places.append(argument)
    return None if is_fake else ["mount", *verbose, *options, "--", *places]
