"""What the command lines of all commands share: how the store is named, how an image is named, how output looks."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from rbdfs.cli.output import parse_size
from rbdfs.connect import ConnectFlags
from rbdfs.errors import InvalidArgument
from rbdfs.image.spec import DEFAULT_POOL, ImageSpec, PoolSpec

USAGE_ERROR = 1  # the exit code of `rbd` for a command line that it cannot read

Arguments = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and leaves as `rbd` does: exit code 1 on a usage error."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read arguments; options may stand between the others, where argparse would give up on optional ones."""
        takes_the_rest = any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)
        return super().parse_known_args(args if args is None or takes_the_rest else self._sorted(args), namespace)

    def _sorted(self, words: Sequence[str]) -> list[str]:
        """Options with their values first, then everything else, each in its order."""
        options: list[str] = []
        others: list[str] = []
        remaining = iter(words)
        for word in remaining:
            if word == "--":
                others += remaining
            elif word.startswith("-") and word != "-":
                options.append(word)
                if self._needs_value(word) and (value := next(remaining, None)) is not None:
                    options.append(value)
            else:
                others.append(word)
        return [*options, "--", *others] if any(word.startswith("-") for word in others) else options + others

    def _needs_value(self, word: str) -> bool:
        """Whether the value of an option, or of the last one in `-lp`, is the next word."""
        names = [word] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
        for number, name in enumerate(names, 1):
            action = self._option_string_actions.get(name)
            if action is None or action.nargs != 0:
                return action is not None and number == len(names)
        return False

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and leave."""
        self.exit(USAGE_ERROR, f"rbdfs: {message}\nSee '{self.prog} --help'.\n")


Declare = Callable[[Parser], None]


def add_connection_options(parser: Parser) -> None:
    """How the store is named; given before the command or behind it, so absent ones must not overwrite."""
    group = parser.add_argument_group("store", argument_default=argparse.SUPPRESS)
    group.add_argument("--store", metavar="DIR", help="the local store in this directory (or RBDFS_STORE)")
    group.add_argument("-c", "--conf", metavar="FILE", help="ceph.conf of the cluster (or CEPH_CONF)")
    group.add_argument("--cluster", metavar="NAME", help="name of the cluster: /etc/ceph/NAME.conf")
    group.add_argument("--id", "--user", metavar="ID", help="client id, without 'client.'")
    group.add_argument("-n", "--name", metavar="NAME", help="client name, with 'client.'")
    group.add_argument("-m", "--mon_host", "--mon-host", metavar="HOSTS", help="monitors of the cluster")
    group.add_argument("-k", "--keyring", metavar="FILE", help="keyring with the client's key")
    group.add_argument("-K", "--keyfile", metavar="FILE", help="file that holds the client's key alone")
    group = parser.add_argument_group("general", argument_default=argparse.SUPPRESS)
    group.add_argument("-v", "--verbose", action="store_true", help="log what happens to standard error")
    group.add_argument("-d", "--debug", action="store_true", help="log everything; a traceback for every error")


def connect_flags(arguments: Arguments) -> ConnectFlags:
    """The store that the command line names."""
    return ConnectFlags(**{name: getattr(arguments, name, None) for name in ConnectFlags.__dataclass_fields__})


def add_format_options(parser: Parser) -> None:
    """How output looks."""
    parser.add_argument("--format", choices=("plain", "json"), default="plain", help="output format [default: plain]")
    parser.add_argument("--pretty-format", action="store_true", help="JSON over several lines")


def add_progress_option(parser: Parser) -> None:
    """Whether a terminal sees progress."""
    parser.add_argument("--no-progress", action="store_true", help="show no progress (a pipe never sees any)")


def add_pool_options(parser: Parser) -> None:
    """A pool and a namespace, where the argument names none."""
    parser.add_argument("-p", "--pool", help=f"pool, where the argument names none [default: {DEFAULT_POOL}]")
    parser.add_argument("--namespace", help="namespace of the pool")


def add_pool_argument(parser: Parser) -> None:
    """A pool and a namespace."""
    parser.add_argument("pool_spec", nargs="?", metavar="POOL[/NAMESPACE]")
    add_pool_options(parser)


def add_image_argument(parser: Parser, *, snap: bool = False, optional_snap: bool = False) -> None:
    """An image, or a snapshot of one."""
    tail = "@SNAP" if snap else "[@SNAP]" if optional_snap else ""
    parser.add_argument("image_spec", nargs="?", metavar=f"[POOL/[NAMESPACE/]]IMAGE{tail}")
    add_pool_options(parser)
    parser.add_argument("--image", help="image, where the argument names none")
    if tail:
        parser.add_argument("--snap", help="snapshot, where the argument names none")


def add_size_option(parser: Parser) -> None:
    """The size of an image."""
    parser.add_argument("-s", "--size", metavar="SIZE", help="size, in B, K, M, G, T, P or E [default unit: M]")


def pool_spec(arguments: Arguments) -> PoolSpec:
    """The pool that the command line names."""
    if arguments.pool_spec is not None:
        if arguments.pool not in (None, arguments.pool_spec):
            raise InvalidArgument(f"pool given twice: {arguments.pool_spec!r} and {arguments.pool!r}")
        spec = PoolSpec.parse(arguments.pool_spec)
        return PoolSpec(spec.pool, spec.namespace or arguments.namespace or "")
    return PoolSpec(arguments.pool or DEFAULT_POOL, arguments.namespace or "")


def spec_of(arguments: Arguments, text: str) -> ImageSpec:
    """An image or snapshot as an argument names it; `--pool` and `--namespace` stand for what it leaves out."""
    return ImageSpec.parse(text, arguments.pool or DEFAULT_POOL, arguments.namespace or "")


def image_spec(arguments: Arguments, *, needs_snap: bool = False, may_have_snap: bool = False) -> ImageSpec:
    """The image that the command line names."""
    text, image = arguments.image_spec, arguments.image
    if text is not None and image is not None and "@" not in text:  # rbd snap ls --image x takes no argument
        raise InvalidArgument(f"image given twice: {text!r} and {image!r}")
    text = text if text is not None else image
    if text is None:
        raise InvalidArgument("image name was not specified")
    spec = spec_of(arguments, text)
    spec = replace(spec, snap=spec.snap or getattr(arguments, "snap", None) or "")
    if needs_snap and not spec.snap:
        raise InvalidArgument(f"{spec}: snapshot name was not specified")
    if spec.snap and not (needs_snap or may_have_snap):
        raise InvalidArgument(f"{spec}: snapshot name specified for a command that doesn't use it")
    return spec


def size(arguments: Arguments) -> int:
    """The value of --size."""
    if arguments.size is None:
        raise InvalidArgument("must specify --size <M/G/T>")
    return option_size("--size", arguments.size, "M")


def option_size(option: str, text: str, default_unit: str = "B") -> int:
    """A size given as an option's value."""
    try:
        return parse_size(text, default_unit)
    except InvalidArgument as err:
        raise UsageError(f"the argument for option '{option}' is invalid: {err}") from err


class UsageError(InvalidArgument):
    """A command line that cannot be read; exits with 1, as `rbd` does."""

    errno = USAGE_ERROR
