"""Commands that have verbs: `snap create`, `pool ls`."""

import argparse
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rbdfs.cli.options import Arguments, Parser, add_connection_options

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[Parser]

Run = Callable[[Arguments], Awaitable[int | None]] | Callable[[Arguments], int | None]


def verbs_of(parser: Parser) -> "Verbs":
    """Where a command's verbs are added."""
    return parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)


def add_verb(verbs: "Verbs", name: str, summary: str, run: Run, aliases: Sequence[str] = ()) -> Parser:
    """Declare a verb; returns the parser of its arguments."""
    verb = verbs.add_parser(name, aliases=aliases, help=summary, description=summary + ".")
    verb.set_defaults(run=run)
    add_connection_options(verb)
    return verb
