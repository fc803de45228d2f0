"""A decoding step's layers in a CUDA graph, as thunder makes it of the 1.5B configuration, with quantised weights.

    python benchmarks/gpu_quantized_layers.py --output layers.json [--formats int4,int8,nvfp4,fp8] [--seconds 80]

Each layer is four products (`gpu_quantized_rows.PRODUCTS`), the rotation of queries and keys into the cache, and the
attention.  Unlike a product by itself, a launch begins here while another kernel ends, and nothing is in a cache of
instructions or weights.  Plans are tried for one product after the other, in the chain; printed are microseconds of a
step's layers (without embedding and head), beside bf16's in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import torch
from gpu_quantized_rows import BF16, HIDDEN, LAYERS, PROCESSES, PRODUCTS, around, stored_sets
from gpu_timing import median_of

from thunder.kernels import decode_attention, rope
from thunder.kernels import gemv as bf16_gemv
from thunder.kernels.capture import own_capture
from thunder.precision.formats import get_format
from thunder.precision.kernels import gemv
from thunder.precision.kernels.decode import describe
from thunder.precision.kernels.gemv import Plan

HEADS, KV_HEADS, SIZE, LENGTH = 12, 2, 128, 256
CANDIDATES = {
    "qkv": ((8, 256, 2), (8, 64, 1)),
    "output": ((8, 256, 2), (8, 64, 1)),
    "gate and up": ((8, 64, 1), (8, 128, 2)),
    "down": ((8, 512, 4), (4, 1024, 8), (8, 1024, 8)),
}
"""Rows, words (of 8 codes) a step, warps."""
CHANGES: tuple[dict[str, bool], ...] = ({"lets_in": False},)
"""Of all plans together."""


def candidates(name: str, bits: int) -> list[Plan]:
    wide = 2 if bits == 8 else 1
    return [Plan(rows, words * wide, min(8, warps * (wide if name == "down" else 1)))
            for rows, words, warps in CANDIDATES[name]]  # fmt: skip


class Layers:
    """The layers of a step, with the weights of a format, or bf16 without one."""

    def __init__(self, format: str | None) -> None:
        self.format = None if format is None else str(get_format(format))
        self.products = {}
        for product in PRODUCTS:
            x, rest = around(product)
            if format is not None:
                sets: list[Any] = stored_sets(product, format, LAYERS)[1]
            else:
                parts = 2 if product.activation != "none" else 1
                n = sum(product.sizes) // parts
                sets = [[torch.randn(n, product.k, device="cuda", dtype=BF16) / product.k**0.5 for _ in range(parts)]
                        for _ in range(LAYERS)]  # fmt: skip
            norms = [torch.randn_like(rest["norm_weight"]) if product.has_norm else None for _ in range(LAYERS)]
            self.products[product.name] = (product, sets, norms)
        self.bias = torch.randn(sum(PRODUCTS[0].sizes), device="cuda", dtype=BF16)
        self.x = torch.randn(1, HIDDEN, device="cuda", dtype=BF16)
        self.tables = [torch.randn(1, 1, 1, SIZE, device="cuda", dtype=BF16) for _ in range(2)]
        self.caches = [[torch.randn(1, KV_HEADS, LENGTH, SIZE, device="cuda", dtype=BF16) for _ in range(2)]
                       for _ in range(LAYERS)]  # fmt: skip
        self.place = torch.full((1,), 60, dtype=torch.int64, device="cuda")

    def multiply(self, name: str, layer: int, x: Any, residual: Any, plan: Plan | None) -> torch.Tensor:
        product, sets, norms = self.products[name]
        if self.format is not None:
            return gemv.launch(x, sets[layer], self.format, plan, residual=residual, norm_weight=norms[layer], eps=1e-6,
                               activation=product.activation, ahead=True)  # fmt: skip
        weight, up = (*sets[layer], None)[:2]
        bias = self.bias if product.has_bias else None
        return bf16_gemv.launch(x, weight, up, bias, residual, norms[layer], 1e-6, product.activation, ahead=True)

    def step(self, plans: dict[str, Plan | None]) -> torch.Tensor:
        hidden = self.x
        for layer in range(LAYERS):
            joined = self.multiply("qkv", layer, hidden, None, plans.get("qkv"))
            q, k, v = (part.view(1, -1, 1, SIZE) for part in joined.split(PRODUCTS[0].sizes, 1))
            keys, values = self.caches[layer]
            q = rope._launch_into_cache(q, k, v, *self.tables, keys, values, self.place)
            mixed = decode_attention.launch(q, keys, values, self.place, None, SIZE**-0.5)
            mixed = mixed.view(1, HIDDEN)
            hidden = self.multiply("output", layer, mixed, hidden, plans.get("output"))
            inner = self.multiply("gate and up", layer, hidden, None, plans.get("gate and up"))
            hidden = self.multiply("down", layer, inner, hidden, plans.get("down"))
        return hidden

    def time(self, plans: dict[str, Plan | None]) -> float:
        """Microseconds of a step."""
        with own_capture():
            self.step(plans)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step(plans)
        graph.replay()
        return median_of(graph.replay, 15)


def start_of(format: str) -> dict[str, Plan]:
    """The plans that the library chooses."""
    found = {}
    for product in PRODUCTS:
        parsed = get_format(format)
        described = describe(str(parsed), product.k)
        n = product.sizes[0] if product.activation != "none" else sum(product.sizes)
        per, multiply = gemv.words_at_once(described), gemv.multiplied_as(parsed, BF16)
        found[product.name] = gemv.choose_plan(n, product.k, described.bits, per, multiply)
    return found


def compile_kernels(layers: dict[str, Layers], deadline: float) -> None:
    """Launches every product with every plan once, several at a time: a launch waits for a process that compiles."""
    jobs = []
    for format, made in layers.items():
        bits = get_format(format).bits
        for name, plan in start_of(format).items():
            jobs += [(made, name, one) for one in {plan, *(replace(plan, **change) for change in CHANGES)}]
            for one in candidates(name, bits):
                jobs += [(made, name, one), (made, name, replace(one, **CHANGES[0]))]

    def launch_once(job: tuple[Layers, str, Plan]) -> None:
        made, name, plan = job
        product = made.products[name][0]
        x, rest = around(product)
        with own_capture(), torch.no_grad():
            made.multiply(name, 0, x, rest["residual"], plan)

    pool = ThreadPoolExecutor(PROCESSES)
    launches = [pool.submit(launch_once, job) for job in jobs]
    wait(launches, timeout=max(1.0, deadline - time.perf_counter() - 15))
    pool.shutdown(wait=False, cancel_futures=True)
    failed = [str(one.exception())[:300] for one in launches if one.done() and not one.cancelled() and one.exception()]
    print(f"{len(jobs)} kernels, {sum(one.done() for one in launches)} launched", *failed[:3], flush=True)
    torch.cuda.synchronize()


def search(format: str, layers: Layers, deadline: float) -> dict[str, Any]:
    """Tries plans for one product after the other."""
    plans: dict[str, Plan | None] = dict(start_of(format))
    best = start = layers.time(plans)
    best_change: dict[str, bool] = {}
    tried: dict[str, float] = {"as chosen": start}
    for change in CHANGES:
        changed = {name: replace(plan, **change) for name, plan in plans.items() if plan is not None}
        us = tried[f"as chosen, {change}"] = layers.time(changed)
        if us < best:
            best, best_change = us, change
    plans = {name: replace(plan, **best_change) for name, plan in plans.items() if plan is not None}
    print(f"  {format}: {tried}", flush=True)
    for name in ("gate and up", "down", "qkv", "output"):
        for plan in candidates(name, get_format(format).bits):
            plan = replace(plan, **best_change)
            if plan == plans[name] or time.perf_counter() > deadline:
                continue
            us = tried[f"{name} {plan}"] = layers.time({**plans, name: plan})
            if us < best:
                best, plans = us, {**plans, name: plan}
        print(f"  {format} {name}: {plans[name]}, {best:.0f} us", flush=True)
    return {"us": best, "start_us": start, "tried": tried,
            "plans": {name: str(plan) for name, plan in plans.items()}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="gpu_quantized_layers.json")
    parser.add_argument("--formats", default="int4,int8,nvfp4,fp8")
    parser.add_argument("--seconds", type=float, default=80)
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "formats": {}}
    with torch.no_grad():
        layers = {format: Layers(format) for format in arguments.formats.split(",")}
        compile_kernels(layers, deadline)
        report["bf16_us"] = Layers(None).time({})
        print(f"bf16: {report['bf16_us']:.0f} us; {deadline - time.perf_counter():.0f} s left", flush=True)
        for format, made in layers.items():
            found = report["formats"][format] = search(format, made, deadline)
            found["times_bf16"] = report["bf16_us"] / found["us"]
            print(f"{format}: {found['us']:.0f} us, {found['times_bf16']:.2f} times bf16", flush=True)
    with open(arguments.output, "w") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
