"""The `aten` executor: the lowered program, operator by operator.

It fuses nothing.  It is there to tell apart what lowering does from what a compiler does, and to look at the operators
that a program consists of.
"""

from __future__ import annotations

from thunder.executors.executor import Executor, register_executor
from thunder.trace import Op


class AtenExecutor(Executor):
    """Runs ATen operators by calling them."""

    name = "aten"
    takes_everything = True

    def can_execute(self, op: Op) -> bool:
        return True


aten = register_executor(AtenExecutor())
