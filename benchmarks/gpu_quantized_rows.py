"""Ways to divide the kernel for one row of a quantised layer, as a decoding step of the 1.5B configuration calls it.

    python benchmarks/gpu_quantized_rows.py --output rows.json [--formats int4,nvfp4,int8,fp8] [--seconds 90]

Four products of a layer (query, key and value with the norm before; the output with the residual; gate and up with the
norm and the activation; down with the residual), each in its bf16 form and in each format with every plan.  Values are
compared with the dequantised weights in float64.  Kernels are compiled by several processes first.  Printed: the best
plan of each product, its time, the part of the copy bandwidth and how often it fits into bf16's time; a token's sum.
"""

# ruff: noqa: B023  (what is timed is called within the loop that makes it)
from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from gpu_timing import copies_beyond_caches, copy_bandwidth, timed

from thunder.kernels import gemv as bf16_gemv
from thunder.kernels.capture import own_capture
from thunder.precision.formats import Quantized, dequantize, get_format, quantize
from thunder.precision.kernels import gemv
from thunder.precision.kernels.gemv import Plan, Weight

BF16 = torch.bfloat16
HIDDEN, INNER, LAYERS = 1536, 8960, 28
PROCESSES = 16


@dataclass(frozen=True)
class Product:
    """One launch of a layer: outputs of each weight, inputs, what stands around."""

    name: str
    sizes: tuple[int, ...]
    k: int
    has_norm: bool = False
    has_residual: bool = False
    activation: str = "none"
    has_bias: bool = False


PRODUCTS = (
    Product("qkv", (1536, 256, 256), HIDDEN, has_norm=True, has_bias=True),
    Product("output", (HIDDEN,), HIDDEN, has_residual=True),
    Product("gate and up", (INNER, INNER), HIDDEN, has_norm=True, activation="silu"),
    Product("down", (HIDDEN,), INNER, has_residual=True),
)


def plans_for(product: Product, bits: int) -> list[Plan]:
    """What is tried."""
    wide = 2 if bits == 8 else 1
    if product.k > 4096:
        shapes = ((2, 512, 4), (4, 512, 4), (8, 512, 4), (4, 256, 2), (8, 256, 2), (4, 128, 1), (8, 128, 1),
                  (4, 1024, 8), (2, 256, 2))  # fmt: skip
        return [Plan(rows, words * wide, warps * wide if words < 1024 else 8) for rows, words, warps in shapes]
    if product.activation != "none":
        shapes = ((2, 64, 1), (4, 64, 1), (8, 64, 1), (8, 64, 2), (16, 64, 2), (2, 256, 2), (4, 256, 2), (8, 256, 4))
    else:
        shapes = ((2, 64, 1), (4, 64, 1), (8, 64, 1), (16, 64, 1), (8, 64, 2), (2, 256, 2), (4, 256, 2), (8, 256, 2))
    return [Plan(rows, words * wide, warps) for rows, words, warps in shapes]


def stored_sets(product: Product, format: str, count: int = 0) -> tuple[list[Quantized], list[list[Weight]]]:
    """The weights of a product, and `count` sets of them, by default as many as no cache holds."""
    torch.manual_seed(0)
    stored = [quantize(torch.randn(n, product.k, device="cuda", dtype=BF16) / product.k**0.5, format)
              for n in product.sizes]  # fmt: skip
    first = [
        Weight(s.codes, s.scales, s.zeros, s.tensor_scale,
               torch.randn(n, device="cuda", dtype=BF16) if product.has_bias else None)
        for s, n in zip(stored, product.sizes)
    ]  # fmt: skip
    others = (count or copies_beyond_caches(sum(s.nbytes for s in stored))) - 1
    clones = [[Weight(*(None if p is None else p.clone() for p in vars(w).values())) for w in first]
              for _ in range(others)]  # fmt: skip
    return stored, [first, *clones]


def around(product: Product) -> tuple[torch.Tensor, dict[str, Any]]:
    """x, and the rest of the arguments."""
    torch.manual_seed(1)
    x = torch.randn(1, product.k, device="cuda", dtype=BF16)
    return x, {
        "residual": torch.randn(1, product.sizes[0], device="cuda", dtype=BF16) if product.has_residual else None,
        "norm_weight": torch.randn(product.k, device="cuda", dtype=BF16) if product.has_norm else None,
        "eps": 1e-6,
        "activation": product.activation,
    }


def exact(
    product: Product, x: torch.Tensor, rest: dict[str, Any], stored: list[Quantized], weights: list[Weight]
) -> Any:
    """The result in float64."""
    h = x.double()
    if product.has_norm:
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + rest["eps"]) * rest["norm_weight"].double()
    outs = [h @ dequantize(s, torch.float64).t() + (0 if w.bias is None else w.bias.double())
            for s, w in zip(stored, weights)]  # fmt: skip
    if product.activation != "none":
        return torch.nn.functional.silu(outs[0]) * outs[1]
    out = torch.cat(outs, -1)
    return out + rest["residual"].double() if product.has_residual else out


