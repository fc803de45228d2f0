"""Which plans of the kernels for few rows are fastest on this GPU.

    python benchmarks/gpu_skinny.py --output skinny.json [--parts values,decode,skinny] [--seconds 75]

Parts: `values` compares results with float64; `decode` times the kernels of one decoding step of a 1.5B model, 28
layers as one CUDA graph, and changes one plan after the other, keeping what is faster; `skinny` times plans of the
kernel for 2 to 16 rows beside cuBLAS, weights changing so that no cache holds them.  Kernels are compiled beforehand in
several processes, into Triton's own cache.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from thunder.kernels import decode_attention, gemv, rms_norm, rope, skinny
from thunder.kernels.capture import own_capture
from thunder.kernels.gemv import Plan
from thunder.kernels.skinny import SkinnyPlan

BF16 = torch.bfloat16
CACHES = 160 << 20  # bytes of weights that no cache holds
ALL = 1 << 16
HIDDEN, INNER, VOCABULARY, HEADS, KV_HEADS, SIZE, LAYERS = 1536, 8960, 151936, 12, 2, 128, 28
CAPACITY = 128


def randn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, device="cuda") * scale).to(BF16)


def replay_times(record: Callable[[], Any], repeats: int = 12) -> float:
    """Median microseconds of a replay of a graph of the calls that `record` makes."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        record()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with own_capture(), torch.cuda.graph(graph, stream=stream):
        record()
    times = []
    for number in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if number >= 2:
            times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


# ---- one decoding step


@dataclass(frozen=True)
class Step:
    """What is chosen for each kernel of a step.

    Attributes:
        qkv, o, gate_up, down, head: plans.
        ahead: whether weights are read before the kernel before has ended.
        folds: which projections hold the norm before them.
        early: whether rotation and attention begin early and let the next begin.
        splits, block, warps: of attention.
    """

    qkv: Plan = Plan(4, 0, 4, 8, True)
    o: Plan = Plan(4, 0, 4, 8, True)
    gate_up: Plan = Plan(1, 0, 1, ALL)
    down: Plan = Plan(1, 1024, 4)
    head: Plan = Plan(2, 512, 2)
    ahead: bool = False
    folds: tuple[str, ...] = ()
    early: bool = False
    splits: int = 1
    block: int = 64
    warps: int = 4


class Weights:
    """Weights and caches of `layers` layers, and what a step reads besides."""

    def __init__(self, layers: int) -> None:
        self.x, self.norm, self.bias = randn(1, HIDDEN), randn(HIDDEN), randn((HEADS + 2 * KV_HEADS) * SIZE)
        self.table, self.slot = randn(1, 1, 1, SIZE), torch.tensor([100], device="cuda")
        self.head = randn(VOCABULARY, HIDDEN, scale=HIDDEN**-0.5)
        self.layers = [Layer() for _ in range(layers)]


class Layer:
    """Weights and cache of one layer."""

    def __init__(self) -> None:
        self.qkv = randn((HEADS + 2 * KV_HEADS) * SIZE, HIDDEN, scale=HIDDEN**-0.5)
        self.o = randn(HIDDEN, HIDDEN, scale=HIDDEN**-0.5)
        self.gate = randn(INNER, HIDDEN, scale=HIDDEN**-0.5)
        self.up = randn(INNER, HIDDEN, scale=HIDDEN**-0.5)
        self.down = randn(HIDDEN, INNER, scale=INNER**-0.5)
        self.keys, self.values = randn(1, KV_HEADS, CAPACITY, SIZE), randn(1, KV_HEADS, CAPACITY, SIZE)


