"""Puts the commands together: a command is one module of this package with a function `command`."""

from __future__ import annotations

import sys

import typer

from thunder.cli import bench, coverage, demo, doctor, inspect, plan
from thunder.errors import OptionError

COMMANDS = (demo, bench, inspect, plan, coverage, doctor)


def build_app() -> typer.Typer:
    """The application; every module in `COMMANDS` becomes the command of its own name."""
    app = typer.Typer(
        name="thunder",
        help="Compile PyTorch programs, and look at every step.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    for module in COMMANDS:
        app.command(name=module.__name__.rpartition(".")[2])(module.command)
    return app


def main() -> None:
    """Entry point of the script `thunder`; a wrong option is a message and status 2, not a traceback."""
    try:
        build_app()()
    except OptionError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
