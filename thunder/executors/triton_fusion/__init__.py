"""The `triton` executor: regions of ATen operations as generated Triton kernels."""

from thunder.executors.triton_fusion.executor import TritonExecutor, triton
from thunder.executors.triton_fusion.launch import FusedKernel

__all__ = ["FusedKernel", "TritonExecutor", "triton"]
