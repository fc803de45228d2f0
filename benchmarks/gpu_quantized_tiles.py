"""Ways to multiply a quantised weight with 2 to 2048 rows: the tiled kernel with several plans, or dequantising first.

    python benchmarks/gpu_quantized_tiles.py --output tiles.json [--formats int4,int8,nvfp4,fp8] [--seconds 85]

Each shape in bf16, dequantised and multiplied by cuBLAS, and with every plan of the tiled kernel, in CUDA graphs over
weights that no cache holds.  Values are compared with the dequantised weight in float64.  Printed: the fastest for each
number of rows, beside bf16.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from gpu_timing import copies_beyond_caches, timed

from thunder.precision.formats import dequantize, get_format, quantize
from thunder.precision.kernels import gemm, tiles
from thunder.precision.kernels.gemm import Plan
from thunder.precision.kernels.gemv import Weight

BF16 = torch.bfloat16
SHAPES = ((8960, 1536), (1536, 8960), (14336, 4096))
ROWS = (2, 8, 32, 128, 512, 2048)
PROCESSES = 16


def plans_for(rows: int, n: int, k: int, bits: int) -> list[Plan]:
    """What is tried; a step is 128 columns, or 256 of 4 bits."""
    units = 128 if bits == 8 else 64
    splits = (4, 8, 16) if n * 4 < k else (1, 3) if n <= 8960 else (1, 2)
    if rows <= 64:
        tile = max(16, rows)
        return [Plan(64, tile, units, 4, stages, parts) for stages in (4, 6) for parts in splits] + [
            Plan(128, tile, units, 8, 4, parts) for parts in splits
        ]
    if rows <= 128:
        return [Plan(block_n, 128, units, 8, 3, parts) for block_n in (64, 128) for parts in splits]
    return [Plan(128, 128, units, 8, stages) for stages in (3, 4)] + [Plan(128, 256, units, 8, 3)]


def made(format: str, n: int, k: int) -> tuple[Any, list[Weight]]:
    """A quantised weight, and as many copies as no cache holds."""
    torch.manual_seed(0)
    stored = quantize(torch.randn(n, k, device="cuda", dtype=BF16) / k**0.5, format)
    parts = (stored.codes, stored.scales, stored.zeros, stored.tensor_scale)
    copies = [[None if part is None else part.clone() for part in parts]
              for _ in range(copies_beyond_caches(stored.nbytes) - 1)]  # fmt: skip
    return stored, [Weight(*one, None) for one in (parts, *copies)]


def compile_kernels(weights: dict[Any, Any], deadline: float) -> None:
    """Launches every kernel once, several at a time: a launch waits for a process that compiles."""
    jobs = {}
    for format, n, k in weights:
        for rows in ROWS:
            for plan in plans_for(rows, n, k, get_format(format).bits):
                jobs[format, k, plan.block_n, plan.block_m, plan.stages, plan.splits > 1] = (format, n, k, rows, plan)

    def launch_once(job: tuple[str, int, int, int, Plan]) -> None:
        format, n, k, rows, plan = job
        x = torch.zeros(rows, k, device="cuda", dtype=BF16)
        gemm.launch(x, weights[format, n, k][1][0], str(get_format(format)), plan)

    pool = ThreadPoolExecutor(PROCESSES)
    launches = [pool.submit(launch_once, job) for job in jobs.values()]
    wait(launches, timeout=max(1.0, deadline - time.perf_counter() - 30))
    pool.shutdown(wait=False, cancel_futures=True)
    failed = [str(one.exception())[:300] for one in launches if one.done() and not one.cancelled() and one.exception()]
    print(f"{len(jobs)} kernels, {sum(one.done() for one in launches)} launched", *failed[:3], flush=True)
    torch.cuda.synchronize()


def measure(format: str, weights: list[Weight], exact: torch.Tensor, rows: int, bf16_us: float) -> dict[str, Any]:
    """A shape and a number of rows: dequantised, and every plan."""
    (n, k), text, bits = exact.shape, str(get_format(format)), get_format(format).bits
    torch.manual_seed(1)
    x = torch.randn(rows, k, device="cuda", dtype=BF16)
    wanted = x.double() @ exact.t()

    def dequantised(weight: Weight) -> torch.Tensor:
        parts = (weight.codes, weight.scales, weight.zeros, weight.tensor_scale)
        return torch.nn.functional.linear(x, tiles.launch(*parts, text, k, BF16))

    dequantised_us = timed([lambda w=w: dequantised(w) for w in weights], 5)
    found: dict[str, Any] = {"bf16_us": bf16_us, "dequantised_us": dequantised_us, "plans": {}}
    for plan in plans_for(rows, n, k, bits):
        try:
            out = gemm.launch(x, weights[0], text, plan)
            error = float((out.double() - wanted).norm() / wanted.norm())
            us = timed([lambda w=w, plan=plan: gemm.launch(x, w, text, plan) for w in weights], 5)
            found["plans"][str(plan)] = {"us": us, "error": error}
        except Exception as failure:  # one plan must not hide the others
            found["plans"][str(plan)] = {"failed": f"{type(failure).__name__}: {failure}"[:300]}
    timed_plans = sorted((p["us"], name) for name, p in found["plans"].items() if "us" in p)
    wrong = [p for p in found["plans"].values() if p.get("error", 0.0) > 1e-2 or "failed" in p]
    best = f"{timed_plans[0][1]} {timed_plans[0][0]:.1f} us, {bf16_us / timed_plans[0][0]:.2f} times bf16; " * bool(
        timed_plans
    )
    print(f"  {format} {rows} x {k} -> {n}: bf16 {bf16_us:.1f}, dequantised {dequantised_us:.1f}, {best}"
          f"{f'WRONG {wrong[:2]}' if wrong else ''}", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="gpu_quantized_tiles.json")
    parser.add_argument("--formats", default="int4,int8,nvfp4,fp8")
    parser.add_argument("--seconds", type=float, default=85)
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "rows": {}}
    with torch.no_grad():
        weights = {(format, n, k): made(format, n, k) for n, k in SHAPES for format in arguments.formats.split(",")}
        compile_kernels(weights, deadline)
        print(f"compiled, {deadline - time.perf_counter():.0f} s left", flush=True)
        for n, k in SHAPES:
            plain = [torch.randn(n, k, device="cuda", dtype=BF16) for _ in range(copies_beyond_caches(2 * n * k))]
            for rows in ROWS:
                x = torch.randn(rows, k, device="cuda", dtype=BF16)
                bf16_us = timed([lambda w=w, x=x: torch.nn.functional.linear(x, w) for w in plain], 5)
                for format in arguments.formats.split(","):
                    if time.perf_counter() > deadline:
                        print("out of time")
                        break
                    stored, copies = weights[format, n, k]
                    exact = dequantize(stored, torch.float64)
                    row = measure(format, copies, exact, rows, bf16_us)
                    report["rows"][f"{format} {rows} x {k} -> {n}"] = row
    with open(arguments.output, "w") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
