"""Linear layers and embeddings of which each process has a part, and the collectives between them.

A *divided* activation differs between processes (each has its columns, or its share of a sum); a *common* one is the
same everywhere.  Every function here is differentiable, and its derivative is the collective that mirrors it:

    enter    common -> divided use      identity               backward: sum over processes
    leave    shares of a sum -> common  sum over processes     backward: identity
    gather   columns -> common          all columns            backward: this process's columns
    split    common -> columns          this process's columns backward: all columns
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from thunder.distributed.collectives import Group, functional


def _sum(x: torch.Tensor, group: str) -> torch.Tensor:
    total: torch.Tensor = functional.wait_tensor(functional.all_reduce(x.contiguous(), "sum", group))
    return total


def _all_columns(x: torch.Tensor, size: int, group: str) -> torch.Tensor:
    rows = x.movedim(-1, 0).contiguous()
    gathered: torch.Tensor = functional.wait_tensor(functional.all_gather_into_tensor(rows, size, group))
    return gathered.movedim(0, -1).contiguous()


def _own_columns(x: torch.Tensor, size: int, rank: int) -> torch.Tensor:
    width = x.shape[-1] // size
    return x.narrow(-1, rank * width, width).contiguous()


class Enter(torch.autograd.Function):
    """`Enter.apply(x, group)`: x, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _sum(gradient, ctx.group), None


class Leave(torch.autograd.Function):
    """`Leave.apply(x, group)`: the sum of all processes' x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


class GatherColumns(torch.autograd.Function):
    """`GatherColumns.apply(x, size, rank, group)`: all processes' x, side by side in the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.size, ctx.rank = size, rank
        return _all_columns(x, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _own_columns(gradient, ctx.size, ctx.rank), None, None, None


class SplitColumns(torch.autograd.Function):
    """`SplitColumns.apply(x, size, rank, group)`: this process's part of the last dimension of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _own_columns(x, size, rank)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_columns(gradient, ctx.size, ctx.group), None, None, None


# The forward functions of modules that are divided; `thunder.distributed.tensor_parallel` puts them in.


def column_linear(module: Any, group: Group, gathers: bool, x: torch.Tensor) -> torch.Tensor:
    """`linear` of which each process has some output columns; `gathers`: the result is common again."""
    y = F.linear(Enter.apply(x, group.name), module.weight, module.bias)
    return GatherColumns.apply(y, group.size, group.rank, group.name) if gathers else y


def row_linear(module: Any, group: Group, splits: bool, x: torch.Tensor) -> torch.Tensor:
    """`linear` of which each process has some input columns; `splits`: x is common, and has to be divided first."""
    if splits:
        x = SplitColumns.apply(x, group.size, group.rank, group.name)
    y = Leave.apply(F.linear(x, module.weight), group.name)
    return y if module.bias is None else y + module.bias


def packed_linear(module: Any, group: Group, rows: tuple[tuple[int, int], ...], x: torch.Tensor) -> torch.Tensor:
    """Several column-divided linears in one weight, `rows` of each being this process's; the weight is common."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor[start:stop] for start, stop in rows])

    bias = None if module.bias is None else own(module.bias)
    return F.linear(Enter.apply(x, group.name), own(module.weight), bias)


def row_embedding(module: Any, group: Group, start: int, tokens: torch.Tensor) -> torch.Tensor:
    """`embedding` of which each process has some rows, from row `start` on."""
    local = tokens - start
    outside = (local < 0) | (local >= module.weight.shape[0])
    found = F.embedding(local.masked_fill(outside, 0), module.weight)
    return Leave.apply(found.masked_fill(outside.unsqueeze(-1), 0), group.name)
