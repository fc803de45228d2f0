"""Checks and times CUDA graphs and generation on one GPU; every part stands alone, its error goes into the JSON.

    python benchmarks/gpu_generate.py --output gpu_generate.json

Parts (`--parts` chooses): graphs (replay is right), tokens (generation equals Hugging Face's in float32), generate
and forward (times of the 1.5B configuration), profile (kernels of one decoding step).  Slow peers are off by default:
`--hf-compile` (static cache and torch.compile, half a minute) and `--torch-compile` (reduce-overhead).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import torch.nn.functional as F
import transformers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

import thunder
from thunder.executors.cuda_graphs import GraphedFunction

DEVICE = "cuda"


# Measuring ------------------------------------------------------------------------------------------------------------
def seconds_of(function: Callable[[], Any]) -> float:
    """Wall time of one call, the device's work included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def timed(function: Callable[[], Any], *, warm: int = 3, repeats: int = 10) -> dict[str, Any]:
    """First call, the calls until it is warm, and the median of the calls after that, in milliseconds."""
    first = []
    for _ in range(warm):
        first.append(1e3 * seconds_of(function))
        print(f"    warm-up {first[-1]:.1f} ms", flush=True)
    times = sorted(1e3 * seconds_of(function) for _ in range(repeats))
    return {"median_ms": statistics.median(times), "min_ms": times[0], "max_ms": times[-1], "warm_up_ms": first}


def device_ms(function: Callable[[], Any], repeats: int = 20) -> float:
    """Milliseconds a call when calls follow each other without waiting: what the slower of host and device takes."""
    function()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def host_ms(function: Callable[[], Any], repeats: int = 10) -> float:
    """Milliseconds until a call returns, the device being idle when it begins: what Python takes."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def kernels_of(function: Callable[[], Any]) -> list[tuple[str, int, float]]:
    """(name, count, microseconds) of the kernels of one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    rows = [(e.key[:90], e.count, round(e.self_device_time_total, 1)) for e in profiler.key_averages()]
    return sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])[:25]


# (a) Graphs -----------------------------------------------------------------------------------------------------------
def replay_count(compiled: Any) -> int:
    """Graphs that were captured for the last program of a compiled callable."""
    target = compiled._thunder if hasattr(compiled, "_thunder") else compiled
    graphed = target.last.computation.graphed
    return graphed.captures if isinstance(graphed, GraphedFunction) else 0


class Block(torch.nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)
        self.dropout = dropout

    def forward(self, x):
        h = F.gelu(self.first(x))
        return self.second(F.dropout(h, self.dropout, training=self.dropout > 0)) + x


def check_inference() -> dict[str, Any]:
    block = Block().to(DEVICE)
    model = thunder.compile(block)
    with torch.no_grad():
        results, inputs = [], []
        for _ in range(12):
            x = torch.randn(8, 64, device=DEVICE)
            inputs.append(x)
            results.append(model(x))
        wrong = [n for n, (x, y) in enumerate(zip(inputs, results)) if not torch.allclose(y, block(x), atol=1e-4)]
    return {"wrong": wrong, "captures": replay_count(model), "notes": thunder.compile_stats(model).notes}


def check_shapes() -> dict[str, Any]:
    block = Block().to(DEVICE)
    model = thunder.compile(block)
    wrong = []
    with torch.no_grad():
        for call in range(24):
            x = torch.randn((3, 5, 8)[call % 3], 64, device=DEVICE)
            if not torch.allclose(model(x), block(x), atol=1e-4):
                wrong.append(call)
    stats = thunder.compile_stats(model)
    return {"wrong": wrong, "misses": stats.cache_misses, "notes": stats.notes}


def check_cache() -> dict[str, Any]:
    cache, position = torch.zeros(32, 16, device=DEVICE), torch.zeros(1, dtype=torch.long, device=DEVICE)

    def step(x):
        cache.index_copy_(0, position, x)
        position.add_(1)
        return (cache * 2).sum(0)

    run, address, wrong = thunder.compile(step), cache.data_ptr(), []
    expected = torch.zeros(32, 16, device=DEVICE)
    with torch.no_grad():
        for number in range(10):
            x = torch.randn(1, 16, device=DEVICE)
            expected[number] = x[0]
            if not torch.allclose(run(x), (expected * 2).sum(0), atol=1e-4):
                wrong.append(number)
    kept = torch.equal(cache, expected) and cache.data_ptr() == address
    return {"wrong": wrong, "cache_in_place": kept, "captures": replay_count(run),
            "notes": thunder.compile_stats(run).notes}  # fmt: skip


