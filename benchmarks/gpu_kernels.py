"""Values and times of the kernel library on one GPU, beside eager PyTorch and torch.compile.

    python benchmarks/gpu_kernels.py --output kernels.json [--seconds 110] [--only gemv,rope] [--no-compile]

Every case is computed once for its values, whose error ||out - ref|| / ||ref|| is against PyTorch in float64, and then
timed: a CUDA graph runs it on several sets of inputs, together larger than the caches; the time is the median of the
graph's replays divided by the number of sets.  `share` is the least traffic that the case needs, over the time, as a
part of the copy bandwidth that was measured in the same run.  A case that fails gives its error in place of figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from gpu_timing import CACHES, copy_bandwidth, timed
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from thunder.kernels import (
    cross_entropy,
    decode_attention,
    embedding,
    gemv,
    layer_norm,
    linear_cross_entropy,
    merged_linear,
    rms_norm,
    rope,
    swiglu,
)

BF16 = torch.bfloat16
DEVICE = torch.device("cuda")
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
        compiled: whether torch.compile is timed as well.
        check: whether errors are computed.
        memory: whether the peak of memory beyond the arguments is noted.
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
    memory: bool = False
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
            if case.memory:
                result[f"{name}_peak_mib"] = peak_memory(call_of(function, arguments, case.grad))
        except Exception as error:  # a peer, or a variant, that does not run must not end the measurement
            result[f"{name}_failed"] = f"{type(error).__name__}: {error}"[:300]
            torch.cuda.synchronize()
    if "thunder_us" in result:
        result["share"] = case.traffic / (result["thunder_us"] * 1e-6) / bandwidth
    return result


def peak_memory(call: Callable[[], Any]) -> float:
    """MiB that a call takes at most, beyond what was there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / (1 << 20)


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
        for rows in (1, 2) if name in ("1.5B qkv", "8B down") else (1,):

            def make(n: int = n, k: int = k, rows: int = rows) -> tuple[Any, ...]:
                return randn(rows, k), randn(n, k, scale=k**-0.5)

            traffic = 2 * (n * k + rows * (n + k))
            cases.append(Case("gemv", f"{name} x{rows}", make, gemv.gemv, F.linear, traffic, compiled=False))
    for name, (n, k) in {"1.5B gate/up": (8960, 1536), "8B gate/up": (14336, 4096)}.items():
        for rows in (1, 2):

            def make_gated(n: int = n, k: int = k, rows: int = rows) -> tuple[Any, ...]:
                return randn(rows, k), randn(n, k, scale=k**-0.5), randn(n, k, scale=k**-0.5), randn(k)

            cases.append(
                Case(
                    "gemv_gated, norm", f"{name} x{rows}", make_gated, gemv.gemv_gated, gated_eager,
                    2 * (2 * n * k + rows * (n + k)), exact=gemv.gemv_gated_reference, compiled=False,
                    variants={
                        f"resident {b}w{w}x{r}{'e' if early else ''}": functools.partial(
                            gated_with_plan, plan=gemv.Plan(b, 0, w, r, early)
                        )
                        for b, w, r in ((1, 2, 8), (1, 2, 16), (2, 2, 8), (2, 4, 8)) for early in (True, False)
                        if rows == 1
                    },
                )
            )  # fmt: skip
    return cases


def gated_with_plan(x: Any, gate: Any, up: Any, norm: Any, plan: gemv.Plan) -> Any:
    return gemv.launch(x, gate, up, None, None, norm, 1e-6, "silu", plan=plan)


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


# ---- training


def loss_cases() -> list[Case]:
    rows, vocabulary, size = 4096, 151936, 1536
    n = rows * vocabulary

    def make_logits() -> tuple[Any, ...]:
        return randn(rows, vocabulary), torch.randint(0, vocabulary, (rows,), device=DEVICE)

    def make_hidden() -> tuple[Any, ...]:
        hidden, weight = randn(rows, size), randn(vocabulary, size, scale=size**-0.5)
        return hidden, weight, torch.randint(0, vocabulary, (rows,), device=DEVICE)

    def loss(logits: Any, target: Any) -> Any:
        return cross_entropy.cross_entropy(logits, target)[0]

    def eager(logits: Any, target: Any) -> Any:
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), target)

    def in_chunks(hidden: Any, weight: Any, target: Any) -> Any:
        return linear_cross_entropy.linear_cross_entropy(hidden, weight, target)[0]

    def with_logits(hidden: Any, weight: Any, target: Any) -> Any:
        return linear_cross_entropy.linear_cross_entropy_with_logits(hidden, weight, target)[1]

    def eager_linear(hidden: Any, weight: Any, target: Any) -> Any:
        return eager(F.linear(hidden, weight), target)

    shape = f"{rows} x {vocabulary}"
    traffic = 2 * (rows * size * 2 + vocabulary * size * 2)
    return [
        Case("linear+CE fwd+bwd", shape, make_hidden, in_chunks, eager_linear, traffic, grad=True, memory=True,
             variants={"with_logits": with_logits}),
        Case("cross_entropy", shape, make_logits, loss, eager, 2 * n),
        Case("cross_entropy fwd+bwd", shape, make_logits, loss, eager, 6 * n, grad=True),
    ]  # fmt: skip


