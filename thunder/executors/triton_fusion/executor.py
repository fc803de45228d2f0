"""The `triton` executor: fuses operations on CUDA tensors into generated Triton kernels.

Input: a lowered trace.  Output: the same with groups of operations replaced by calls of kernels, each of which can be
read (`kernel.source`).  What no kernel does stays as it is.

With Triton's interpreter (`TRITON_INTERPRET=1`) it takes operations on CPU tensors: slowly, to see that kernels are
right.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from thunder import _torch_compat
from thunder.errors import ExecutorWarning, OptionError
from thunder.executors.executor import Executor, register_executor
from thunder.executors.triton_fusion.decompositions import decompositions
from thunder.executors.triton_fusion.launch import FusedKernel
from thunder.executors.triton_fusion.pointwise import CONVERSIONS, FILLS, POINTWISE, REDUCTIONS, TRITON_NAMES
from thunder.executors.triton_fusion.regions import Group, partition
from thunder.executors.triton_fusion.schedule import choose_schedule
from thunder.executors.triton_fusion.selections import SELECTIONS
from thunder.executors.triton_fusion.source import write_kernel
from thunder.executors.triton_fusion.split import split_reductions
from thunder.executors.triton_fusion.views import VIEWS
from thunder.lower.operators import aten
from thunder.trace import Namer, Op, Region, Trace, Var
from thunder.transforms import eliminate_dead_code

NUMERICS = ("fast", "eager")


class TritonExecutor(Executor):
    """Generates kernels.

    Args:
        numerics: "fast" keeps float32 between the operations of a kernel; "eager" rounds each value to its dtype, as
            PyTorch's own kernels do.
    """

    name = "triton"

    def __init__(self, name: str | None = None, *, numerics: str = "fast") -> None:
        super().__init__(name)
        if numerics not in NUMERICS:
            raise OptionError(f"numerics={numerics!r}", remedy=f"known: {', '.join(NUMERICS)}")
        self.numerics = numerics
        self._lock = threading.RLock()
        self._warned = False

    def unavailable_reason(self) -> str | None:
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if not _torch_compat.is_triton_interpreted() and not _torch_compat.has_cuda_kernel_launcher():
            return "this build of PyTorch has no CUDA"
        return None

    @property
    def device_type(self) -> str:
        """On what kind of device kernels run."""
        return "cpu" if _torch_compat.is_triton_interpreted() else "cuda"

    def suits(self, trace: Trace) -> bool:
        """Whether it is a default for the program: some tensor is on a GPU."""
        return self.unavailable_reason() is None and any(
            isinstance(var.value, torch.Tensor) and var.value.device.type == "cuda" for var in trace.variables()
        )

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        return decompositions()

    def can_execute(self, op: Op) -> bool:
        target = op.target
        known = target in POINTWISE or target in CONVERSIONS or target in FILLS or target in REDUCTIONS
        if not (known or target in VIEWS or target in SELECTIONS):
            return False
        variables = [*op.inputs(), *op.outputs()]
        return all(_is_plain(var, self.device_type) for var in variables) and bool(list(op.outputs())) and _is_whole(op)

    def partition(self, trace: Trace, takes: Callable[[Op], bool], name: str) -> tuple[Trace, list[Region]]:
        if self.unavailable_reason() is not None:
            return trace, []
        trace = split_reductions(trace, takes)
        items = partition(trace, takes, eager_rounding=self.numerics == "eager")
        namer, regions, ops = Namer(), [], []
        for item in items:
            if isinstance(item, Op):
                ops += _self_contained(item) if takes(item) else [item]
                continue
            op = self._call(item, name, namer)
            regions.append(op.target)
            ops.append(op)
        return eliminate_dead_code(trace.replace(ops=ops)), regions

    def _call(self, group: Group, name: str, namer: Namer) -> Op:
        """A call of the group's kernel."""
        kernel = group.kernel
        assert kernel is not None
        schedule = choose_schedule(kernel)
        source = write_kernel(kernel, schedule)
        ops = [part for op in group.ops for part in _self_contained(op)]
        made = {id(var) for op in ops for var in op.outputs()}
        inputs = list({id(var): var for op in ops for var in op.inputs() if id(var) not in made}.values())
        outputs = tuple(group.outputs)
        region_name = namer.fresh(f"{name}_{source.name}", numbered=False)
        region = Region(region_name, Trace(region_name, inputs, ops, outputs), executor=self.name)
        region.implementation = FusedKernel(source, kernel, schedule, inputs, outputs)
        last = ops[-1]
        return Op(region, tuple(inputs), {}, outputs, last.location, last.scope)

    def fuse(self, regions: list[Region]) -> None:
        """Compiles the kernels of regions, several at a time."""
        reason = self.unavailable_reason()
        if reason is not None:
            if not self._warned:
                self._warned = True
                warnings.warn(f"the triton executor is not used: {reason}", ExecutorWarning, stacklevel=2)
            return
        kernels = [region.implementation for region in regions if isinstance(region.implementation, FusedKernel)]
        if not _torch_compat.is_triton_interpreted():
            for kernel in kernels:
                kernel.request()
        for region in regions:
            if not isinstance(region.implementation, FusedKernel):
                continue
            try:
                region.implementation.link()
            except Exception as error:  # a boundary: Triton's compiler raises whatever its many parts raise
                region.implementation, region.executor = None, "eager"
                message = str(error).strip().splitlines()
                warnings.warn(
                    f"triton cannot compile the region {region.name}, which runs operation by operation: "
                    f"{type(error).__name__}: {message[0] if message else ''}",
                    ExecutorWarning,
                    stacklevel=2,
                )


def _self_contained(op: Op) -> list[Op]:
    """The operation without inputs of which only the layout matters: these need not be there."""
    if op.target is not aten.copy.default and not (op.target in FILLS and list(op.inputs())):
        return [op]
    result = next(op.outputs()).value
    layout = {"dtype": result.dtype, "device": result.device}
    if op.target in FILLS:
        number = FILLS[op.target](*op.args, **op.kwargs)
        if result.is_contiguous():
            return [replace(op, target=aten.full.default, args=(list(result.shape), number), kwargs=layout)]
    made = Var(f"{op.result.name}_memory", result)
    memory = Op(aten.empty_strided.default, (list(result.shape), list(result.stride())), layout, made)
    if op.target in FILLS:
        return [memory, replace(op, target=aten.fill.Scalar, args=(made, number), kwargs={})]
    return [memory, replace(op, args=(made, op.args[1]))]


def _is_plain(var: Var, device_type: str) -> bool:
    """Whether a kernel can read and write such a tensor."""
    tensor = var.value
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == device_type
        and tensor.dtype in TRITON_NAMES
        and tensor.numel() > 0
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _is_whole(op: Op) -> bool:
    """Whether the tensors among the arguments are Vars or numbers."""
    pending = [*op.args, *op.kwargs.values()]
    while pending:
        value = pending.pop()
        if isinstance(value, (list, tuple)):
            pending += value
        elif isinstance(value, torch.Tensor) and (value.dim() > 0 or op.target not in POINTWISE):
            return False
    device = op.kwargs.get("device")
    if device is not None:
        return torch.device(device).type == next(op.outputs()).value.device.type
    return True


triton = register_executor(TritonExecutor())