def check_moving_parameter() -> dict[str, Any]:
    layer = torch.nn.Linear(1024, 1024).to(DEVICE)
    model, wrong = thunder.compile(layer), []
    with torch.no_grad():
        for call in range(12):
            if call == 6:
                layer.weight.data = torch.randn(1024, 1024, device=DEVICE)
            x = torch.randn(4, 1024, device=DEVICE)
            if not torch.allclose(model(x), layer(x), atol=1e-2, rtol=1e-3):
                wrong.append(call)
    return {"wrong": wrong, "captures": replay_count(model), "notes": thunder.compile_stats(model).notes}


def check_random() -> dict[str, Any]:
    run = thunder.compile(lambda x: F.dropout(x, 0.5) + torch.rand_like(x))
    x = torch.ones(4096, device=DEVICE)
    for _ in range(3):
        run(x)
    torch.manual_seed(5)
    ours = [run(x) for _ in range(4)]
    torch.manual_seed(5)
    again = [run(x) for _ in range(4)]
    distinct = all(not torch.equal(a, b) for a, b in zip(ours, ours[1:]))
    return {"repeats_with_seed": all(torch.equal(a, b) for a, b in zip(ours, again)), "calls_differ": distinct,
            "captures": replay_count(run), "notes": thunder.compile_stats(run).notes}  # fmt: skip


def check_training() -> dict[str, Any]:
    torch.manual_seed(0)
    found = {}
    for accumulate in (False, True):
        network = torch.nn.Sequential(*(Block() for _ in range(4))).to(DEVICE)
        model = thunder.compile(network, plugins="reduce-overhead")
        x, wrong = torch.randn(8, 64, device=DEVICE), []
        for call in range(8):
            gradients = []
            for module in (network, model):
                saved = [p.grad.clone() if p.grad is not None and accumulate else None for p in network.parameters()]
                if not accumulate:
                    network.zero_grad()
                module(x).square().mean().backward()
                gradients.append([p.grad.clone() for p in network.parameters()])
                for parameter, before in zip(network.parameters(), saved):
                    if module is network:
                        parameter.grad = before
            if not all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(*gradients)):
                wrong.append(call)
        found["accumulate" if accumulate else "plain"] = {
            "wrong": wrong, "notes": thunder.compile_stats(model).notes, "captures": replay_count(model),
        }  # fmt: skip
    return found


def check_streams() -> dict[str, Any]:
    block = Block().to(DEVICE)
    model, wrong = thunder.compile(block), []
    other = torch.cuda.Stream()
    with torch.no_grad():
        for call in range(12):
            x = torch.randn(8, 64, device=DEVICE)
            expected = block(x)
            if call % 2:
                other.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(other):
                    found = model(x).clone()
                torch.cuda.current_stream().wait_stream(other)
            else:
                found = model(x).clone()
            if not torch.allclose(found, expected, atol=1e-4):
                wrong.append(call)
    return {"wrong": wrong, "captures": replay_count(model), "notes": thunder.compile_stats(model).notes}


def check_freed_workspaces() -> dict[str, Any]:
    """Graphs go on when somebody else (torch.compile does) has freed the workspaces of the matrix libraries."""
    network = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8))).to(DEVICE)
    model, wrong = thunder.compile(network), []
    with torch.no_grad():
        for call in range(12):
            x = torch.randn(64, 512, device=DEVICE)
            if call == 6:
                torch._C._cuda_clearCublasWorkspaces()
                torch.cuda.empty_cache()
                taken = [torch.full((2**21,), 7.0, device=DEVICE) for _ in range(40)]
            if not torch.allclose(model(x), network(x), atol=1e-3):
                wrong.append(call)
    spoilt = sum(bool((tensor != 7.0).any()) for tensor in taken)
    return {"wrong": wrong, "spoilt": spoilt, "captures": replay_count(model),
            "notes": thunder.compile_stats(model).notes}  # fmt: skip


