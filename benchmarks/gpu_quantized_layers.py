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
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from gpu_quantized_rows import BF16, HIDDEN, LAYERS, PROCESSES, PRODUCTS, around, exact, stored_sets
from gpu_timing import median_of

from thunder.kernels import decode_attention, rope
from thunder.kernels import gemv as bf16_gemv
from thunder.kernels.capture import own_capture
from thunder.precision.formats import get_format
from thunder.precision.kernels import gemv, gemv_shared
from thunder.precision.kernels.decode import describe
from thunder.precision.kernels.gemv import Plan

HEADS, KV_HEADS, SIZE, LENGTH = 12, 2, 128, 256
CANDIDATES = {
    "qkv": ((8, 64, 1), (8, 256, 2), (4, 256, 2), (4, 64, 1)),
    "output": ((8, 256, 2), (4, 256, 2), (8, 64, 1), (4, 64, 1)),
    "gate and up": ((8, 64, 1), (16, 64, 1), (4, 64, 1), (8, 128, 2), (4, 256, 2)),
    "down": ((4, 1024, 8), (4, 512, 4), (8, 256, 2), (4, 256, 2), (8, 1024, 8), (2, 512, 4)),
}
"""Rows, words (of 8 codes) a step, warps."""
KERNELS = {"apart": gemv, "shared": gemv_shared}


@dataclass(frozen=True)
class Way:
    """A kernel and how it is divided."""

    kernel: str
    plan: Plan


def candidates(name: str, format: str) -> list[Way]:
    bits = get_format(format).bits
    wide = 2 if bits == 8 else 1
    plans = [Plan(rows, words * wide, min(8, warps * (wide if name == "down" else 1)))
             for rows, words, warps in CANDIDATES[name]]  # fmt: skip
    # What was chosen before the plans of the first search.
    before = Plan(4, 512, 8 if format == "nvfp4" else 4) if name == "down" or bits == 8 else Plan(4, 256, 4)
    return [Way("apart", before), *(Way("shared", plan) for plan in plans)]


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
        self.joined = torch.randn(1, sum(PRODUCTS[0].sizes), device="cuda", dtype=BF16)
        self.inner = torch.randn(1, PRODUCTS[3].k, device="cuda", dtype=BF16)
        self.x = torch.randn(1, HIDDEN, device="cuda", dtype=BF16)
        self.tables = [torch.randn(1, 1, 1, SIZE, device="cuda", dtype=BF16) for _ in range(2)]
        self.caches = [[torch.randn(1, KV_HEADS, LENGTH, SIZE, device="cuda", dtype=BF16) for _ in range(2)]
                       for _ in range(LAYERS)]  # fmt: skip
        self.place = torch.full((1,), 60, dtype=torch.int64, device="cuda")

    def multiply(self, name: str, layer: int, x: Any, residual: Any, way: Way | None) -> torch.Tensor:
        product, sets, norms = self.products[name]
        if self.format is not None:
            launch, plan = (gemv.launch, None) if way is None else (KERNELS[way.kernel].launch, way.plan)
            return launch(x, sets[layer], self.format, plan, residual=residual, norm_weight=norms[layer], eps=1e-6,
                          activation=product.activation, ahead=True)  # fmt: skip
        weight, up = (*sets[layer], None)[:2]
        bias = self.bias if product.has_bias else None
        return bf16_gemv.launch(x, weight, up, bias, residual, norms[layer], 1e-6, product.activation, ahead=True)

    def step(self, ways: Mapping[str, Way], without: str = "") -> torch.Tensor:
        """The layers one after the other; `without`: a product that is left out, to see what it takes."""
        hidden, joined = self.x, self.joined
        for layer in range(LAYERS):
            if without != "qkv":
                joined = self.multiply("qkv", layer, hidden, None, ways.get("qkv"))
            q, k, v = (part.view(1, -1, 1, SIZE) for part in joined.split(PRODUCTS[0].sizes, 1))
            keys, values = self.caches[layer]
            mixed = q
            if without != "attention":
                q = rope._launch_into_cache(q, k, v, *self.tables, keys, values, self.place)
                mixed = decode_attention.launch(q, keys, values, self.place, None, SIZE**-0.5)
            mixed = mixed.view(1, HIDDEN)
            if without != "output":
                hidden = self.multiply("output", layer, mixed, hidden, ways.get("output"))
            inner = self.inner
            if without != "gate and up":
                inner = self.multiply("gate and up", layer, hidden, None, ways.get("gate and up"))
            if without != "down":
                hidden = self.multiply("down", layer, inner, hidden, ways.get("down"))
        return hidden

    def time(self, ways: Mapping[str, Way], without: str = "") -> float:
        """Microseconds of a step."""
        with own_capture():
            self.step(ways, without)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step(ways, without)
        graph.replay()
        return median_of(graph.replay, 15)

    def parts(self, ways: Mapping[str, Way]) -> dict[str, float]:
        """Microseconds by which a step is shorter without each of its parts."""
        whole = self.time(ways)
        return {name: whole - self.time(ways, name) for name in (*(p.name for p in PRODUCTS), "attention")}


