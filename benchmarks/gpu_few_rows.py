"""Which plans of the kernels of linear layers on few rows with gradients are fastest on this GPU, beside cuBLAS.

    python benchmarks/gpu_few_rows.py --output few_rows.json [--rows 10]

First compares results with float64, then times each kernel for the layers of a 1.5B model in a CUDA graph, on so many
weights that no cache holds them.  Kernels are compiled beforehand, in several processes.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from thunder.kernels import few_rows
from thunder.kernels.capture import own_capture
from thunder.kernels.compile_ahead import _requests_only
from thunder.kernels.few_rows import Plan
from thunder.kernels.skinny import SkinnyPlan

CACHES = 160 << 20  # bytes of weights that no cache holds
REPLAYS = 10
# Sizes of the layers of one input, and its size.
SHAPES = {
    "query, key, value": ((1536, 256, 256), 1536),
    "output": ((1536,), 1536),
    "gate, up": ((8960, 8960), 1536),
    "down": ((1536,), 8960),
}
OUTPUTS = [
    None, SkinnyPlan(32, 128, 4, 6), SkinnyPlan(64, 128, 4, 4), SkinnyPlan(16, 256, 2, 4), SkinnyPlan(16, 1024, 4, 3),
]  # fmt: skip
INPUT_GRADIENTS = [
    None, Plan(128, 64, 4, 4, 4.0), Plan(128, 64, 4, 4, 1.0), Plan(64, 128, 4, 4, 2.0),
    Plan(128, 128, 4, 3, 2.0), Plan(256, 64, 8, 3, 2.0), Plan(64, 64, 4, 6, 4.0), Plan(128, 64, 4, 6, 1.0),
]  # fmt: skip
WEIGHT_GRADIENTS = [
    None, Plan(64, 128, 4), Plan(128, 128, 4), Plan(128, 128, 8), Plan(64, 256, 4), Plan(32, 256, 4),
    Plan(128, 64, 4), Plan(32, 128, 4),
]  # fmt: skip


class Layers:
    """One input, the layers that take it, and gradients of what they give."""

    def __init__(self, sizes: Sequence[int], k: int, rows: int) -> None:
        def values(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

        self.x, self.biases = values(rows, k), [values(n) for n in sizes]
        self.weights = [values(n, k) / k**0.5 for n in sizes]
        self.grads = [values(rows, n) for n in sizes]

    def outputs(self, plan: Any) -> Any:
        return few_rows._launch_outputs(self.x, self.weights, self.biases, plan)

    def input_gradient(self, plan: Plan | None) -> Any:
        return few_rows._launch_input_gradient(self.grads, self.weights, plan)

    def weight_gradients(self, plan: Plan | None) -> Any:
        return few_rows._launch_weight_gradients(self.x, self.grads, plan)

    def plain(self, what: str) -> Any:
        """The same by PyTorch."""
        if what == "outputs":
            return [F.linear(self.x, weight, bias) for weight, bias in zip(self.weights, self.biases)]
        if what == "input_gradient":
            return [sum(torch.mm(grad, weight) for grad, weight in zip(self.grads, self.weights))]
        return [torch.mm(grad.t(), self.x) for grad in self.grads]

    def in_double(self) -> Layers:
        other = object.__new__(Layers)
        other.x = self.x.double()
        other.biases, other.weights = [b.double() for b in self.biases], [w.double() for w in self.weights]
        other.grads = [g.double() for g in self.grads]
        return other


PLANS: dict[str, list[Any]] = {
    "outputs": OUTPUTS, "input_gradient": INPUT_GRADIENTS, "weight_gradients": WEIGHT_GRADIENTS
}  # fmt: skip


def compile_everything(rows: int) -> None:
    with FakeTensorMode(), torch.no_grad(), _requests_only():
        for sizes, k in SHAPES.values():
            layers = Layers(sizes, k, rows)
            for what, plans in PLANS.items():
                for plan in plans:
                    getattr(layers, what)(plan)


def time_of(calls: Sequence[Callable[[], Any]]) -> float:
    """Microseconds of a call, in a graph of all of them, whose results stay."""
    stream, kept = torch.cuda.Stream(), []
    with torch.cuda.stream(stream):
        calls[0]()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with own_capture(), torch.cuda.graph(graph, stream=stream):
        kept.extend(call() for call in calls)
    times = []
    for _ in range(REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times[2:]) / len(calls)


def error_of(found: Any, exact: Any) -> float:
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact))


def described(plan: Any, what: str, sizes: Sequence[int], k: int) -> str:
    if plan is None and what == "outputs":
        plan = few_rows.outputs_plan(sum(sizes), k, torch.device("cuda"))
    elif plan is None:
        gradient_of_input = what == "input_gradient"
        plan = few_rows.input_gradient_plan(sum(sizes), k) if gradient_of_input else few_rows.weight_gradients_plan(k)
    programs = f"p{plan.programs}" if isinstance(plan, Plan) else ""
    return f"{plan.block_n}x{plan.block_k}w{plan.warps}s{plan.stages}{programs}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("few_rows.json"))
    parser.add_argument("--rows", type=int, default=10)
    options = parser.parse_args()
    compile_everything(options.rows)
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "rows": options.rows, "shapes": {}}
    for name, (sizes, k) in SHAPES.items():
        bytes_of_weights = 2 * k * sum(sizes)
        copies = [Layers(sizes, k, options.rows) for _ in range(max(2, -(-CACHES // bytes_of_weights)))]
        found = report["shapes"].setdefault(name, {"bytes": bytes_of_weights})
        for what, plans in PLANS.items():
            exact = copies[0].in_double().plain(what)
            errors = [error_of(getattr(copies[0], what)(plan), exact) for plan in plans]
            kernels = [getattr(layers, what) for layers in copies]
            times = {}
            for plan in plans:
                calls = [functools.partial(kernel, plan) for kernel in kernels]
                times[described(plan, what, sizes, k)] = round(time_of(calls), 2)
            few_rows.EARLY = False
            late = time_of([functools.partial(kernel, plans[0]) for kernel in kernels])
            few_rows.EARLY = True
            cublas = time_of([functools.partial(layers.plain, what) for layers in copies])
            best = min(times, key=times.__getitem__)
            found[what] = {
                "us": times, "first plan, launched late": round(late, 2), "cublas": round(cublas, 2),
                "largest error": max(errors), "error of cublas": error_of(copies[0].plain(what), exact),
            }  # fmt: skip
            speed = bytes_of_weights / times[best] / 1e6
            first = next(iter(times))
            print(
                f"{name:18} {what:17} first plan {first} {times[first]:6} us, best {best} {times[best]:6} us = "
                f"{speed:.2f} TB/s, late {late:6.2f}, cuBLAS {cublas:6.2f}, errors {max(errors):.5f} "
                f"({found[what]['error of cublas']:.5f} cuBLAS)",
                flush=True,
            )
            options.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