def check_failed_capture() -> dict[str, Any]:
    """A capture that fails is noted, the call is answered, and random numbers go on."""
    calls = []

    @torch.library.custom_op("gpu_generate::synchronise", mutates_args=())
    def synchronise(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x * float(x.sum().item() > -1)

    synchronise.register_fake(lambda x: torch.empty_like(x))
    run = thunder.compile(lambda x: torch.ops.gpu_generate.synchronise(x) + 1, recipe="auto")
    x, wrong = torch.ones(4, device=DEVICE), []
    with torch.no_grad():
        for call in range(4):
            if not torch.equal(run(x), x + 1):
                wrong.append(call)
    torch.randn(4, device=DEVICE)
    return {"wrong": wrong, "notes": thunder.compile_stats(run).notes}


GRAPH_CHECKS = (
    check_inference,
    check_shapes,
    check_cache,
    check_moving_parameter,
    check_random,
    check_training,
    check_streams,
    check_freed_workspaces,
)


# (b) Tokens -----------------------------------------------------------------------------------------------------------
def small_model() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=256,
        vocab_size=512, max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).to(DEVICE).eval()


def token_modes() -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
    torch.manual_seed(1)
    one, two = torch.randint(3, 512, (1, 10), device=DEVICE), torch.randint(3, 512, (3, 12), device=DEVICE)
    mask = torch.ones_like(two)
    mask[0, :5] = 0
    mask[1, :2] = 0
    many = list(range(0, 500, 9))
    return {
        "greedy": (one, {}),
        "batch": (two, {}),
        "left_padded": (two, {"attention_mask": mask}),
        "eos": (two, {"eos_token_id": many, "pad_token_id": 1}),
        "static_cache": (one, {"cache_implementation": "static"}),
        "repetition_penalty": (one, {"repetition_penalty": 1.3}),
        "sampling": (two, {"do_sample": True, "top_k": 20, "temperature": 0.8}),
    }


def check_tokens() -> dict[str, Any]:
    model = small_model()
    compiled = thunder.compile(model)
    found: dict[str, Any] = {}
    for name, (ids, options) in token_modes().items():
        try:
            options = {"max_new_tokens": 40, "pad_token_id": 0, **options}
            answers = []
            for module in (model, compiled, compiled, compiled):
                torch.manual_seed(7)
                answers.append(module.generate(ids, **options))
            wanted = answers[0]
            found[name] = [bool(wanted.shape == a.shape and torch.equal(wanted, a)) for a in answers[1:]]
        except Exception:  # one mode must not hide the others
            found[name] = traceback.format_exc()[-1500:]
    found["notes"] = thunder.compile_stats(compiled).notes
    return found


