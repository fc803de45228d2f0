"""Times of kernels and collectives, against what the formulas must give."""

from __future__ import annotations

import pytest

from thunder.errors import OptionError
from thunder.planning import DEVICES, get_device
from thunder.planning.collectives import Group, all_reduce_seconds, bandwidth, gather_seconds
from thunder.planning.kernel_time import Attention, Matmul, Traffic

H100 = get_device("h100")


def attention(queries: int, *, is_causal: bool = False, is_backward: bool = False) -> Attention:
    return Attention(64, queries, queries, 128, is_causal, False, is_backward, bytes=0)


def test_a_large_product_runs_near_the_measured_ceiling():
    product = Matmul(8192, 8192, 8192)
    assert product.operations == 2 * 8192**3
    assert product.operations / product.seconds(H100) == pytest.approx(776e12, rel=0.05)


def test_a_product_of_one_row_takes_as_long_as_reading_its_weights():
    product = Matmul(1, 8192, 8192)
    assert product.seconds(H100) == pytest.approx(2 * (8192**2 + 2 * 8192) / H100.memory_rate)


def test_one_tile_too_many_is_another_wave():
    """Tiles of 256x128 on 132 multiprocessors: 11x12 fill them once."""
    full, more = Matmul(256 * 11, 128 * 12, 8192), Matmul(256 * 11, 128 * 13, 8192)
    assert more.seconds(H100) > 1.15 * full.seconds(H100)
    assert Matmul(256 * 22, 128 * 12, 8192).seconds(H100) == pytest.approx(2 * full.seconds(H100), rel=0.1)


def test_float32_products_do_without_tensor_cores():
    assert Matmul(4096, 4096, 4096, element_size=4).seconds(H100) > 8 * Matmul(4096, 4096, 4096).seconds(H100)


def test_attention_grows_with_the_square_of_the_length_and_causal_saves_up_to_half():
    short, long = attention(8192).seconds(H100), attention(16384).seconds(H100)
    assert 3.5 < long / short <= 4.0
    assert attention(16384, is_causal=True).seconds(H100) / long == pytest.approx(0.52, abs=0.03)
    assert attention(4096, is_causal=True).operations == attention(4096).operations // 2
    assert attention(4096, is_backward=True).operations == 2 * attention(4096).operations


@pytest.mark.parametrize("share", sorted(H100.memory_shares))
def test_traffic_reaches_its_share_of_the_bandwidth(share):
    seconds = Traffic(10**9, share).seconds(H100)
    assert seconds == pytest.approx(10**9 / (H100.memory_rate * H100.memory_shares[share]))
    assert Traffic(10, share).seconds(H100) == H100.kernel_seconds


def test_groups_know_how_many_of_them_share_a_node():
    assert Group.strided(64, 1, 8) == Group(64, 8)
    assert Group.strided(64, 2, 8) == Group(64, 4)
    assert Group.strided(64, 8, 8) == Group(64, 1)
    assert Group.strided(4, 1, 8) == Group(4, 4)
    assert Group.strided(16, 64, 8).nodes == 16


def test_a_group_sends_through_the_nics_of_its_ranks():
    assert bandwidth(H100, Group(8, 8)) == H100.local.bytes_per_second
    assert bandwidth(H100, Group(16, 1)) == H100.remote.bytes_per_second
    assert bandwidth(H100, Group(16, 2)) == 2 * H100.remote.bytes_per_second
    assert bandwidth(H100, Group(16, 8)) <= H100.local.bytes_per_second


def test_a_ring_moves_what_the_other_ranks_have():
    whole = 8e9
    gather = gather_seconds(H100, Group(8, 8), whole)
    assert gather == pytest.approx(whole * 7 / 8 / H100.local.bytes_per_second, rel=0.01)
    assert all_reduce_seconds(H100, Group(8, 8), whole) == pytest.approx(2 * gather, rel=0.01)
    assert gather_seconds(H100, Group(1, 1), whole) == all_reduce_seconds(H100, Group(1, 1), whole) == 0.0


def test_small_sums_over_many_nodes_go_along_a_tree():
    group = Group(128, 1)
    assert all_reduce_seconds(H100, group, 8.0) < 20 * H100.remote.latency < gather_seconds(H100, group, 8.0)


def test_devices_have_plausible_shares_of_their_peaks():
    for device in DEVICES.values():
        assert 0.7 < device.matmul_rate / device.peak < 0.85, device.name
        assert device.memory > 70 * 2**30
    assert DEVICES["h200"].memory_rate > H100.memory_rate and not DEVICES["h200"].is_measured
    with pytest.raises(OptionError, match="h100"):
        get_device("h300")
