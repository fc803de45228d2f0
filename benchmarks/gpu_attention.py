"""Times of PyTorch's attention back ends on one GPU: which is fastest for which shape, mask and form of grouped heads.

    python benchmarks/gpu_attention.py --output attention.json [--seconds 40] [--plans]

Every case is timed forward and, for training shapes, forward and backward, in a CUDA graph of several calls (median of
its replays, microseconds a call).  Masks: none; causal by `is_causal`; `bias`, a tensor of the queries' dtype with one
row for each query; `row`, the same with one row for all queries (padding).  Grouped heads are handed over as they are
(`grouped`) or repeated within the timed call (`repeated`).  A back end that does not take a case gives its reason.
With `--plans`, only forward: PyTorch's own choice beside `thunder::forward_attention` divided in several ways, and the
largest difference of their results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from thunder.kernels import forward_attention
from thunder.kernels.forward_attention import AttentionPlan

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
CALLS, REPLAYS = 8, 7


@dataclass(frozen=True)
class Case:
    """Attention of `heads` query heads over `groups` heads of keys, `masks` as the module's text names them."""

    name: str
    batch: int
    tokens: int
    heads: int
    groups: int
    size: int
    masks: tuple[str, ...]
    training: bool


CASES = (
    Case("qwen 1.5B 2x2048", 2, 2048, 12, 2, 128, ("causal", "bias"), training=True),
    Case("llama 1B 2x2048", 2, 2048, 32, 8, 64, ("causal",), training=True),
    Case("qwen 1.5B 1x2048", 1, 2048, 12, 2, 128, ("causal",), training=False),
    Case("qwen 1.5B 1x10", 1, 10, 12, 2, 128, ("causal", "bias"), training=False),
    Case("bert large 32x512", 32, 512, 16, 16, 64, ("bias", "row", "none"), training=False),
    Case("vit 128x197", 128, 197, 12, 12, 64, ("none",), training=False),
    Case("bert large 1x8", 1, 8, 16, 16, 64, ("bias", "none"), training=False),
    Case("llama 8B 1x2048", 1, 2048, 32, 8, 128, ("causal",), training=True),
)


PLANS = (
    AttentionPlan(16, 16, 1, 1), AttentionPlan(16, 16, 2, 1), AttentionPlan(16, 32, 4, 2),
    AttentionPlan(64, 32, 4, 3), AttentionPlan(64, 64, 4, 2), AttentionPlan(64, 64, 4, 3),
    AttentionPlan(64, 128, 4, 2), AttentionPlan(128, 32, 4, 4),
    AttentionPlan(128, 64, 4, 2), AttentionPlan(128, 64, 4, 3), AttentionPlan(128, 64, 8, 2),
    AttentionPlan(128, 64, 8, 3), AttentionPlan(128, 128, 8, 2), AttentionPlan(128, 128, 4, 2),
    AttentionPlan(256, 64, 8, 3),
)  # fmt: skip


def heads(case: Case, count: int) -> Tensor:
    """Heads as a model has them: a transposed view of a projection's result."""
    shape = case.batch, case.tokens, count, case.size
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2)


def mask_of(case: Case, kind: str) -> Tensor | None:
    if kind not in ("bias", "row"):
        return None
    rows = 1 if kind == "row" else case.tokens
    mask = torch.zeros(case.batch, 1, rows, case.tokens, device="cuda", dtype=torch.bfloat16)
    return mask.expand(-1, -1, case.tokens, -1)


def microseconds(call: Callable[[], object]) -> float:
    """Median time of a call, from replays of a CUDA graph of several."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(CALLS):
                call()
    times = []
    for _ in range(REPLAYS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / CALLS)
    return round(statistics.median(times), 2)


def measure(case: Case, kind: str, form: str, backend: SDPBackend | None, backward: bool) -> float | str:
    """Microseconds, or why the back end does not do it; `backend=None` is PyTorch's own choice."""
    query, key, value = heads(case, case.heads), heads(case, case.groups), heads(case, case.groups)
    tangent = heads(case, case.heads)
    mask = mask_of(case, kind)
    inputs = [tensor.requires_grad_(backward) for tensor in (query, key, value)]
    repeats = case.heads // case.groups

    def repeated(tensor: Tensor) -> Tensor:
        wide = tensor[:, :, None].expand(-1, -1, repeats, -1, -1)
        return wide.reshape(case.batch, case.heads, case.tokens, case.size)

    def call() -> object:
        keys, values = (repeated(key), repeated(value)) if form == "repeated" else (key, value)
        out = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=kind == "causal", enable_gqa=form == "grouped"
        )
        return torch.autograd.grad(out, inputs, tangent) if backward else out

    try:
        if backend is None:
            return microseconds(call)
        with sdpa_kernel(backend):
            return microseconds(call)
    except RuntimeError as error:
        return str(error).splitlines()[0][:100]


def measure_plans(case: Case, kind: str) -> list[dict[str, object]]:
    """Rows for PyTorch's choice and every plan that is not much longer than the case."""
    query, key, value = heads(case, case.heads), heads(case, case.groups), heads(case, case.groups)
    mask, causal, scale = mask_of(case, kind), kind == "causal", case.size**-0.5

    def chosen() -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=case.groups != case.heads
        )

    expected = chosen()
    rows: list[dict[str, object]] = [{"plan": "PyTorch", "us": microseconds(chosen)}]
    for plan in PLANS:
        if (plan.block_s > 2 * case.tokens and plan.block_s > 16) or (plan.block_s < 64 and case.tokens > 64):
            continue

        def ours(plan: AttentionPlan = plan) -> Tensor:
            return forward_attention.launch(query, key, value, mask, causal, scale, plan)

        try:
            error = (ours().float() - expected.float()).abs().max().item()
            rows.append({"plan": str(plan), "us": microseconds(ours), "error": round(error, 5)})
        except Exception as problem:  # a plan that the device has no room for
            rows.append({"plan": str(plan), "us": str(problem).splitlines()[0][:80]})
    return [{"case": case.name, "mask": kind, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--plans", action="store_true")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    rows: list[dict[str, object]] = []
    for case in CASES if options.plans else ():
        for kind in case.masks if not case.training and time.monotonic() < deadline else ():
            if kind == "bias":
                continue  # has a row for each query
            with torch.no_grad():
                found = measure_plans(case, kind)
            rows += found
            print(*(" | ".join(map(str, row.values())) for row in found), sep="\n", flush=True)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1))
    for case in CASES if not options.plans else ():
        forms = ("grouped", "repeated") if case.groups != case.heads else ("plain",)
        for kind in case.masks:
            for form in forms:
                for backward in (False, True) if case.training else (False,):
                    for name, backend in {"chosen": None, **BACKENDS}.items():
                        if time.monotonic() > deadline:
                            break
                        with torch.set_grad_enabled(backward):
                            found = measure(case, kind, form, backend, backward)
                        rows.append({"case": case.name, "mask": kind, "heads": form, "backend": name,
                                     "direction": "both" if backward else "forward", "us": found})  # fmt: skip
                        print(*rows[-1].values(), sep=" | ", flush=True)
                        if options.output:
                            options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
