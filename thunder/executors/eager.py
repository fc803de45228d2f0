"""The `eager` executor: PyTorch's own operators, called one by one as they stand.  It accepts everything."""

from __future__ import annotations

from thunder.executors.executor import Executor, register_executor
from thunder.trace import Op


class EagerExecutor(Executor):
    """Runs any operation by calling its target."""

    name = "eager"
    takes_everything = True

    def can_execute(self, op: Op) -> bool:
        return True


eager = register_executor(EagerExecutor())
