"""Executors run traces: they claim operations and regions of a program and put implementations beneath
them."""

from thunder.executors.aten import aten
from thunder.executors.eager import eager
from thunder.executors.executor import (
    Executor,
    default_executors,
    executor_names,
    get_executor,
    register_executor,
    resolve_executors,
)
from thunder.executors.inductor import inductor
from thunder.executors.pipeline import CompiledComputation, compile_computation
from thunder.executors.triton_fusion import triton

__all__ = [
    "CompiledComputation",
    "Executor",
    "aten",
    "compile_computation",
    "default_executors",
    "eager",
    "executor_names",
    "get_executor",
    "inductor",
    "register_executor",
    "resolve_executors",
    "triton",
]
