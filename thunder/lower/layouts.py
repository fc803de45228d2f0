"""What strides say of a tensor's memory, and the strides in which gradients are passed on.

Input: shapes and strides.  Output: answers; nothing here touches a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

Sizes = Sequence[int]


def overlaps(shape: Sizes, stride: Sizes) -> bool:
    """Whether two elements may lie at one place of the memory, as after `expand`."""
    if 0 in shape:
        return False
    reach = 0
    for step, size in sorted((abs(step), size) for size, step in zip(shape, stride) if size > 1):
        if step <= reach:
            return True
        reach += step * (size - 1)
    return False


def is_dense(shape: Sizes, stride: Sizes) -> bool:
    """Whether the elements fill their part of the memory without gaps and without overlap, in whatever order."""
    if 0 in shape:
        return True
    expected = 1
    for step, size in sorted((step, size) for size, step in zip(shape, stride) if size > 1):
        if step != expected:
            return False
        expected *= size
    return True


def gradient_strides(shape: Sizes, stride: Sizes) -> tuple[int, ...]:
    """The strides of the gradient of a tensor: the tensor's own where it is dense, else contiguous ones."""
    if is_dense(shape, stride):
        return tuple(stride)
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def same_layout(shape: Sizes, first: Sizes, second: Sizes) -> bool:
    """Whether strides agree wherever a step means something."""
    return 0 in shape or all(a == b for size, a, b in zip(shape, first, second) if size > 1)
