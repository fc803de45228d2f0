"""Lowering: torch-level programs to functional ATen programs, forward and backward, block by block."""

from thunder.lower.assemble import (
    BlockRegions,
    ForwardProgram,
    Mask,
    assemble_backward,
    assemble_forward,
    make_regions,
    shared_gradients,
)
from thunder.lower.block import Block
from thunder.lower.layouts import gradient_strides
from thunder.lower.limits import NotLowerable
from thunder.lower.program import Lowered, View, lower_program
from thunder.lower.split import SplitBlock, split_joint

__all__ = [
    "Block",
    "BlockRegions",
    "ForwardProgram",
    "Lowered",
    "Mask",
    "NotLowerable",
    "SplitBlock",
    "View",
    "assemble_backward",
    "assemble_forward",
    "gradient_strides",
    "lower_program",
    "make_regions",
    "shared_gradients",
    "split_joint",
]
