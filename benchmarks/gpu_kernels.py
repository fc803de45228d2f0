"""Values and times of the kernel library on one GPU, beside eager PyTorch and torch.compile.

    python benchmarks/gpu_kernels.py --output kernels.json [--seconds 110] [--only gemv,rope] [--no-compile]

Every case is computed once for its values, whose error ||out - ref|| / ||ref|| is against PyTorch in float64, and then
timed: a CUDA graph runs it on several sets of inputs, together larger than the caches; the time is the median of the
graph's replays divided by the number of sets.  `share` is the least traffic that the case needs, over the time, as a
part of the copy bandwidth that was measured in the same run.  A case that fails gives its error in place of figures.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch.nn import functional as F

from thunder.kernels import decode_attention, gemv, merged_linear, rms_norm

BF16 = torch.bfloat16
DEVICE = torch.device("cuda")
CACHES = 192 << 20  # bytes of inputs that no cache holds
MOST_SETS = 64


@dataclass
class Case:
    """One thing to measure.

    Attributes:
        name, shape: for the table.
        make: a new set of arguments.
        kernel: the library's form.
        eager: the same in plain PyTorch, as a model writes it.
        exact: the reference, called with arguments in float64; None for `eager`.
        traffic: bytes that have to be read and written.
        grad: whether forward and backward are timed, with gradients for all floating point arguments.
        variants: further launches of the kernel to compare, by name.
    """

    name: str
    shape: str
    make: Callable[[], tuple[Any, ...]]
    kernel: Callable[..., Any]
    eager: Callable[..., Any]
    traffic: int
    exact: Callable[..., Any] | None = None
    grad: bool = False
    compiled: bool = True
    check: bool = True
    variants: dict[str, Callable[..., Any]] = field(default_factory=dict)


def wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(map(wide, value)) if isinstance(value, (list, tuple)) else value


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, (list, tuple)) else []


def relative_error(outs: Any, exact: Any) -> float:
    pairs = zip(tensors_of(outs), tensors_of(exact))
    return max(float(((out.double() - ref).norm() / ref.norm().clamp_min(1e-30)).detach()) for out, ref in pairs)


def gradients(function: Callable[..., Any], arguments: tuple[Any, ...], seed: int = 0) -> list[torch.Tensor]:
    """Results, and gradients of the floating point arguments for fixed gradients of the results."""
    leaves = [a.detach().requires_grad_() if is_float(a) else a for a in arguments]
    outs = [out for out in tensors_of(function(*leaves)) if out.requires_grad]
    generator = torch.Generator(DEVICE).manual_seed(seed)
    tangents = [torch.randn(o.shape, generator=generator, device=DEVICE).to(o.dtype) for o in outs]
    return [*outs, *torch.autograd.grad(outs, [leaf for leaf in leaves if is_float(leaf)], tangents)]


def is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def timed(calls: list[Callable[[], Any]], replays: int = 15) -> float:
    """Microseconds of one call, from replays of a graph of all of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def call_of(function: Callable[..., Any], arguments: tuple[Any, ...], grad: bool) -> Callable[[], Any]:
    if not grad:
        return lambda: function(*arguments)
    leaves = [a.detach().requires_grad_() if is_float(a) else a for a in arguments]
    wanted = [leaf for leaf in leaves if is_float(leaf)]
    with torch.enable_grad():
        tangents = [torch.randn_like(o) for o in tensors_of(function(*leaves)) if o.requires_grad]

    def call() -> Any:
        with torch.enable_grad():
            outs = [o for o in tensors_of(function(*leaves)) if o.requires_grad]
            return torch.autograd.grad(outs, wanted, tangents)

    return call