# (c) Times ------------------------------------------------------------------------------------------------------------
def large_model(layers: int = 28) -> Any:
    """The configuration of DeepSeek-R1-Distill-Qwen-1.5B with random weights."""
    config = Qwen2Config(
        hidden_size=1536, num_hidden_layers=layers, num_attention_heads=12, num_key_value_heads=2,
        intermediate_size=8960, vocab_size=151936, max_position_embeddings=131072, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = Qwen2ForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    return model.eval()


def time_generate(model: Any, compiled: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    ids = torch.randint(0, 151936, (1, 10), device=DEVICE)

    def plain(module: Any, tokens: int, **options: Any) -> Any:
        return module.generate(ids, max_new_tokens=tokens, do_sample=False, **options)

    found: dict[str, Any] = {}
    found["thunder"] = timed(lambda: plain(compiled, 100), warm=4, repeats=7)
    found["thunder_20_tokens"] = timed(lambda: plain(compiled, 20), warm=1, repeats=7)
    per_token = (found["thunder"]["median_ms"] - found["thunder_20_tokens"]["median_ms"]) / 80
    found["thunder_ms_per_token"] = per_token
    if arguments.eos:
        found["thunder_eos"] = timed(lambda: plain(compiled, 100, eos_token_id=151643), warm=4, repeats=5)
    found["thunder_notes"] = thunder.compile_stats(compiled).notes
    if not arguments.no_eager:
        found["hf_eager"] = timed(lambda: plain(model, 100), warm=1, repeats=3)
        found["ratio"] = found["hf_eager"]["median_ms"] / found["thunder"]["median_ms"]
    if arguments.hf_compile:
        static = timed(lambda: plain(model, 100, cache_implementation="static"), warm=2, repeats=5)
        found["hf_static_compile"] = static
    return found


def time_forward(model: Any, compiled: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    ids = torch.randint(0, 151936, (1, 10), device=DEVICE)
    found: dict[str, Any] = {}
    with torch.no_grad():
        found["thunder"] = timed(lambda: compiled(ids, use_cache=False), warm=4, repeats=30)
        found["thunder_host_ms"] = host_ms(lambda: compiled(ids, use_cache=False))
        found["thunder_back_to_back_ms"] = device_ms(lambda: compiled(ids, use_cache=False))
        found["kernels"] = kernels_of(lambda: compiled(ids, use_cache=False))
        if arguments.with_cache:
            found["thunder_with_cache"] = timed(lambda: compiled(ids), warm=4, repeats=30)
        found["eager"] = timed(lambda: model(ids, use_cache=False), warm=2, repeats=5)
        reference, ours = model(ids, use_cache=False).logits, compiled(ids, use_cache=False).logits
        difference = (reference.float() - ours.float()).norm() / reference.float().norm()
        found["relative_difference_to_eager"] = difference.item()
        if arguments.torch_compile:
            peer = torch.compile(model, mode="reduce-overhead")
            found["torch_compile"] = timed(lambda: peer(ids, use_cache=False), warm=4, repeats=30)
    found["captures"] = replay_count(compiled)
    found["notes"] = thunder.compile_stats(compiled).notes
    return found


# (d) Profile ----------------------------------------------------------------------------------------------------------
def profile_step(compiled: Any) -> dict[str, Any]:
    """The kernels of decoding steps: (40 tokens) - (20 tokens), divided by 20."""
    ids = torch.randint(0, 151936, (1, 10), device=DEVICE)
    tables = []
    for tokens in (20, 40):
        compiled.generate(ids, max_new_tokens=tokens, do_sample=False)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            compiled.generate(ids, max_new_tokens=tokens, do_sample=False)
            torch.cuda.synchronize()
        tables.append({event.key: (event.count, event.self_device_time_total) for event in profiler.key_averages()})
    rows = []
    for name, (count, total) in tables[1].items():
        count_before, total_before = tables[0].get(name, (0, 0.0))
        if count > count_before:
            rows.append((name[:110], (count - count_before) / 20, round((total - total_before) / 20, 2)))
    rows.sort(key=lambda row: -row[2])
    return {
        "kernels_per_token": sum(row[1] for row in rows),
        "microseconds_per_token": round(sum(row[2] for row in rows), 1),
        "rows (name, count, microseconds) per token": rows[:40],
    }


# Putting it together --------------------------------------------------------------------------------------------------
def run_part(report: dict[str, Any], name: str, function: Callable[[], Any]) -> None:
    start = time.perf_counter()
    try:
        report[name] = function()
        torch.cuda.synchronize()
    except Exception:  # a part that fails must not stop the others
        report[name] = {"error": traceback.format_exc()[-3000:]}
    report.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 2)
    print(f"{name}: {json.dumps(report[name], default=str)[:1500]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="gpu_generate.json")
    parser.add_argument("--parts", default="graphs,generate,forward,profile,tokens")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hf-compile", action="store_true")
    parser.add_argument("--torch-compile", action="store_true")
    parser.add_argument("--no-eager", action="store_true")
    parser.add_argument("--eos", action="store_true", help="times generation that looks for an end as well")
    parser.add_argument("--with-cache", action="store_true", help="times the forward pass that makes a cache as well")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    faulthandler.dump_traceback_later(40, repeat=True)  # says where a part that takes long is
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "thunder": thunder.__version__,
    }

    def save() -> None:
        with open(arguments.output, "w") as file:
            json.dump(report, file, indent=1, default=str)

    if "graphs" in parts:
        for check in GRAPH_CHECKS:
            run_part(report, check.__name__, check)
    save()
    if {"generate", "forward", "profile"} & set(parts):
        model = large_model(arguments.layers)
        compiled = thunder.compile(model)
        torch.cuda.synchronize()
        if "generate" in parts:
            run_part(report, "generate_100_tokens", lambda: time_generate(model, compiled, arguments))
            save()
        if "profile" in parts:
            run_part(report, "profile", lambda: profile_step(compiled))
            save()
        if "forward" in parts:
            run_part(report, "forward_10_tokens", lambda: time_forward(model, compiled, arguments))
            save()
    if "tokens" in parts:
        run_part(report, "check_tokens", check_tokens)
    save()
    if "graphs" in parts:
        run_part(report, "check_failed_capture", check_failed_capture)
    save()


if __name__ == "__main__":
    main()
