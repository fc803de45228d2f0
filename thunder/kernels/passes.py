"""The passes that put kernels into a torch-level trace, in order.

Input: the acquired program, after the user's transforms.  Output: the program with calls of kernels.  Each pass can
be switched off by name (`thunder.trace.disabled_passes`), each kernel with `disable_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable

from thunder.kernels.attention import improve_attention
from thunder.kernels.attention_backends import use_fused_attention
from thunder.kernels.attention_layout import lay_out_queries
from thunder.kernels.fake_values import remembered_runs
from thunder.kernels.merge_projections import merge_projections
from thunder.kernels.patch_projection import use_patch_projections
from thunder.kernels.rotate_into_cache import rotate_into_cache
from thunder.kernels.shared_masks import share_masks
from thunder.kernels.substitute import substitute_kernels
from thunder.kernels.use_few_rows import use_few_rows
from thunder.kernels.use_forward_attention import use_forward_attention
from thunder.kernels.use_gemv import use_gemv
from thunder.kernels.use_short_attention import use_short_attention
from thunder.trace import Trace

KERNEL_PASSES: tuple[Callable[..., Trace], ...] = (
    use_patch_projections,
    improve_attention,
    use_fused_attention,
    share_masks,
    lay_out_queries,
    use_short_attention,
    use_forward_attention,
    rotate_into_cache,
    substitute_kernels,
    merge_projections,
    use_gemv,
    use_few_rows,
)


def run_kernel_passes(trace: Trace, *, is_fused: bool) -> list[Trace]:
    """Runs the passes; returns the trace after each one that changed it."""
    stages: list[Trace] = []
    with remembered_runs():
        for kernel_pass in KERNEL_PASSES:
            options = {"is_fused": is_fused} if kernel_pass is substitute_kernels else {}
            after = kernel_pass(trace, **options)
            if after is not trace:
                stages.append(after)
                trace = after
    return stages
