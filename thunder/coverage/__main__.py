"""`python -m thunder.coverage`: the same as `thunder coverage`."""

import typer

from thunder.coverage.command import coverage

if __name__ == "__main__":
    typer.run(coverage)
