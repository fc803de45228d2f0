"""`thunder coverage`: models, operators and random programs, compared with plain PyTorch."""

from thunder.coverage.command import coverage as command

__all__ = ["command"]
