"""What GPUs and their networks do: peaks of the data sheets, and what of them is reached.

Input: a name.  Output: a `Device`.  Rates are a second, sizes in bytes.

The H100 is measured: rates of products from the kernels of one training step (deepseek-train in
`benchmarks/results/h100/profile.json`) and an 8192x8192x8192 product, bandwidth from a copy, attention from
`attention.json` beside it.  The other devices have the H100's efficiencies on their own peaks and are not measured.
Networks of all of them are the data sheets' bandwidths times what NCCL's published tests reach; not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from thunder.errors import unknown_name


@dataclass(frozen=True)
class AttentionRate:
    """Attention's rate on long sequences, and the keys' worth of time that a tile of queries costs besides.

    A tile that meets `keys` keys takes as long as `keys + fixed_keys` would at the rate.
    """

    operations_per_second: float
    fixed_keys: int


@dataclass(frozen=True)
class Network:
    """Links of one kind: bytes a second that a GPU sends (and receives at the same time), and seconds of a step."""

    bytes_per_second: float
    latency: float


@dataclass(frozen=True, eq=False)
class Device:
    """A GPU in its machine; equal only to itself, so that times can be remembered by device.

    Attributes:
        name, title: for the command line and for tables.
        is_measured: whether its rates are, or are another device's shares of its own peaks.
        memory: bytes of it.
        usable_memory: the share of it to plan with; the rest is for the context, fragments and NCCL.
        multiprocessors: how many tiles of a product run at a time.
        peak: operations a second of dense bfloat16 products, by the data sheet; what MFU is a share of.
        matmul_rate: the same that the inner loop of a product reaches.
        cache_rate: bytes a second from the second-level cache, which feeds the tiles.
        tile_seconds: what a tile of a product takes besides its inner loop.
        float32_rate: operations a second of products without tensor cores.
        memory_rate: bytes a second that large fused kernels read and write.
        memory_shares: what share of it kernels reach: "fused" by thunder, PyTorch's own pointwise ones ("eager"), its
            copies into another order ("strided"), products of "few rows".
        attention_forward, attention_backward: by size of head; the nearest counts.
        attention_bias_share: the share of attention's rate that is left with a mask that is a tensor.
        kernel_seconds: the least time from the start of a kernel to the start of the next.
        step_seconds: host time that shows in a step that begins on an idle GPU.
        collective_share: the share of the multiprocessors that a collective takes from the kernels beside it.
        workspace: bytes that libraries hold.
        node_size: GPUs joined by `local`; beyond, by `remote`.
    """

    name: str
    title: str
    is_measured: bool
    memory: float
    usable_memory: float
    multiprocessors: int
    peak: float
    matmul_rate: float
    cache_rate: float
    tile_seconds: float
    float32_rate: float
    memory_rate: float
    memory_shares: dict[str, float]
    kernel_seconds: float
    step_seconds: float
    attention_forward: dict[int, AttentionRate]
    attention_backward: dict[int, AttentionRate]
    attention_bias_share: float
    collective_share: float
    workspace: float
    node_size: int
    local: Network
    remote: Network


_H100 = Device(
    name="h100",
    title="NVIDIA H100 80GB HBM3 (SXM)",
    is_measured=True,
    memory=79.6 * 2**30,  # what the driver reports
    usable_memory=0.92,
    multiprocessors=132,
    peak=989.4e12,  # data sheet: 1,979 with sparsity
    # Fitted to the products of deepseek-train by kind (eleven groups, predicted at 0.94 to 1.11 of the
    # measured time): see docs/planning.md.
    matmul_rate=780e12,
    cache_rate=12e12,
    tile_seconds=1e-6,
    float32_rate=51e12,  # 0.77 of the data sheet's 66.9
    memory_rate=3.05e12,  # data sheet: 3.35; a copy reaches 3.0, generated kernels 2.94 to 3.17 (profile.json)
    memory_shares={
        "fused": 1.0,
        "eager": 0.9,  # GELU on its own: 2.74 TB/s (profile.json)
        "strided": 0.33,  # PyTorch's copies that bring elements into another order (docs/fusion.md)
        "few rows": 0.75,  # products of a few rows (gpu_skinny.json, kernels.json: 0.47 to 0.82)
    },
    kernel_seconds=2.5e-6,
    step_seconds=1e-3,  # median of a step less its kernels, over the short workloads of profile.json: 0.9 to 1.3 ms
    # Heads of 64 and 128: fitted to attention.json at 197 to 2048 tokens; for longer ones the rate of 128 is that of
    # FlashAttention-3's published figures (640e12 at 16k).
    attention_forward={64: AttentionRate(420e12, 100), 128: AttentionRate(650e12, 520)},
    attention_backward={64: AttentionRate(400e12, 480), 128: AttentionRate(550e12, 800)},
    attention_bias_share=0.7,  # attention.json: 0.63 with a mask for each row, 0.81 with one for all
    collective_share=16 / 132,  # NCCL's channels at its defaults; not measured here
    workspace=32 * 2**20,  # cuBLAS's, by PyTorch's default for this architecture
    node_size=8,
    # NVLink 4: 450 GB/s each way by the data sheet, of which NCCL's rings reach 0.8.
    local=Network(360e9, 1.5e-6),
    # One 400 Gb/s NIC for each GPU, of which 0.9.
    remote=Network(45e9, 5e-6),
)


def _like_h100(
    name: str,
    title: str,
    *,
    memory: float,
    multiprocessors: int,
    peak: float,
    bandwidth: float,
    float32: float,
    nvlink: float,
    nic: float = 50e9,
) -> Device:
    """A device with the H100's shares of its own peaks (data sheets: bytes and operations a second)."""
    compute, traffic = peak / _H100.peak, bandwidth / 3.35e12

    def scaled(rates: dict[int, AttentionRate]) -> dict[int, AttentionRate]:
        return {
            size: replace(rate, operations_per_second=rate.operations_per_second * compute)
            for size, rate in rates.items()
        }

    return replace(
        _H100,
        name=name,
        title=title,
        is_measured=False,
        memory=memory,
        multiprocessors=multiprocessors,
        peak=peak,
        matmul_rate=_H100.matmul_rate * compute,
        cache_rate=_H100.cache_rate * compute,
        float32_rate=0.77 * float32,
        memory_rate=_H100.memory_rate * traffic,
        attention_forward=scaled(_H100.attention_forward),
        attention_backward=scaled(_H100.attention_backward),
        local=Network(0.8 * nvlink, _H100.local.latency),
        remote=Network(0.9 * nic, _H100.remote.latency),
    )


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _H100,
        _like_h100(
            "h200", "NVIDIA H200 141GB (SXM)", memory=139.8 * 2**30, multiprocessors=132, peak=989.4e12,
            bandwidth=4.8e12, float32=66.9e12, nvlink=450e9,
        ),
        _like_h100(
            "a100", "NVIDIA A100 80GB (SXM)", memory=79.2 * 2**30, multiprocessors=108, peak=312e12,
            bandwidth=2.039e12, float32=19.5e12, nvlink=300e9, nic=25e9,
        ),
        _like_h100(
            "b200", "NVIDIA B200 180GB (HGX)", memory=178 * 2**30, multiprocessors=148, peak=2250e12,
            bandwidth=7.7e12, float32=75e12, nvlink=900e9,
        ),
    )
}  # fmt: skip


def get_device(name: str) -> Device:
    """The device of that name."""
    if name not in DEVICES:
        raise unknown_name("device", name, list(DEVICES))
    return DEVICES[name]
