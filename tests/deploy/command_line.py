"""What is written down for people and containers to run is what `strata` understands."""

from collections.abc import Sequence

import click

from service.cli.main import COMMANDS, LazyGroup


def parse(words: Sequence[str]) -> None:
    """Read the words as the command line does, but run nothing; fail at an unknown option."""
    assert words[0] in COMMANDS, words
    command = LazyGroup("strata").get_command(click.Context(click.Command("strata")), words[0])
    rest = list(words[1:])
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
    assert command is not None
    command.make_context(command.name, rest)
