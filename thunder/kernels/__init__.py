"""The kernel library: custom ops in one file each, and their substitution in traces."""

from thunder.kernels.registry import (
    disable_kernels,
    kernel_mode,
    kernel_names,
    register_kernel,
    unregister_kernel,
)

__all__ = ["disable_kernels", "kernel_mode", "kernel_names", "register_kernel", "unregister_kernel"]
