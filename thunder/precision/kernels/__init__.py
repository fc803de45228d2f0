"""Triton kernels that read quantised weights; one file each."""

from thunder.precision.kernels.linear import dequantize, knows, linear, linear_merged, serves

__all__ = ["dequantize", "knows", "linear", "linear_merged", "serves"]
