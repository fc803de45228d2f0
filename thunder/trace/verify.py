"""Checks that a trace is well formed: defined once, before use, not used after `del`, output defined."""

from __future__ import annotations

from thunder.errors import TraceVerificationError
from thunder.trace.op import Op, delete
from thunder.trace.trace import Trace, regions_of_op
from thunder.trace.var import Var, iterate_vars


def verify(trace: Trace, made_by: str = "") -> None:
    """Raises `TraceVerificationError` naming the first statement that breaks an invariant.

    Args:
        trace: what is checked; its regions are checked as well.
        made_by: name of the pass, for the message.
    """
    blame = f" (after {made_by})" if made_by else ""
    defined: dict[str, Var] = {}
    deleted: set[str] = set()

    def define(var: Var, op: Op | None) -> None:
        known = defined.get(var.name)
        if known is var:
            return  # the result of an in-place operation names the value that was changed
        if known is not None:
            raise TraceVerificationError(
                f"{trace.name}{blame}: {var.name} is defined twice", op.location if op else None
            )
        if not var.name.isidentifier():
            raise TraceVerificationError(f"{trace.name}{blame}: {var.name!r} is no identifier")
        defined[var.name] = var

    def use(var: Var, op: Op | None) -> None:
        where = f"in {op!r}" if op is not None else "in the output"
        if defined.get(var.name) is not var:
            raise TraceVerificationError(
                f"{trace.name}{blame}: {var.name} is used {where} before it is defined",
                op.location if op else None,
            )
        if var.name in deleted:
            raise TraceVerificationError(
                f"{trace.name}{blame}: {var.name} is used {where} after del", op.location if op else None
            )

    for var in trace.inputs:
        if var.name in defined:
            raise TraceVerificationError(f"{trace.name}{blame}: two inputs are named {var.name}")
        define(var, None)
    for op in trace.ops:
        if not callable(op.target):
            raise TraceVerificationError(f"{trace.name}{blame}: {op!r} calls an object that is not callable")
        for var in op.inputs():
            use(var, op)
        if op.target is delete:
            deleted.update(var.name for var in op.inputs())
        for var in op.outputs():
            define(var, op)
        for region in regions_of_op(op):
            if len(region.trace.inputs) != len(op.args) and op.target is region:
                raise TraceVerificationError(
                    f"{trace.name}{blame}: {region.name} takes {len(region.trace.inputs)} arguments, is given "
                    f"{len(op.args)}",
                    op.location,
                )
    for var in iterate_vars(trace.output):
        use(var, None)
    for region in trace.regions():
        verify(region.trace, made_by)
