"""Which axes a reduction combines."""

from __future__ import annotations

from thunder.executors.triton_fusion.pointwise import REDUCTIONS
from thunder.trace import Op


def reduced_axes(op: Op) -> tuple[int, ...]:
    """The axes, in order; all of them where the operator names none."""
    ndim = op.args[0].value.dim()
    assert op.target in REDUCTIONS
    dims = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return tuple(range(ndim))
    if isinstance(dims, int):
        dims = [dims]
    return tuple(sorted({dim % ndim for dim in dims})) if ndim else ()