def measure(case: Case, bandwidth: float, *, compile_peer: bool) -> dict[str, Any]:
    """Errors and times of one case."""
    result: dict[str, Any] = {"name": case.name, "shape": case.shape, "traffic_bytes": case.traffic}
    arguments = case.make()
    if case.check:
        run = gradients if case.grad else (lambda function, args: function(*args))
        exact = run(case.exact or case.eager, wide(arguments))
        result["error"] = relative_error(run(case.kernel, arguments), exact)
        result["eager_error"] = relative_error(run(case.eager, arguments), exact)
        del exact
    size = sum(t.numel() * t.element_size() for t in tensors_of(arguments)) or 1
    sets = [arguments] + [case.make() for _ in range(min(MOST_SETS, CACHES // size + 1) - 1)]
    functions = {"thunder": case.kernel, "eager": case.eager, **case.variants}
    if compile_peer and case.compiled:
        torch.compiler.reset()
        functions["compile"] = torch.compile(case.eager, dynamic=False)
    for name, function in functions.items():
        try:
            result[f"{name}_us"] = timed([call_of(function, arguments, case.grad) for arguments in sets])
        except Exception as error:  # a peer, or a variant, that does not run must not end the measurement
            result[f"{name}_failed"] = f"{type(error).__name__}: {error}"[:300]
            torch.cuda.synchronize()
    if "thunder_us" in result:
        result["share"] = case.traffic / (result["thunder_us"] * 1e-6) / bandwidth
    return result


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a large copy."""
    source = torch.randn(1 << 28, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (timed([lambda: target.copy_(source)]) * 1e-6)


def randn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, device=DEVICE) * scale).to(BF16)


# ---- linear layers on few rows


def linear_cases() -> list[Case]:
    cases = []
    shapes = {
        "1.5B qkv": (2048, 1536), "1.5B o": (1536, 1536), "1.5B down": (1536, 8960), "1.5B head": (151936, 1536),
        "8B qkv": (6144, 4096), "8B o": (4096, 4096), "8B down": (4096, 14336),
    }  # fmt: skip
    for name, (n, k) in shapes.items():
        for rows in (1, 4, 8) if name in ("1.5B qkv", "8B down") else (1,):

            def make(n: int = n, k: int = k, rows: int = rows) -> tuple[Any, ...]:
                return randn(rows, k), randn(n, k, scale=k**-0.5)

            traffic = 2 * (n * k + rows * (n + k))
            cases.append(Case("gemv", f"{name} x{rows}", make, gemv.gemv, F.linear, traffic, compiled=rows == 1))
    for name, (n, k) in {"1.5B gate/up": (8960, 1536), "8B gate/up": (14336, 4096)}.items():
        for rows in (1, 4):

            def make_gated(n: int = n, k: int = k, rows: int = rows) -> tuple[Any, ...]:
                return randn(rows, k), randn(n, k, scale=k**-0.5), randn(n, k, scale=k**-0.5), randn(k)

            cases.append(
                Case(
                    "gemv_gated, norm", f"{name} x{rows}", make_gated, gemv.gemv_gated, gated_eager,
                    2 * (2 * n * k + rows * (n + k)), exact=gemv.gemv_gated_reference, compiled=rows == 1,
                )
            )  # fmt: skip
    return cases


def gated_eager(x: Any, gate: Any, up: Any, norm: Any) -> Any:
    hidden = F.rms_norm(x, (x.shape[-1],), norm, 1e-6)
    return F.silu(F.linear(hidden, gate)) * F.linear(hidden, up)


def merged_case() -> Case:
    sizes = (1536, 256, 256)

    def make() -> tuple[Any, ...]:
        weights = list(randn(sum(sizes), 1536, scale=1536**-0.5).split(sizes))
        return randn(1, 1536), weights, list(randn(sum(sizes)).split(sizes)), randn(1536)

    def eager(x: Any, weights: Any, biases: Any, norm: Any) -> Any:
        hidden = F.rms_norm(x, (x.shape[-1],), norm, 1e-6)
        return torch.cat([F.linear(hidden, w, b) for w, b in zip(weights, biases)], -1)

    return Case(
        "merged_linear, norm", "1.5B qkv x1", make, merged_linear.merged_linear, eager,
        2 * (2048 * 1536 + 2 * 1536 + 2 * 2048), exact=merged_linear.merged_linear_reference,
    )  # fmt: skip


# ---- attention over a cache


def decode_cases() -> list[Case]:
    cases = []
    for name, batch, heads, kv_heads, size in (("1.5B", 1, 12, 2, 128), ("8B", 1, 32, 8, 128), ("8B", 8, 32, 8, 128)):
        for length in (128, 1024, 8192):
            used = length * 3 // 4

            def make(b: int = batch, h: int = heads, g: int = kv_heads, n: int = length, d: int = size) -> Any:
                position = torch.tensor([n * 3 // 4 - 1], device=DEVICE)
                return randn(b, h, 1, d), randn(b, g, n, d), randn(b, g, n, d), position

            cases.append(
                Case(
                    "decode_attention", f"{name} x{batch} cache {length}", make, decode_attention.decode_attention,
                    decode_eager, 2 * 2 * batch * kv_heads * used * size, compiled=False,
                    exact=decode_attention.decode_attention_reference,
                    variants={
                        f"splits_{s}": lambda q, k, v, p, s=s: decode_attention.launch(q, k, v, p, None, 128**-0.5, s)
                        for s in ((1, 2, 4) if length == 128 else (4, 16, 32, 64)) if batch == 1
                    },
                )
            )  # fmt: skip
    return cases


def decode_eager(query: Any, keys: Any, values: Any, position: Any) -> Any:
    mask = (torch.arange(keys.shape[2], device=keys.device) <= position)[None, None, None, :]
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


# ---- norms


def norm_cases() -> list[Case]:
    cases = []
    for rows, size in ((4096, 1536), (4096, 4096), (1, 1536)):

        def make(rows: int = rows, size: int = size) -> tuple[Any, ...]:
            return randn(rows, size), randn(size)

        def make_add(rows: int = rows, size: int = size) -> tuple[Any, ...]:
            return randn(rows, size), randn(rows, size), randn(size)

        shape, n = f"{rows} x {size}", 2 * rows * size
        cases.append(Case("rms_norm", shape, make, rms_norm.rms_norm, norm_eager, 2 * n))
        if rows > 1:
            cases.append(Case("add_rms_norm", shape, make_add, rms_norm.add_rms_norm, add_norm_eager, 4 * n))
            cases.append(Case("rms_norm fwd+bwd", shape, make, rms_norm.rms_norm, norm_eager, 5 * n, grad=True))
            cases.append(
                Case("add_rms_norm fwd+bwd", shape, make_add, rms_norm.add_rms_norm, add_norm_eager, 8 * n, grad=True)
            )
    return cases


def norm_eager(x: Any, weight: Any) -> Any:
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def add_norm_eager(residual: Any, x: Any, weight: Any) -> Any:
    total = residual + x
    return total, norm_eager(total, weight)


# ---- block sizes of gemv


def sweep_gemv(deadline: float) -> list[dict[str, Any]]:
    """Times of the gemv kernel for block sizes and numbers of warps."""
    found = []
    shapes = [
        ("1.5B qkv", 2048, 1536, 1, False), ("1.5B gate/up", 8960, 1536, 1, True), ("1.5B down", 1536, 8960, 1, False),
        ("1.5B head", 151936, 1536, 1, False), ("8B gate/up", 14336, 4096, 1, True),
        ("1.5B down x4", 1536, 8960, 4, False),
    ]  # fmt: skip
    candidates = [
        (1, 512, 4), (1, 1024, 4), (2, 512, 4), (2, 1024, 4), (4, 512, 4), (4, 256, 4), (1, 2048, 4), (2, 2048, 8),
        (2, 512, 2), (4, 1024, 8), (8, 256, 4), (1, 1024, 8), (1, 512, 2), (16, 128, 4),
    ]  # fmt: skip
    for block_n, block_k, warps in candidates:
        for name, n, k, rows, gated in shapes:
            if time.perf_counter() > deadline:
                return found
            x = randn(rows, k)
            count = min(MOST_SETS, CACHES // (2 * n * k * (2 if gated else 1)) + 1)
            weights = [(randn(n, k), randn(n, k) if gated else None) for _ in range(count)]
            row: dict[str, Any] = {"shape": name, "block_n": block_n, "block_k": block_k, "warps": warps}
            try:
                act, blocks = "silu" if gated else "none", (block_n, block_k, warps)
                launch = functools.partial(gemv.launch, bias=None, residual=None, norm_weight=None, eps=1e-6)
                launch = functools.partial(launch, activation=act, blocks=blocks)
                calls = [functools.partial(launch, x, weight, up) for weight, up in weights]
                row["us"] = timed(calls, 10)
                row["tb_per_s"] = 2 * n * k * (2 if gated else 1) / row["us"] / 1e6
            except Exception as error:  # some sizes need more registers or memory than there are
                row["failed"] = f"{type(error).__name__}: {error}"[:200]
            found.append(row)
    return found


def all_cases() -> list[Case]:
    return [*linear_cases(), merged_case(), *decode_cases(), *norm_cases()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="gpu_kernels.json")
    parser.add_argument("--seconds", type=float, default=110.0, help="stop beginning new cases after this long")
    parser.add_argument("--only", default="", help="comma-separated beginnings of the names of cases")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-sweep", action="store_true", help="leave the block sizes of gemv out")
    options = parser.parse_args()
    deadline = time.perf_counter() + options.seconds
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "copy_bytes_per_second": bandwidth, "cases": [], "sweep": [], "left_out": [],
    }  # fmt: skip
    print(f"{report['device']}, torch {torch.__version__}, copy {bandwidth / 1e12:.2f} TB/s")
    wanted = tuple(name for name in options.only.split(",") if name)
    cases = [case for case in all_cases() if not wanted or case.name.startswith(wanted)]
    if not options.no_sweep and (not wanted or "gemv".startswith(wanted)):
        report["sweep"] = sweep_gemv(time.perf_counter() + 0.3 * options.seconds)
    for case in cases:
        left = deadline - time.perf_counter()
        if left < 0:
            report["left_out"].append(f"{case.name} {case.shape}")
            continue
        began = time.perf_counter()
        try:
            with torch.no_grad() if not case.grad else torch.enable_grad():
                row = measure(case, bandwidth, compile_peer=not options.no_compile and left > 0.25 * options.seconds)
        except Exception as error:  # one case that fails must not end the measurement
            row = {"name": case.name, "shape": case.shape, "failed": f"{type(error).__name__}: {error}"[:500]}
            row["traceback"] = traceback.format_exc()[-1500:]
        row["took_seconds"] = time.perf_counter() - began
        report["cases"].append(row)
        with open(options.output, "w") as file:
            json.dump(report, file, indent=1)
        torch.cuda.empty_cache()
    print_table(report)
    with open(options.output, "w") as file:
        json.dump(report, file, indent=1)


def print_table(report: dict[str, Any]) -> None:
    print(
        f"{'case':24}{'shape':24}{'error':>9}{'eager':>9}{'thunder us':>12}{'eager us':>10}{'compile':>10}{'share':>7}"
    )
    for row in report["cases"]:
        if "failed" in row:
            print(f"{row['name']:24}{row['shape']:24}  FAILED {row['failed'][:120]}")
            continue
        text = f"{row['name']:24}{row['shape']:24}{row.get('error', 0):9.1e}{row.get('eager_error', 0):9.1e}"
        for name, width in (("thunder", 12), ("eager", 10), ("compile", 10)):
            value = row.get(f"{name}_us")
            text += f"{value:{width}.2f}" if value is not None else f"{'-':>{width}}"
        print(text + f"{100 * row.get('share', 0):6.0f}%")
        others = {
            k[:-3]: v for k, v in row.items() if k.endswith("_us") and k[:-3] not in ("thunder", "eager", "compile")
        }
        if others:
            print("    " + "  ".join(f"{name} {value:.2f}" for name, value in others.items()))
        for key, value in row.items():
            if key.endswith("_failed"):
                print(f"    {key}: {value[:150]}")
    best: dict[str, list[dict[str, Any]]] = {}
    for row in report["sweep"]:
        if "us" in row:
            best.setdefault(row["shape"], []).append(row)
    for shape, rows in best.items():
        rows.sort(key=lambda row: row["us"])
        text = "  ".join(f"{r['block_n']}x{r['block_k']}w{r['warps']} {r['tb_per_s']:.2f}" for r in rows[:5])
        print(f"gemv {shape:16} TB/s: {text}")
    if report["left_out"]:
        print("left out for time:", ", ".join(report["left_out"]))


if __name__ == "__main__":
    main()
