"""`python -m thunder.coverage`: the same as `thunder coverage`."""

import sys

import typer

from thunder.coverage.command import coverage
from thunder.errors import OptionError

if __name__ == "__main__":
    try:
        typer.run(coverage)
    except OptionError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
