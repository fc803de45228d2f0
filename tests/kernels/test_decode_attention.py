"""`thunder::decode_attention` against float64."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import TOLERANCE, assert_as_exact, relative_error, wide
from thunder.kernels import decode_attention as module

pytestmark = pytest.mark.triton


def make_arguments(dtype, head_dim, length, position, masked):
    torch.manual_seed(0)
    batch, heads, group = 2, 6, 3
    query = torch.randn(batch, 1, heads, head_dim, dtype=dtype).transpose(1, 2)
    keys, values = (torch.randn(batch, heads // group, length, head_dim, dtype=dtype) for _ in range(2))
    mask = None
    if masked:
        mask = torch.rand(batch, 1, 1, length) > 0.4
        mask[..., 0] = True
    return query, keys, values, None if position is None else torch.tensor([position]), mask, 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("length, position, masked", [(100, None, True), (130, 77, False), (70, 500, True)])
def test_one_program_a_head(dtype, head_dim, length, position, masked):
    arguments = make_arguments(dtype, head_dim, length, position, masked)
    assert_as_exact(module.decode_attention, module.decode_attention_reference, *arguments, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("splits, position", [(3, 299), (4, 10), (5, 170)])
def test_split_over_programs(dtype, splits, position):
    """Also with splits that see nothing, because the visible part ends before them."""
    arguments = make_arguments(dtype, 64, 300, position, True)
    out = module.launch(*arguments, splits=splits)
    assert relative_error(out, module.decode_attention_reference(*wide(arguments))) <= TOLERANCE[dtype]


def test_the_number_of_splits_grows_with_the_cache():
    device = torch.device("cpu")
    splits = [module.choose_splits(1, 2, length, device) for length in (64, 256, 1024, 1 << 20)]
    assert splits[0] == splits[1] == 1 and splits == sorted(splits)
