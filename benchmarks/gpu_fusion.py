"""Fused regions on a GPU: values against float64, and times beside eager PyTorch and torch.compile.

    python benchmarks/gpu_fusion.py --output fusion.json

Each region runs forward, and forward and backward, as CUDA graphs that go round through several copies of inputs that
the cache could hold.  Times are medians of replays, measured with events.  The bytes are those of the region's inputs
and outputs, each once; the share is of a device copy measured in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import thunder
from thunder.executors.triton_fusion import schedule

BF16 = torch.bfloat16


@dataclass
class Region:
    """A function of tensors; `inputs` makes them."""

    name: str
    function: Callable[..., Any]
    inputs: Callable[[], list[torch.Tensor]]


# Timed calls go round through so many bytes of inputs, which no cache holds.
ROTATED_BYTES = 4e8


def random(*shape: int, dtype: torch.dtype = BF16, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_(grad)


def pointwise_chain(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x * y + 1.0) * z - 0.5 * x


def bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.gelu(x + bias)


def rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = x + residual
    wide = hidden.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (wide * scale).to(x.dtype), hidden


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotary(heads: int, kv_heads: int, size: int) -> Callable[..., Any]:
    def apply(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        batch, length = query.shape[:2]
        query = query.view(batch, length, heads, size).transpose(1, 2)
        key = key.view(batch, length, kv_heads, size).transpose(1, 2)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return query * cos + rotate_half(query) * sin, key * cos + rotate_half(key) * sin

    return apply


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def layer_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x + residual, (x.shape[-1],), weight, bias)


def softmax(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.softmax(x * 0.125 + mask, dim=-1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels)


def rope_inputs(batch: int, heads: int, kv_heads: int) -> list[torch.Tensor]:
    table = [random(1, 2048, 128, grad=False) for _ in range(2)]
    return [random(batch, 2048, heads * 128), random(batch, 2048, kv_heads * 128), *table]


def norm_inputs(*shape: int, weights: int = 1) -> list[torch.Tensor]:
    return [random(*shape), random(*shape), *(random(shape[-1]) for _ in range(weights))]


def loss_inputs(tokens: int, vocabulary: int) -> list[torch.Tensor]:
    return [random(tokens, vocabulary), torch.randint(0, vocabulary, (tokens,), device="cuda")]


REGIONS = [
    Region("pointwise chain 4096x8192", pointwise_chain, lambda: [random(4096, 8192) for _ in range(3)]),
    Region("bias+GELU 32x512x4096", bias_gelu, lambda: [random(32, 512, 4096), random(4096)]),
    Region("residual+RMSNorm 2x2048x1536", rms_norm, lambda: norm_inputs(2, 2048, 1536)),
    Region("residual+RMSNorm 4x2048x4096", rms_norm, lambda: norm_inputs(4, 2048, 4096)),
    Region("RoPE 2x2048, 12+2 heads", rotary(12, 2, 128), lambda: rope_inputs(2, 12, 2)),
    Region("RoPE 4x2048, 32+8 heads", rotary(32, 8, 128), lambda: rope_inputs(4, 32, 8)),
    Region("SwiGLU 4096x8960", swiglu, lambda: [random(2, 2048, 8960), random(2, 2048, 8960)]),
    Region("SwiGLU 8192x14336", swiglu, lambda: [random(4, 2048, 14336), random(4, 2048, 14336)]),
    Region("residual+LayerNorm 32x512x1024", layer_norm, lambda: norm_inputs(32, 512, 1024, weights=2)),
    Region("softmax 32x16x512x512", softmax, lambda: [random(32, 16, 512, 512), random(32, 1, 1, 512, grad=False)]),
    Region("softmax 16384x4096", softmax, lambda: [random(16384, 4096), random(4096, grad=False)]),
    Region("cross-entropy 4096x151936", cross_entropy, lambda: loss_inputs(4096, 151936)),
    Region("cross-entropy 8192x32000", cross_entropy, lambda: loss_inputs(8192, 32000)),
]


def as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def graph_milliseconds(run: Callable[[int], Any], copies: int = 1, budget_seconds: float = 0.25) -> float:
    """Median time of `run(0)`, `run(1)`, ..., captured as one CUDA graph so that launches do not show."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(0)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    start = time.perf_counter()
    run(0)
    torch.cuda.synchronize()
    once = time.perf_counter() - start
    repeats = max(1, min(20, int(0.005 / max(once, 1e-6)))) if copies == 1 else copies
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(repeats):
            run(number % copies)
    graph.replay()
    torch.cuda.synchronize()
    times = []
    deadline = time.perf_counter() + budget_seconds
    while len(times) < 5 or (time.perf_counter() < deadline and len(times) < 50):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / repeats)
    graph.reset()
    return statistics.median(times)