def pointwise_cases() -> list[Case]:
    def make_gates(rows: int, size: int) -> tuple[Any, ...]:
        return randn(rows, size), randn(rows, size)

    def make_heads(heads: int, length: int) -> tuple[Any, ...]:
        return randn(2, length, heads, 128).transpose(1, 2), *randn(2, 1, 1, length, 128)

    cases = []
    for rows, size in ((4096, 8960), (8192, 14336)):
        make, n = functools.partial(make_gates, rows, size), 2 * rows * size
        cases.append(Case("swiglu", f"{rows} x {size}", make, swiglu.gated_activation, swiglu_eager, 3 * n))
        cases.append(
            Case("swiglu fwd+bwd", f"{rows} x {size}", make, swiglu.gated_activation, swiglu_eager, 8 * n, grad=True)
        )
    make, n = functools.partial(make_heads, 12, 2048), 2 * 2 * 12 * 2048 * 128
    cases.append(Case("rope", "2 x 2048, 12 heads", make, rope.rope, rope_eager, 2 * n))
    return cases


def swiglu_eager(gate: Any, up: Any) -> Any:
    return F.silu(gate) * up


def rope_eager(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def cache_case() -> Case:
    def make() -> tuple[Any, ...]:
        q, k, v = (randn(1, 1, heads, 128).transpose(1, 2) for heads in (12, 2, 2))
        tables = randn(2, 1, 1, 1, 128)
        return q, k, v, *tables, randn(1, 2, 256, 128), randn(1, 2, 256, 128), torch.tensor([17], device=DEVICE)

    def eager(q: Any, k: Any, v: Any, cos: Any, sin: Any, keys: Any, values: Any, index: Any) -> Any:
        keys.index_copy_(2, index, rope_eager(k, cos, sin))
        values.index_copy_(2, index, v)
        return rope_eager(q, cos, sin)

    def split(q: Any, k: Any, v: Any, cos: Any, sin: Any, keys: Any, values: Any, index: Any) -> Any:
        keys.index_copy_(2, index, rope.rope(k, cos, sin))
        values.index_copy_(2, index, v)
        return rope.rope(q, cos, sin)

    return Case(
        "rope_into_cache", "1.5B x1", make, rope.rope_into_cache, eager, 2 * 128 * 36, compiled=False,
        variants={"rope, index_copy_": split},
    )  # fmt: skip


def other_norm_cases() -> list[Case]:
    def make() -> tuple[Any, ...]:
        return randn(16384, 1024), randn(16384, 1024), randn(1024), randn(1024)

    def eager(residual: Any, x: Any, weight: Any, bias: Any) -> Any:
        total = residual + x
        return total, F.layer_norm(total, (x.shape[-1],), weight, bias)

    n = 2 * 16384 * 1024
    kernel = layer_norm.add_layer_norm
    return [
        Case("add_layer_norm", "16384 x 1024", make, kernel, eager, 4 * n),
        Case("add_layer_norm fwd+bwd", "16384 x 1024", make, kernel, eager, 8 * n, grad=True),
    ]


def embedding_case() -> Case:
    def make() -> tuple[Any, ...]:
        return torch.randint(0, 151936, (2, 2048), device=DEVICE), randn(4096, 1536)

    def backward(ids: Any, grad: Any) -> Any:
        return embedding.embedding_backward(grad.view(2, 2048, 1536), ids, 151936, -1)

    def eager(ids: Any, grad: Any) -> Any:
        return torch.ops.aten.embedding_dense_backward(grad.view(2, 2048, 1536), ids, 151936, -1, False)

    return Case("embedding gradient", "4096 of 151936 x 1536", make, backward, eager, 2 * 1536 * 151936, compiled=False)


def attention_cases() -> list[Case]:
    """PyTorch's back ends beside each other; "thunder" is the one that PyTorch takes by itself."""
    cases = []
    shapes = {
        "1.5B 2 x 2048": (2, 12, 2, 2048, 128, True), "8B 1 x 2048": (1, 32, 8, 2048, 128, True),
        "BERT 32 x 512": (32, 16, 16, 512, 64, False), "ViT 128 x 197": (128, 12, 12, 197, 64, False),
    }  # fmt: skip
    for name, (batch, heads, kv_heads, length, size, causal) in shapes.items():

        def make(b: int = batch, h: int = heads, g: int = kv_heads, n: int = length, d: int = size) -> Any:
            return tuple(randn(b, n, count, d).transpose(1, 2) for count in (h, g, g))

        def attention(q: Any, k: Any, v: Any, causal: bool = causal, gqa: bool = heads != kv_heads) -> Any:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)

        backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
        backends["efficient"] = SDPBackend.EFFICIENT_ATTENTION
        variants = {key: functools.partial(with_backend, attention, backend) for key, backend in backends.items()}
        traffic = 2 * batch * length * size * (2 * heads + 2 * kv_heads)
        for grad in (False, True):
            cases.append(
                Case(
                    "attention fwd+bwd" if grad else "attention", name, make, attention, attention, traffic,
                    grad=grad, compiled=False, check=False, variants=variants,
                )
            )  # fmt: skip
    return cases