def run_step(step: Step, w: Weights) -> torch.Tensor:
    """The kernels of a decoding step, but for embedding, mask and choice of the token."""

    def normalised(x: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        if name in step.folds:
            return x, w.norm
        return rms_norm.rms_norm(x, w.norm, 1e-6), None

    x = w.x
    for layer in w.layers:
        h, norm = normalised(x, "qkv")
        qkv = gemv.launch(h, layer.qkv, None, w.bias, None, norm, 1e-6, "none", plan=step.qkv, ahead=step.ahead)
        heads = qkv.view(1, HEADS + 2 * KV_HEADS, 1, SIZE)
        q, k, v = heads.split([HEADS, KV_HEADS, KV_HEADS], 1)
        q = rope._launch_into_cache(q, k, v, w.table, w.table, layer.keys, layer.values, w.slot, early=step.early)
        attended = decode_attention.launch(
            q, layer.keys, layer.values, w.slot, None, SIZE**-0.5, step.splits, early=step.early, block=step.block,
            warps=step.warps,
        )  # fmt: skip
        attended = attended.view(1, HIDDEN)
        x = gemv.launch(attended, layer.o, None, None, x, None, 1e-6, "none", plan=step.o, ahead=step.ahead)
        h, norm = normalised(x, "gate_up")
        h = gemv.launch(h, layer.gate, layer.up, None, None, norm, 1e-6, "silu", plan=step.gate_up, ahead=step.ahead)
        x = gemv.launch(h, layer.down, None, None, x, None, 1e-6, "none", plan=step.down, ahead=step.ahead)
    h, norm = normalised(x, "head")
    return gemv.launch(h, w.head, None, None, None, norm, 1e-6, "none", plan=step.head, ahead=step.ahead)


NORMS_FOLDED = {"folds": ("qkv", "gate_up", "head")}
# Tried in order; each is kept where it is faster than the best so far.
CHANGES: list[dict[str, Any]] = [
    {"early": True},
    {"ahead": True},
    {"gate_up": Plan(1, 0, 1, ALL, True)},
    {"gate_up": Plan(2, 0, 2, ALL, True)},
    {"gate_up": Plan(4, 0, 4, ALL, True)},
    {"gate_up": Plan(2, 0, 2, 8, True)},
    {"gate_up": Plan(2, 0, 4, 8, True)},
    {"gate_up": Plan(4, 0, 4, 4, True)},
    {"folds": ("qkv",)},
    {"folds": ("qkv", "gate_up")},
    {"gate_up": Plan(2, 0, 2, ALL, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(4, 0, 4, ALL, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(2, 0, 2, 8, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(2, 0, 2, 4, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(4, 0, 4, 4, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(4, 0, 4, 2, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(2, 0, 4, 4, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(1, 0, 1, 16, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(8, 0, 8, ALL, True), "folds": ("qkv", "gate_up")},
    {"gate_up": Plan(8, 0, 8, 2, True), "folds": ("qkv", "gate_up")},
    {"head": Plan(2, 0, 2, 8, True)},
    {"head": Plan(2, 0, 2, ALL, True)},
    {"head": Plan(2, 0, 2, 8, True), **NORMS_FOLDED},
    {"head": Plan(4, 0, 4, 4, True), **NORMS_FOLDED},
    {"head": Plan(2, 0, 4, 4, True), **NORMS_FOLDED},
    {"head": Plan(4, 0, 4, 8, True), **NORMS_FOLDED},
    {"down": Plan(1, 1024, 4, 0, True)},
    {"down": Plan(1, 2048, 4, 0, True)},
    {"down": Plan(1, 2048, 8, 0, True)},
    {"down": Plan(2, 1024, 4, 0, True)},
    {"down": Plan(2, 2048, 8, 0, True)},
    {"down": Plan(1, 1024, 4, 0, True, 3)},
    {"down": Plan(1, 1024, 4, 0, True, 4)},
    {"down": Plan(1, 2048, 4, 0, True, 3)},
    {"down": Plan(2, 1024, 4, 0, True, 4)},
    {"down": Plan(4, 512, 4, 0, True, 4)},
    {"down": Plan(1, 4096, 8, 0, True)},
    {"down": Plan(1, 512, 2, 0, True, 4)},
    {"qkv": Plan(4, 0, 4, ALL, True)},
    {"qkv": Plan(2, 0, 2, ALL, True)},
    {"qkv": Plan(4, 0, 8, ALL, True)},
    {"qkv": Plan(8, 0, 8, ALL, True)},
    {"qkv": Plan(2, 0, 4, ALL, True)},
    {"o": Plan(4, 0, 4, ALL, True)},
    {"o": Plan(2, 0, 2, ALL, True)},
    {"o": Plan(4, 0, 8, ALL, True)},
    {"o": Plan(2, 0, 4, ALL, True)},
    {"o": Plan(8, 0, 8, ALL, True)},
    {"block": 32},
    {"block": 128},
    {"warps": 8},
    {"warps": 2},
    {"block": 32, "splits": 4},
]


def search_step(deadline: float) -> dict[str, Any]:
    weights = Weights(LAYERS)
    best = Step()
    rows = [{"change": "none", "us": replay_times(lambda: run_step(best, weights))}]
    print(f"decode {rows[0]['us']:8.1f} us  as it was", flush=True)
    record = rows[0]["us"]
    for change in CHANGES:
        if time.perf_counter() > deadline:
            break
        step = replace(best, **change)
        described = {key: asdict(value) if isinstance(value, Plan) else value for key, value in change.items()}
        row: dict[str, Any] = {"change": described}
        try:
            row["us"] = replay_times(lambda step=step: run_step(step, weights))
        except Exception as error:  # a plan that does not fit must not end the search
            row["failed"] = f"{type(error).__name__}: {error}"[:200]
        row["kept"] = row.get("us", record) < record - 1
        if row["kept"]:
            best, record = step, row["us"]
        text = " ".join(f"{key}={short(value)}" for key, value in change.items())
        print(
            f"decode {row.get('us', 0):8.1f} us  {'*' if row['kept'] else ' '} {text} {row.get('failed', '')}",
            flush=True,
        )
        rows.append(row)
    print(f"decode best {record:.1f} us: {best}", flush=True)
    floor = 2 * (LAYERS * (HIDDEN * 2048 + HIDDEN * HIDDEN + 3 * HIDDEN * INNER) + VOCABULARY * HIDDEN)
    return {"rows": rows, "best": str(best), "best_us": record, "bytes": floor}


def short(value: Any) -> str:
    if isinstance(value, Plan):
        early = "e" if value.early else ""
        return f"{value.block_n}x{value.block_k}w{value.warps}r{min(value.resident, 99)}{early}s{value.stages}"
    return str(value)


# ---- 2 to 16 rows

SHAPES = {
    "1.5B qkv": (2048, 1536, False), "1.5B o": (1536, 1536, False), "1.5B gate/up": (8960, 1536, True),
    "1.5B down": (1536, 8960, False), "1.5B head": (151936, 1536, False),
    "8B qkv": (6144, 4096, False), "8B gate/up": (14336, 4096, True), "8B down": (4096, 14336, False),
}  # fmt: skip
SMALL: list[tuple[int, ...]] = [
         (16, 256, 2, 4), (16, 512, 2, 3), (16, 512, 2, 4), (16, 256, 2, 6), (32, 256, 4, 4), (32, 128, 4, 6),
         (16, 512, 4, 4), (32, 512, 4, 3), (8, 512, 1, 4), (8, 512, 2, 4), (32, 128, 4, 4, 2), (32, 256, 4, 3, 3),
         (64, 128, 4, 3, 4)]  # fmt: skip
LARGE: list[tuple[int, ...]] = [
         (32, 256, 4, 3), (32, 128, 4, 4), (32, 128, 4, 6), (64, 128, 4, 3), (64, 128, 4, 4), (64, 64, 4, 6),
         (16, 256, 2, 4), (16, 512, 2, 3), (128, 64, 4, 4), (128, 64, 8, 4)]  # fmt: skip
LONG: list[tuple[int, ...]] = [
        (16, 512, 2, 4), (16, 1024, 4, 3), (16, 512, 4, 6), (16, 256, 2, 8), (16, 1024, 2, 4), (32, 512, 4, 3),
        (8, 1024, 2, 4), (8, 512, 1, 6), (32, 256, 4, 6), (16, 512, 1, 5), (32, 256, 4, 4, 5), (32, 128, 4, 6, 5),
        (64, 128, 4, 4, 10), (64, 128, 4, 4, 5), (16, 512, 4, 3, 3), (32, 512, 4, 3, 6)]  # fmt: skip


def plans_for(n: int, k: int, gated: bool) -> list[SkinnyPlan]:
    table = LONG if k >= 8192 else LARGE if gated or n > 4096 else SMALL
    return [SkinnyPlan(*sizes[:4], splits=sizes[4] if len(sizes) > 4 else 1) for sizes in table]


def described(plan: SkinnyPlan) -> str:
    divided = f"d{plan.splits}" if plan.splits > 1 else ""
    return f"{plan.block_n}x{plan.block_k}w{plan.warps}s{plan.stages}{divided}"


def skinny_inputs(name: str, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    n, k, gated = SHAPES[name]
    x, weight = randn(rows, k), randn(n, k, scale=k**-0.5)
    return x, weight, randn(n, k, scale=k**-0.5) if gated else None, torch.empty(rows, n, dtype=BF16, device="cuda")


def search_skinny(deadline: float, only: str) -> list[dict[str, Any]]:
    found = []
    for name, (n, k, gated) in SHAPES.items():
        if only not in name:
            continue
        size = 2 * n * k * (2 if gated else 1)
        count = max(2, min(32, CACHES // size + 1))
        weights = [randn(n * (2 if gated else 1), k, scale=k**-0.5) for _ in range(count)]
        for rows in (10, 2, 4, 8, 16):
            if time.perf_counter() > deadline:
                return found
            x, out = randn(rows, k), torch.empty(rows, n, dtype=BF16, device="cuda")
            residual = None if gated else randn(rows, n)
            row: dict[str, Any] = {"shape": name, "rows": rows, "us": {}}

            row["cublas"] = replay_times(functools.partial(run_cublas, x, weights), 8) / count
            tried = plans_for(n, k, gated) if rows == 10 else leading(found, name)
            for plan in tried:
                run = functools.partial(run_skinny, x, weights, n if gated else None, residual, out, plan)
                key = described(plan)
                try:
                    row["us"][key] = replay_times(run, 8) / count
                except Exception as error:  # some plans need more memory than a multiprocessor has
                    row.setdefault("failed", {})[key] = f"{type(error).__name__}: {error}"[:150]
            ranked = sorted(row["us"].items(), key=lambda item: item[1])
            text = "  ".join(f"{key} {us:.2f}" for key, us in ranked[:6])
            print(
                f"{name:13} x{rows:<3} cublas {row['cublas']:7.2f} us  {text}  failed {len(row.get('failed', {}))}",
                flush=True,
            )
            found.append(row)
    return found


def run_cublas(x: torch.Tensor, weights: list[torch.Tensor]) -> None:
    for weight in weights:
        F.linear(x, weight)


def run_skinny(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    gate_rows: int | None,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    plan: SkinnyPlan,
) -> None:
    """`gate_rows`: the first rows of a weight are gate, the others up."""
    for weight in weights:
        if gate_rows is None:
            skinny.launch(x, weight, None, None, residual, "none", out, plan)
        else:
            skinny.launch(x, weight[:gate_rows], weight[gate_rows:], None, None, "silu", out, plan)


def leading(found: list[dict[str, Any]], name: str) -> list[SkinnyPlan]:
    """The three plans that were fastest for the shape on 10 rows."""
    times = next(row["us"] for row in found if row["shape"] == name and row["rows"] == 10)
    n, k, gated = SHAPES[name]
    plans = {described(plan): plan for plan in plans_for(n, k, gated)}
    return [plans[key] for key, _ in sorted(times.items(), key=lambda item: item[1])[:3]]


# ---- values


def check_values() -> dict[str, float]:
    """Relative errors against float64; rounding alone explains 0.004."""
    errors = {}

    def error(out: torch.Tensor, exact: torch.Tensor) -> float:
        return float((out.double() - exact).norm() / exact.norm())

    for name in SHAPES:
        for rows in (2, 10, 16):
            x, weight, up, out = skinny_inputs(name, rows)
            skinny.launch(x, weight, up, None, None, "silu" if up is not None else "none", out)
            exact = x.double() @ weight.double().T
            if up is not None:
                exact = F.silu(exact) * (x.double() @ up.double().T)
            errors[f"skinny {name} x{rows}"] = error(out, exact)
    for name, plan in (("resident", Plan(4, 0, 4, ALL, True)), ("walking", Plan(1, 1024, 4, 0, True, 3))):
        weight, norm = randn(2048, 1536, scale=1536**-0.5), randn(1536)
        x = randn(1, 1536)
        for ahead in (False, True):
            out = gemv.launch(x, weight, None, None, None, norm, 1e-6, "none", plan=plan, ahead=ahead)
            exact = gemv.gemv_reference(x.double(), weight.double(), None, None, norm.double())
            errors[f"{name} ahead={ahead}"] = error(out, exact)
    torch.manual_seed(0)
    weights = Weights(2)
    plain = run_step(Step(), weights).double()
    chosen = replace(Step(), early=True, ahead=True, **NORMS_FOLDED)
    run_step(chosen, weights)
    graph = torch.cuda.CUDAGraph()
    with own_capture(), torch.cuda.graph(graph):
        replayed = run_step(chosen, weights)
    graph.replay()
    torch.cuda.synchronize()
    errors["step, folded and ahead, in a graph, against one launch at a time"] = error(replayed, plain)
    for name, value in errors.items():
        if not value < 0.02:
            print(f"WRONG {name}: {value:.2e}", flush=True)
    print(f"values: {len(errors)} cases, largest error {max(errors.values()):.2e}", flush=True)
    return errors


# ---- compiling beforehand


def jobs(parts: list[str], only: str) -> list[Any]:
    work: list[Any] = []
    if "decode" in parts:
        work += [Step(), *(replace(Step(), **change) for change in CHANGES)]
        ahead = replace(Step(), early=True, ahead=True)
        folded = replace(ahead, **NORMS_FOLDED)
        work += [replace(start, **change) for start in (ahead, folded) for change in CHANGES]
    if "skinny" in parts:
        work += [
            (name, plan)
            for name, (n, k, gated) in SHAPES.items()
            if only in name
            for plan in plans_for(n, k, gated)
        ]  # fmt: skip
    return work


@functools.cache
def one_layer() -> Weights:
    return Weights(1)


def compile_job(job: Any) -> None:
    """Runs a kernel once, which leaves its machine code in Triton's cache."""
    try:
        if isinstance(job, Step):
            run_step(job, one_layer())
        else:
            name, plan = job
            n = SHAPES[name][0]
            x, weight, up, out = skinny_inputs(name, 10)
            act = "silu" if up is not None else "none"
            skinny.launch(x, weight, up, None, None if up is not None else randn(10, n), act, out, plan)
        torch.cuda.synchronize()
    except Exception as error:  # shown again, with its place, when the plan's turn comes
        print(f"{job}: {type(error).__name__}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="gpu_skinny.json")
    parser.add_argument("--parts", default="values,decode,skinny")
    parser.add_argument("--seconds", type=float, default=80.0, help="stop beginning new timings after this long")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--only", default="", help="of the part skinny, shapes whose name contains this")
    options = parser.parse_args()
    parts = options.parts.split(",")
    begin = time.perf_counter()
    work = jobs(parts, options.only)
    with multiprocessing.get_context("spawn").Pool(min(options.processes, len(work) or 1)) as pool:
        pool.map(compile_job, work, chunksize=4)
    print(f"compiled {len(work)} in {time.perf_counter() - begin:.1f} s", flush=True)
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    deadline = begin + options.seconds
    for name, function in (
        ("values", check_values),
        ("decode", lambda: search_step(begin + 0.75 * options.seconds)),
        ("skinny", lambda: search_skinny(deadline, options.only)),
    ):
        if name in parts:
            report[name] = function()
            with open(options.output, "w") as file:
                json.dump(report, file, indent=1)
            torch.cuda.empty_cache()
    print(f"done in {time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
