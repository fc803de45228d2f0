"""The command line `thunder`."""

from thunder.cli.app import main

__all__ = ["main"]
