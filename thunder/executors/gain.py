"""What compiling a program can gain, estimated from its torch-level trace.

Fusion saves the overhead of the calls that it joins and the memory traffic of the values between them.  It saves
nothing on calls of libraries (matrix products, convolutions, attention), which compiled code makes as well.  A
program that cannot gain what a compiled call costs more than an eager one is run as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator

from thunder.lower.operators import tensor_bytes
from thunder.lower.state import is_state_statement
from thunder.trace import Op, Trace
from thunder.trace.trace import regions_of_op

# Measured on a 2-core x86 server: a pointwise call on a few numbers, and memory traffic of large pointwise calls.
SECONDS_PER_CALL = 1.2e-6
SECONDS_PER_BYTE = 1e-10

# Below this, what fusion saves in a call is less than the cost of leaving eager PyTorch (`torch.autograd.Function`,
# generated code), and compilation, which takes seconds, would not pay off within a hundred thousand calls.
WORTHWHILE_SECONDS = 5e-5

_LIBRARY_CALLS = frozenset(
    {
        "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "bilinear", "mv",
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "lstm", "gru",
        "scaled_dot_product_attention", "embedding", "embedding_bag", "sort", "topk", "tensordot", "_fft_c2c", "fft",
    }
)  # fmt: skip


def estimate_gain(trace: Trace, enough: float = WORTHWHILE_SECONDS) -> float:
    """Seconds that fusion may save in one call; stops counting at `enough`."""
    operations = list(_operations(trace))
    gain = SECONDS_PER_CALL * len(operations)
    if gain >= enough:
        return gain
    for op in operations:
        gain += 2 * SECONDS_PER_BYTE * sum(tensor_bytes(var.value) for var in op.outputs())
        if gain >= enough:
            break
    return gain


def _operations(trace: Trace) -> Iterator[Op]:
    """The operations that fusion may join, those in regions included."""
    for op in trace.ops:
        if is_state_statement(op) or op.name in _LIBRARY_CALLS:
            continue
        regions = list(regions_of_op(op))
        if regions:
            for region in regions:
                yield from _operations(region.trace)
        else:
            yield op
