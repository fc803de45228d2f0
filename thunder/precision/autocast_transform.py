"""`thunder.autocast`: mixed precision as a transform of traces.

Input: a torch-level trace.  Output: the same program between the statements that enter and leave PyTorch's autocast.
Lowering executes these statements while it records, so which operations are computed in 16 bits, which in 32, and
which in the widest of their inputs' types is decided by PyTorch's own lists, whatever its version.
"""

from __future__ import annotations

from typing import Any

import torch

from thunder import _torch_compat
from thunder.errors import OptionError, UnsupportedError, unknown_name
from thunder.lower.state import is_state_statement
from thunder.trace import Namer, Op, Trace, Var
from thunder.trace.trace import regions_of_op
from thunder.transforms import Transform

DTYPES = {"bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float16": torch.float16, "fp16": torch.float16}


class Autocast(Transform):
    """See `autocast`."""

    def __init__(self, dtype: torch.dtype, device_type: str | None) -> None:
        self.dtype = dtype
        self.device_type = device_type

    def __call__(self, trace: Trace) -> Trace:
        devices = {var.value.device.type for var in trace.variables() if var.is_tensor}
        kinds = [self.device_type] if self.device_type is not None else sorted(devices - {"meta"})
        enters = next(fn for fn in _torch_compat.context_statements() if fn.__name__ == "_enter_autocast")
        leaves = _torch_compat.context_statements()[enters]
        namer = Namer({var.name for var in trace.variables()})
        contexts = [Var(namer.fresh("autocast"), object()) for _ in kinds]
        entering = [Op(enters, (kind, self.dtype, True, True), {}, var) for kind, var in zip(kinds, contexts)]
        leaving = [Op(leaves, (var,), {}, None) for var in reversed(contexts)]
        ops, renamed = self._with_new_values(trace, kinds)
        output = trace.map_vars(lambda var: renamed.get(id(var), var)).output
        return trace.replace(ops=[*entering, *ops, *leaving], output=output)

    def __repr__(self) -> str:
        return f"autocast({self.dtype}, device_type={self.device_type!r})"

    def _with_new_values(self, trace: Trace, kinds: list[str]) -> tuple[list[Op], dict[int, Var]]:
        """The operations with results of the types that they have under autocast, found out on fake tensors."""
        mode = next(
            (v.value.fake_mode for v in trace.variables() if v.is_tensor and _torch_compat.is_fake(v.value)), None
        )
        renamed: dict[int, Var] = {}
        if mode is None:
            return list(trace.ops), renamed
        enters = _torch_compat.context_statements()
        contexts: dict[int, Any] = {}
        ops: list[Op] = []

        def renaming(var: Var) -> Var:
            return renamed.get(id(var), var)

        outer = [torch.autocast(kind, self.dtype, cache_enabled=False) for kind in kinds]
        for context in outer:
            context.__enter__()
        try:
            for op in trace.ops:
                if any(True for _ in regions_of_op(op)):
                    raise UnsupportedError(
                        "autocast as a transform does not reach into checkpointed functions", op.location,
                        "use torch.autocast around the call",
                    )  # fmt: skip
                if is_state_statement(op):
                    if op.target in enters:
                        contexts[id(op.result)] = op.target(*op.args, **op.kwargs)
                    elif op.target in enters.values():
                        op.target(contexts.pop(id(op.args[0])))
                    ops.append(op)
                    continue
                changed = op.map_inputs(renaming)
                valued = changed.map_inputs(lambda var: var.value)
                with mode, torch.no_grad():
                    result = op.target(*valued.args, **valued.kwargs)
                outputs = list(op.outputs())
                results = list(result) if isinstance(result, (tuple, list)) else [result]
                if len(results) == len(outputs):
                    for var, value in zip(outputs, results):
                        self._note(var, value, renamed)
                ops.append(changed.map_all(renaming))
        finally:
            for context in reversed(outer):
                context.__exit__(None, None, None)
        return ops, renamed

    def _note(self, var: Var, value: Any, renamed: dict[int, Var]) -> None:
        old = renamed.get(id(var), var).value
        if isinstance(value, torch.Tensor) and isinstance(old, torch.Tensor) and value.dtype is not old.dtype:
            requires_grad = old.requires_grad and value.is_floating_point()
            renamed[id(var)] = Var(var.name, value.detach().requires_grad_(requires_grad))


def autocast(dtype: torch.dtype | str = torch.bfloat16, *, device_type: str | None = None) -> Autocast:
    """A transform that computes in 16 bits what `torch.autocast` does.

    Args:
        dtype: torch.bfloat16 or torch.float16, or their names ("bf16", "fp16").
        device_type: "cpu" or "cuda"; by default the devices of the program.

    Returns:
        A transform for `thunder.jit(fn, transforms=[...])`.

    Raises:
        OptionError: for another dtype or device type.

    Example:
        >>> import torch, thunder
        >>> compiled = thunder.jit(torch.nn.Linear(4, 2), transforms=[thunder.autocast(torch.bfloat16)])
        >>> compiled(torch.ones(1, 4)).dtype
        torch.bfloat16
    """
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in (torch.bfloat16, torch.float16):
        raise OptionError(f"autocast to {dtype}", remedy="known: torch.bfloat16, torch.float16")
    if device_type not in (None, "cpu", "cuda"):
        raise unknown_name("device type", str(device_type), ["cpu", "cuda"])
    return Autocast(chosen, device_type)