def wall_microseconds(run: Callable[[], Any]) -> float:
    """Host time of one call, without waiting for the device."""
    for _ in range(10):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        torch.cuda.synchronize()
    return statistics.median(times) * 1e6


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of the faster of PyTorch's two ways to copy."""
    source = torch.randn(256 * 1024 * 1024, device="cuda")
    target = torch.empty_like(source)
    ways = (lambda _: target.copy_(source), lambda _: torch.neg(source, out=target))
    return 2 * bytes_of([source]) / min(graph_milliseconds(way) for way in ways) * 1e3


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    value, reference = value.detach(), reference.detach()
    return float((value.double() - reference.double()).norm() / reference.double().norm().clamp_min(1e-30))


def with_gradients(
    function: Callable[..., Any], inputs: list[torch.Tensor], tangents: Sequence[torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    outputs = as_tuple(function(*inputs))
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    return outputs, torch.autograd.grad(outputs, wanted, tangents)


def reference(region: Region, inputs: list[torch.Tensor], tangents: Sequence[torch.Tensor]) -> Any:
    """Outputs and gradients in float64."""
    wide = [t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in inputs]
    original = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # the functions' own conversions
    try:
        return with_gradients(region.function, wide, [tangent.double() for tangent in tangents])
    finally:
        torch.Tensor.float = original


def measure(region: Region, bandwidth: float, contenders: list[str]) -> list[dict[str, Any]]:
    """A row of figures for each contender."""
    torch.manual_seed(0)
    inputs = region.inputs()
    with torch.no_grad():
        shapes = as_tuple(region.function(*inputs))
    tangents = [torch.randn_like(output) for output in shapes]
    small = bytes_of(inputs) < 3e9
    expected = reference(region, inputs, tangents) if small else None
    del shapes
    copies = max(1, min(12, round(ROTATED_BYTES / bytes_of(inputs))))
    sets = [inputs, *([t.detach().clone().requires_grad_(t.requires_grad) for t in inputs] for _ in range(copies - 1))]
    forward_bytes = bytes_of(inputs) + bytes_of(tangents)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    backward_bytes = bytes_of(inputs) + bytes_of(tangents) + bytes_of(wanted)
    rows = []
    for contender in contenders:
        row: dict[str, Any] = {"region": region.name, "contender": contender}
        rows.append(row)
        try:
            function = contender_function(contender, region.function)
            row.update(timed(function, sets, tangents, expected))
            if contender == "thunder":
                traces = [thunder.last_traces(function)[-1], *thunder.last_backward_traces(function)[-1:]]
                row["kernels"] = kernels_of([called for trace in traces for called in trace.regions()])
                row["notes"] = thunder.compile_stats(function).notes
        except Exception as error:  # one contender's failure must not hide the other figures
            row["error"] = f"{type(error).__name__}: {error}"[:2000]
            row["traceback"] = traceback.format_exc()[-3000:]
            continue
        row["forward_share"] = forward_bytes / row["forward_milliseconds"] * 1e3 / bandwidth
        row["both_share"] = (forward_bytes + backward_bytes) / row["both_milliseconds"] * 1e3 / bandwidth
    return rows


def contender_function(contender: str, function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    if contender == "torch.compile":
        return torch.compile(function, dynamic=False)
    return function if contender == "eager" else thunder.jit(function, executors=["triton", "eager"])


def timed(
    function: Callable[..., Any], sets: list[list[torch.Tensor]], tangents: Sequence[torch.Tensor], expected: Any
) -> dict[str, Any]:
    """First call, errors and times of one contender."""
    start = time.perf_counter()
    with torch.no_grad():
        function(*sets[0])
    torch.cuda.synchronize()
    row: dict[str, Any] = {"first_call_seconds": round(time.perf_counter() - start, 3)}
    outputs, gradients = with_gradients(function, sets[0], tangents)
    if expected is not None:
        row["errors"] = [relative_error(a, b) for a, b in zip(outputs, expected[0])]
        row["gradient_errors"] = [relative_error(a, b) for a, b in zip(gradients, expected[1])]
    del outputs, gradients
    with torch.no_grad():
        row["forward_milliseconds"] = graph_milliseconds(lambda number: function(*sets[number]), len(sets))
        row["host_microseconds"] = round(wall_microseconds(lambda: function(*sets[0])), 1)
    both = graph_milliseconds(lambda number: with_gradients(function, sets[number], tangents), len(sets))
    row["both_milliseconds"] = both
    row["backward_milliseconds"] = both - row["forward_milliseconds"]
    return row


def example(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with the type of a fake one."""
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
    return made.normal_() if tensor.is_floating_point() else made.fill_(1)


def kernels_of(regions: Sequence[Any]) -> list[dict[str, Any]]:
    """Each kernel by itself: time, bytes, share."""
    found = []
    for called in regions:
        kernel = called.implementation
        if hasattr(kernel, "bytes_moved"):
            found.append({
                "name": kernel.name, "bytes": kernel.bytes_moved(), "schedule": str(kernel.schedule),
                "inputs": [var.describe() for var in called.trace.inputs], "called": called,
            })  # fmt: skip
    for entry in found:
        called = entry.pop("called")
        kernel = called.implementation
        try:
            arguments = [example(var.value) for var in called.trace.inputs]
            milliseconds = graph_milliseconds(lambda _, k=kernel, a=arguments: k(*a), budget_seconds=0.1)
            entry["milliseconds"] = milliseconds
            entry["gigabytes_a_second"] = entry["bytes"] / milliseconds / 1e6
        except Exception as error:  # as above
            entry["error"] = f"{type(error).__name__}: {error}"[:500]
    return found


def sweep() -> list[dict[str, Any]]:
    """Backward of LayerNorm and RMSNorm with other schedules of the kernel that goes row by row."""

    def scaled(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-5) * weight).to(x.dtype)

    cases = [
        ("LayerNorm 32x512x1024", layer_norm, lambda: norm_inputs(32, 512, 1024, weights=2)),
        ("RMSNorm 2x2048x1536", scaled, lambda: [random(2, 2048, 1536), random(1536)]),
        ("RMSNorm 4x2048x4096", scaled, lambda: [random(4, 2048, 4096), random(4096)]),
    ]
    found = []
    for name, function, make in cases:
        inputs = make()
        tangent = torch.randn_like(function(*inputs))
        for programs, elements, stages in itertools.product((1.0, 2.0), (8, 16), (1, 2, 3)):
            schedule.CHUNK_PROGRAMS, schedule.CHUNK_ELEMENTS, schedule.CHUNK_STAGES = programs, elements, stages
            row: dict[str, Any] = {"case": name, "programs": programs, "elements": elements, "stages": stages}
            try:
                compiled = thunder.jit(function, executors=["triton", "eager"])
                with_gradients(compiled, inputs, [tangent])
                backward = thunder.last_backward_traces(compiled)[-1:]
                kernels = kernels_of([called for trace in backward for called in trace.regions()])
                row["kernels"] = [(entry["name"], entry.get("milliseconds")) for entry in kernels]
                times = [f"{kernel} {(ms or 0) * 1e3:.1f} us" for kernel, ms in row["kernels"]]
                print(f"{name:24s} programs x{programs} elements {elements:2d} stages {stages}: {', '.join(times)}")
            except Exception as error:  # one schedule's failure must not hide the others
                row["error"] = f"{type(error).__name__}: {error}"[:500]
                print(name, programs, elements, stages, row["error"])
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="write every figure to this JSON file")
    parser.add_argument("--only", default="", help="regions whose name contains this")
    parser.add_argument("--contenders", default="eager,torch.compile,thunder")
    parser.add_argument("--sweep", action="store_true", help="time other schedules as well, in half a minute more")
    parser.add_argument("--seconds", type=float, default=110.0, help="begin no region after so long")
    arguments = parser.parse_args()
    warnings.simplefilter("default")
    started = time.perf_counter()
    bandwidth = copy_bandwidth()
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_a_second": bandwidth,
        "rows": [],
    }
    print(f"{results['device']}, copy {bandwidth / 1e12:.2f} TB/s")
    print(f"{'region':36s} {'contender':14s} {'fwd us':>9s} {'share':>6s} {'f+b us':>9s} {'share':>6s} {'host us':>8s} {'first s':>8s}  errors")  # noqa: E501
    for region in REGIONS:
        if arguments.only not in region.name:
            continue
        if time.perf_counter() - started > arguments.seconds:
            results["rows"].append({"region": region.name, "error": "no time was left"})
            print(region.name, "left out: no time")
            continue
        for row in measure(region, bandwidth, arguments.contenders.split(",")):
            results["rows"].append(row)
            show(row)
        if arguments.output:
            with open(arguments.output, "w") as file:
                json.dump(results, file, indent=1)
    if arguments.sweep:
        results["sweep"] = sweep()
        if arguments.output:
            with open(arguments.output, "w") as file:
                json.dump(results, file, indent=1)
    print(f"{time.perf_counter() - started:.0f} s")


def show(row: dict[str, Any]) -> None:
    def number(key: str, factor: float, form: str) -> str:
        return format(row[key] * factor, form) if key in row else "-".rjust(int(form.split(".")[0]))

    errors = max([*row.get("errors", [0.0]), *row.get("gradient_errors", [0.0])])
    print(
        f"{row['region']:36s} {row['contender']:14s} {number('forward_milliseconds', 1e3, '9.1f')} "
        f"{number('forward_share', 1, '6.2f')} {number('both_milliseconds', 1e3, '9.1f')} "
        f"{number('both_share', 1, '6.2f')} {number('host_microseconds', 1, '8.1f')} "
        f"{number('first_call_seconds', 1, '8.2f')}  {errors:.1e} {row.get('error', '')[:200]}",
        flush=True,
    )
    for note in row.get("notes", ()):
        print(f"    note: {note}")
    for kernel in row.get("kernels", []):
        print(
            f"    {kernel['name']:45s} {kernel.get('milliseconds', 0) * 1e3:9.1f} us "
            f"{kernel.get('gigabytes_a_second', 0):7.0f} GB/s {kernel.get('error', '')}"
        )


if __name__ == "__main__":
    main()