def with_backend(attention: Any, backend: Any, *arguments: Any) -> Any:
    with sdpa_kernel([backend]):
        return attention(*arguments)


# ---- block sizes of gemv


def sweep_gemv(deadline: float) -> list[dict[str, Any]]:
    """Times of the gemv kernel for block sizes and numbers of warps."""
    found = []
    shapes = [
        ("1.5B qkv", 2048, 1536, 1, False), ("1.5B gate/up", 8960, 1536, 1, True), ("1.5B down", 1536, 8960, 1, False),
        ("1.5B head", 151936, 1536, 1, False), ("8B gate/up", 14336, 4096, 1, True),
        ("1.5B o", 1536, 1536, 1, False), ("8B down", 4096, 14336, 1, False),
    ]  # fmt: skip
    candidates = [
        gemv.Plan(n, 0, warps, programs, early)
        for n, warps in ((1, 2), (2, 2), (1, 1), (2, 4), (4, 4), (2, 1), (1, 4))
        for programs in (8, 1 << 16)
        for early in (True, False)
    ]
    walking = [(1, 512, 2), (2, 512, 2), (1, 1024, 4), (1, 256, 1), (4, 512, 4), (1, 2048, 4), (2, 2048, 8)]
    candidates[8:8] = [gemv.Plan(*sizes) for sizes in walking[:3]]
    candidates += [gemv.Plan(*sizes) for sizes in walking[3:]]
    for plan in candidates:
        for name, n, k, rows, gated in shapes:
            if plan.resident and (k > gemv.LONGEST_RESIDENT or rows > 1):
                continue
            if time.perf_counter() > deadline:
                return found
            x = randn(rows, k)
            count = min(MOST_SETS, CACHES // (2 * n * k * (2 if gated else 1)) + 1)
            weights = [(randn(n, k), randn(n, k) if gated else None) for _ in range(count)]
            row: dict[str, Any] = {"shape": name, **dataclasses.asdict(plan)}
            try:
                act = "silu" if gated else "none"
                launch = functools.partial(gemv.launch, bias=None, residual=None, norm_weight=None, eps=1e-6)
                launch = functools.partial(launch, activation=act, plan=plan)
                calls = [functools.partial(launch, x, weight, up) for weight, up in weights]
                row["us"] = timed(calls, 10)
                row["tb_per_s"] = 2 * n * k * (2 if gated else 1) / row["us"] / 1e6
            except Exception as error:  # some sizes need more registers or memory than there are
                row["failed"] = f"{type(error).__name__}: {error}"[:200]
            found.append(row)
    return found


def all_cases() -> list[Case]:
    return [
        *loss_cases(), *linear_cases(), merged_case(), cache_case(), embedding_case(), *attention_cases(),
        *pointwise_cases(), *other_norm_cases(), *decode_cases(), *norm_cases(),
    ]  # fmt: skip


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
        report["sweep"] = sweep_gemv(time.perf_counter() + 0.32 * options.seconds)
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
        peaks = {key: value for key, value in row.items() if key.endswith("_peak_mib")}
        if peaks:
            print("    " + "  ".join(f"{key} {value:.0f}" for key, value in peaks.items()))
    best: dict[str, list[dict[str, Any]]] = {}
    for row in report["sweep"]:
        if "us" in row:
            best.setdefault(row["shape"], []).append(row)
    for shape, rows in best.items():
        rows.sort(key=lambda row: row["us"])
        text = "  ".join(
            f"{r['block_n']}x{r['block_k']}w{r['warps']}r{min(r['resident'], 99)}{'e' * r['early']} {r['tb_per_s']:.2f}"
            for r in rows[:8]
        )
        print(f"gemv {shape:16} TB/s: {text}")
    if report["left_out"]:
        print("left out for time:", ", ".join(report["left_out"]))


if __name__ == "__main__":
    main()