def bf16_time(product: Product) -> float:
    """Microseconds of the bf16 kernel."""
    x, rest = around(product)
    gated = product.activation != "none"
    n, k = (product.sizes[0] if gated else sum(product.sizes)), product.k
    sets = [[torch.randn(n, k, device="cuda", dtype=BF16) for _ in range(1 + gated)]
            for _ in range(copies_beyond_caches(2 * n * k * (1 + gated)))]  # fmt: skip
    bias = torch.randn(n, device="cuda", dtype=BF16) if product.has_bias else None
    names = ("residual", "norm_weight", "eps", "activation")
    tail = [rest[name] for name in names]
    with own_capture():
        return timed(
            [lambda s=s: bf16_gemv.launch(x, s[0], s[1] if gated else None, bias, *tail, ahead=True) for s in sets]
        )


def compile_kernels(formats: list[str], deadline: float) -> None:
    """Compiles all kernels by launching each once: several at a time, as a launch waits for processes that compile."""
    jobs = [(product, format, plan) for format in formats for product in PRODUCTS
            for plan in plans_for(product, get_format(format).bits)]  # fmt: skip
    sets: dict[tuple[Product, str], list[Weight]] = {}
    for product, format, _ in jobs:
        if (product, format) not in sets:
            sets[product, format] = stored_sets(product, format, 1)[1][0]

    def launch_once(job: tuple[Product, str, Plan]) -> None:
        product, format, plan = job
        x, rest = around(product)
        with own_capture(), torch.no_grad():
            gemv.launch(x, sets[product, format], str(get_format(format)), plan, ahead=True, **rest)

    pool = ThreadPoolExecutor(PROCESSES)
    launches = [pool.submit(launch_once, job) for job in jobs]
    wait(launches, timeout=max(1.0, deadline - time.perf_counter() - 30))
    pool.shutdown(wait=False, cancel_futures=True)
    failed = [str(one.exception())[:300] for one in launches if one.done() and not one.cancelled() and one.exception()]
    print(f"{len(jobs)} kernels, {sum(one.done() for one in launches)} launched", *failed[:3], flush=True)
    torch.cuda.synchronize()


def sweep(formats: list[str], deadline: float) -> dict[str, Any]:
    """All figures."""
    bandwidth = copy_bandwidth()
    report: dict[str, Any] = {"copy_bytes_per_second": bandwidth, "bf16_us": {}, "formats": {}}
    for product in PRODUCTS:
        report["bf16_us"][product.name] = bf16_time(product)
    print("bf16", {name: round(us, 2) for name, us in report["bf16_us"].items()}, flush=True)
    for format in formats:
        found: dict[str, Any] = {}
        report["formats"][format] = found
        for product in PRODUCTS:
            stored, sets = stored_sets(product, format)
            x, rest = around(product)
            reference = exact(product, x, rest, stored, sets[0])
            nbytes = sum(s.nbytes for s in stored)
            row = found[product.name] = {"bytes": nbytes, "plans": {}}
            text = str(get_format(format))
            for plan in plans_for(product, get_format(format).bits):
                if time.perf_counter() > deadline:
                    print("out of time")
                    return report
                try:
                    with own_capture():
                        out = gemv.launch(x, sets[0], text, plan, ahead=True, **rest)
                        error = float((out.double() - reference).norm() / reference.norm())
                        us = timed([lambda s=s, plan=plan: gemv.launch(x, s, text, plan, ahead=True, **rest)
                                    for s in sets], 7)  # fmt: skip
                    row["plans"][str(plan)] = {"us": us, "share": nbytes / us / 1e-6 / bandwidth, "error": error}
                except Exception as error:  # one plan must not hide the others
                    row["plans"][str(plan)] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            show(format, product, row, report["bf16_us"][product.name])
        token = sum(best(found[p.name])["us"] for p in PRODUCTS) * LAYERS
        plain = sum(report["bf16_us"].values()) * LAYERS
        print(f"{format}: {token:.0f} us a token, bf16 {plain:.0f}: {plain / token:.2f} times", flush=True)
    return report


def best(row: dict[str, Any]) -> dict[str, Any]:
    """The fastest plan's figures."""
    return min((p for p in row["plans"].values() if "us" in p), key=lambda p: p["us"], default={"us": float("nan")})


def show(format: str, product: Product, row: dict[str, Any], bf16_us: float) -> None:
    """Prints a product's plans, the fastest first."""
    ordered = sorted(row["plans"].items(), key=lambda item: item[1].get("us", 1e9))
    for plan, figures in ordered[:3]:
        if "failed" in figures:
            print(f"  {format} {product.name} {plan}: {figures['failed']}")
            continue
        print(f"  {format} {product.name} {plan}: {figures['us']:.2f} us, {figures['share']:.0%} of a copy, "
              f"{bf16_us / figures['us']:.2f} times bf16, error {figures['error']:.1e}", flush=True)  # fmt: skip
    wrong = {plan: figures["error"] for plan, figures in ordered if figures.get("error", 0.0) > 1e-2}
    failed = [figures["failed"] for _, figures in ordered if "failed" in figures]
    if wrong or failed:
        print(f"  WRONG {wrong} {failed[:2]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="gpu_quantized_rows.json")
    parser.add_argument("--formats", default="int4,int8,nvfp4,fp8")
    parser.add_argument("--seconds", type=float, default=90)
    arguments = parser.parse_args()
    formats = arguments.formats.split(",")
    deadline = time.perf_counter() + arguments.seconds
    compile_kernels(formats, deadline)
    print(f"compiled, {deadline - time.perf_counter():.0f} s left", flush=True)
    with torch.no_grad():
        report = sweep(formats, deadline)
    report["device"] = torch.cuda.get_device_name()
    with open(arguments.output, "w") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