def start_of(format: str) -> dict[str, Way]:
    """The plans that the library chooses."""
    found = {}
    for product in PRODUCTS:
        parsed = get_format(format)
        described = describe(str(parsed), product.k)
        n = product.sizes[0] if product.activation != "none" else sum(product.sizes)
        per, multiply = gemv.words_at_once(described), gemv.multiplied_as(parsed, BF16)
        found[product.name] = Way("apart", gemv.choose_plan(n, product.k, described.bits, per, multiply))
    return found


def compile_kernels(layers: dict[str, Layers], deadline: float) -> None:
    """Launches every product with every plan once, several at a time: a launch waits for a process that compiles."""
    jobs = []
    for format, made in layers.items():
        for name, way in start_of(format).items():
            jobs += [(made, name, one) for one in dict.fromkeys((way, *candidates(name, format)))]

    def launch_once(job: tuple[Layers, str, Way]) -> None:
        made, name, way = job
        x, rest = around(made.products[name][0])
        with own_capture(), torch.no_grad():
            made.multiply(name, 0, x, rest["residual"], way)

    pool = ThreadPoolExecutor(PROCESSES)
    launches = [pool.submit(launch_once, job) for job in jobs]
    wait(launches, timeout=max(1.0, deadline - time.perf_counter() - 15))
    pool.shutdown(wait=False, cancel_futures=True)
    failed = [str(one.exception())[:300] for one in launches if one.done() and not one.cancelled() and one.exception()]
    print(f"{len(jobs)} kernels, {sum(one.done() for one in launches)} launched", *failed[:3], flush=True)
    torch.cuda.synchronize()


def errors(format: str) -> dict[str, float]:
    """The largest error of each product by any way, relative to the norm of the result in float64."""
    found = {}
    for product in PRODUCTS:
        stored, sets = stored_sets(product, format, 1)
        x, rest = around(product)
        wanted = exact(product, x, rest, stored, sets[0])
        for way in (start_of(format)[product.name], *candidates(product.name, format)):
            with own_capture():
                out = KERNELS[way.kernel].launch(x, sets[0], str(get_format(format)), way.plan, ahead=True, **rest)
            error = float((out.double() - wanted).norm() / wanted.norm())
            key = f"{product.name}, {way.kernel}"
            found[key] = max(found.get(key, 0.0), error)
    return found


def search(layers: Layers, format: str, deadline: float) -> dict[str, Any]:
    """Tries plans for one product after the other."""
    ways = start_of(format)
    best = start = layers.time(ways)
    tried: dict[str, float] = {"as chosen": start}
    before = layers.parts(ways)
    print(f"  {format} as chosen: {start:.0f} us; {rounded(before)}", flush=True)
    for name in ("gate and up", "down", "qkv", "output"):
        row = {}
        for way in candidates(name, format):
            if time.perf_counter() > deadline:
                break
            us = row[way] = tried[f"{name} {way}"] = layers.time({**ways, name: way})
            if us < best:
                best, ways = us, {**ways, name: way}
        shown = {f"{w.kernel} {w.plan.block_n}x{w.plan.block_w}w{w.plan.warps}": round(us) for w, us in row.items()}
        print(f"  {format} {name}: {best:.0f} us; {shown}", flush=True)
    return {"us": best, "start_us": start, "start_parts": before, "parts": layers.parts(ways), "tried": tried,
            "ways": {name: str(way) for name, way in ways.items()}}  # fmt: skip


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="gpu_quantized_layers.json")
    parser.add_argument("--formats", default="nvfp4,int4,int8,fp8")
    parser.add_argument("--seconds", type=float, default=80)
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "formats": {}}
    with torch.no_grad():
        layers = {format: Layers(format) for format in arguments.formats.split(",")}
        compile_kernels(layers, deadline)
        plain = Layers(None)
        report["bf16_us"], report["bf16_parts"] = plain.time({}), plain.parts({})
        print(f"bf16: {report['bf16_us']:.0f} us; {rounded(report['bf16_parts'])}; "
              f"{deadline - time.perf_counter():.0f} s left", flush=True)  # fmt: skip
        del plain
        for format, made in layers.items():
            try:
                found = report["formats"][format] = search(made, format, deadline)
                found["times_bf16"] = report["bf16_us"] / found["us"]
                print(f"{format}: {found['us']:.0f} us, {found['times_bf16']:.2f} times bf16; "
                      f"{rounded(found['parts'])}; {found['ways']}", flush=True)  # fmt: skip
                found["errors"] = errors(format)
                print(f"  {format}: errors up to {max(found['errors'].values()):.1e}", flush=True)
            except Exception:  # one format must not hide the others
                print(traceback.format_exc()[-1500:], flush=True)
            with open(arguments.output, "w") as file:
                json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
