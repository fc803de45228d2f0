"""Lowering: torch-level programs to functional ATen programs, forward and backward, block by block."""

from thunder.lower.assemble import Assembled, BlockRegions, assemble, make_regions
from thunder.lower.block import Block
from thunder.lower.limits import NotLowerable
from thunder.lower.program import Lowered, View, lower_program
from thunder.lower.split import SplitBlock, split_joint

__all__ = [
    "Assembled",
    "Block",
    "BlockRegions",
    "Lowered",
    "NotLowerable",
    "SplitBlock",
    "View",
    "assemble",
    "lower_program",
    "make_regions",
    "split_joint",
]
