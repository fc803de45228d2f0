"""Values and times of quantised linear layers on one GPU, beside bf16; every part stands alone.

    python benchmarks/gpu_precision.py --output precision.json [--seconds 95] [--parts values,gemv,...]
    python benchmarks/gpu_precision.py --parts generate --formats bf16,int4,nvfp4 --output precision_generate.json

Parts: values (errors of each path against float64), gemv (one row, against a copy's bandwidth and our bf16 kernel),
skinny (2 to 64 rows), prefill (many rows, and `torch._scaled_mm`), chunks (many rows, dequantised in parts), activation
(cost of quantising rows), dynamic (a layer whose inputs are quantised at each call), training (forward and backward of
one layer in 8 bits beside bf16), generate (tokens of the 1.5B configuration).  A part that fails gives its error in
place of figures; no part is begun when `--seconds` are over.  `gpu_quantized_layers.py`, `gpu_quantized_rows.py` and
`gpu_quantized_tiles.py` compare ways to divide the kernels.
"""

# ruff: noqa: B023  (what is timed is called within the loop that makes it)
from __future__ import annotations

import argparse
import importlib
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
from gpu_timing import copies_beyond_caches, copy_bandwidth, median_of, timed

import thunder
from thunder.kernels import gemv as bf16_gemv
from thunder.kernels import rms_norm, swiglu  # noqa: F401  (registers the operators)
from thunder.plugins import FP6, FP8, MXFP4, NVFP4, QuantizeInt4, QuantizeInt8
from thunder.precision import memory_of
from thunder.precision.formats import Quantized, dequantize, get_format, quantize
from thunder.precision.kernels import gemm, gemv, tiles
from thunder.precision.kernels.gemv import Weight
from thunder.precision.scaled_product import scaled_product, way_for

DEVICE = torch.device("cuda")
BF16 = torch.bfloat16
FORMATS = ("int8", "fp8", "mxfp8", "fp6", "int4", "nvfp4", "mxfp4", "nf4")
SHAPES = ((1536, 1536), (8960, 1536), (1536, 8960), (14336, 4096), (4096, 14336))


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def made(format: str, n: int, k: int) -> tuple[Quantized, Weight]:
    torch.manual_seed(0)
    stored = quantize(torch.randn(n, k, device=DEVICE, dtype=BF16) / k**0.5, format)
    return stored, weight_of(stored)


def weight_of(stored: Quantized) -> Weight:
    return Weight(stored.codes, stored.scales, stored.zeros, stored.tensor_scale, None)


def cloned(weight: Weight) -> Weight:
    return Weight(*(None if part is None else part.clone() for part in vars(weight).values()))


# Parts ----------------------------------------------------------------------------------------------------------------
def values(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    for format in FORMATS:
        text = str(get_format(format))
        stored, weight = made(format, 1536, 1536)
        matrix = dequantize(stored, torch.float64)
        on_cpu = Quantized(*(p.cpu() if isinstance(p, torch.Tensor) else p for p in vars(stored).values()))
        row = found[format] = {"equals_cpu": bool(torch.equal(dequantize(on_cpu), dequantize(stored).cpu()))}
        for rows in (1, 5, 64):
            x = torch.randn(rows, 1536, device=DEVICE, dtype=BF16)
            run = gemv.launch(x, [weight], text) if rows == 1 else gemm.launch(x, weight, text)
            row[f"error_{rows}"] = relative_error(run, x.double() @ matrix.t())
        parts = (stored.codes, stored.scales, stored.zeros, stored.tensor_scale)
        row["dequantised"] = relative_error(tiles.launch(*parts, text, 1536, BF16), matrix)
        merged = gemv.launch(x[:1], [weight, weight, weight], text)
        row["merged"] = relative_error(merged, (x[:1].double() @ matrix.t()).repeat(1, 3))
    for format, way in (("fp8", "rowwise"), ("fp8-tensor", "tensorwise")):
        stored, _ = made(format, 1024, 1536)
        x = torch.randn(256, 1536, device=DEVICE, dtype=BF16)
        inputs = quantize(x, format, nonfinite="keep")
        chosen = way_for(DEVICE, stored.format, inputs.format, (1024, 1536), BF16)
        out = scaled_product(way, inputs, stored.codes, stored.scales, BF16)
        exact = dequantize(inputs, torch.float64) @ dequantize(stored, torch.float64).t()
        found[f"scaled_mm_{way}"] = {"chosen": chosen, "error": relative_error(out, exact)}


def one_row(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    bandwidth = found["copy_bytes_per_second"] = copy_bandwidth()
    for n, k in SHAPES:
        row = found[f"{k} -> {n}"] = {}
        x = torch.randn(1, k, device=DEVICE, dtype=BF16)
        sets = [torch.randn(n, k, device=DEVICE, dtype=BF16) for _ in range(copies_beyond_caches(2 * n * k))]
        row["bf16"] = {
            "us": timed([lambda w=w: bf16_gemv.gemv(x, w) for w in sets]),
            "eager_us": timed([lambda w=w: F.linear(x, w) for w in sets]),
        }
        row["bf16"]["share"] = 2 * n * k / row["bf16"]["us"] / 1e-6 / bandwidth
        del sets
        for format in FORMATS:
            try:
                stored, weight = made(format, n, k)
                text = str(stored.format)
                weights = [weight] + [cloned(weight) for _ in range(copies_beyond_caches(stored.nbytes) - 1)]
                us = timed([lambda w=w: gemv.launch(x, [w], text) for w in weights])
                row[format] = {
                    "us": us,
                    "share": stored.nbytes / us / 1e-6 / bandwidth,
                    "times_bf16": row["bf16"]["us"] / us,
                }
            except Exception as error:  # a format that does not run must not hide the others
                row[format] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        print(f"  {k} -> {n}: {json.dumps(row)}", flush=True)


def some_rows(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    bandwidth = copy_bandwidth()
    n, k = 8960, 1536
    plain = [torch.randn(n, k, device=DEVICE, dtype=BF16) for _ in range(copies_beyond_caches(2 * n * k))]
    for rows in (2, 4, 8, 16, 64):
        x = torch.randn(rows, k, device=DEVICE, dtype=BF16)
        row = found[f"{rows} rows, {k} -> {n}"] = {"bf16_us": timed([lambda w=w: F.linear(x, w) for w in plain])}
        for format in ("int8", "fp8", "int4", "nvfp4"):
            stored, weight = made(format, n, k)
            text = str(stored.format)
            weights = [weight] + [cloned(weight) for _ in range(copies_beyond_caches(stored.nbytes) - 1)]
            parts = [(w.codes, w.scales, w.zeros, w.tensor_scale, None) for w in weights]
            us = timed([lambda p=p: torch.ops.thunder.linear_weight_only(x, *p, text) for p in parts])
            row[format] = {"us": us, "share": stored.nbytes / us / 1e-6 / bandwidth, "times_bf16": row["bf16_us"] / us}


def prefill(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    for n, k in ((8960, 1536), (4096, 4096), (4096, 14336)):
        weight = torch.randn(n, k, device=DEVICE, dtype=BF16) / k**0.5
        for rows in (128, 512, 2048):
            x = torch.randn(rows, k, device=DEVICE, dtype=BF16)
            row = found[f"{rows} rows, {k} -> {n}"] = {"bf16_us": timed([lambda: F.linear(x, weight)] * 8)}
            for format in ("int8", "int4", "nvfp4"):
                stored, parts = made(format, n, k)
                text = str(stored.format)
                whole = (parts.codes, parts.scales, parts.zeros, parts.tensor_scale)
                times = {
                    "dequantised_us": timed([lambda: F.linear(x, tiles.launch(*whole, text, k, BF16))] * 8),
                    "dequantise_us": timed([lambda: tiles.launch(*whole, text, k, BF16)] * 8),
                }
                if rows == 128 and format == "int8":
                    times["gemm_us"] = timed([lambda: gemm.launch(x, parts, text)] * 8)
                row[format] = times
            stored, _ = made("fp8", n, k)
            inputs = quantize(x, "fp8", nonfinite="keep")
            parts8 = (stored.codes, stored.scales, None, None, None, str(stored.format), str(get_format("fp8")))
            row["fp8"] = {
                "product_us": timed([lambda: scaled_product("rowwise", inputs, stored.codes, stored.scales, BF16)] * 8),
                "dynamic_us": timed([lambda: torch.ops.thunder.linear_dynamic(x, *parts8)] * 8),
            }


def chunks(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Many rows: a weight that is dequantised in parts, so that each is read from the cache; beside it on a stream."""
    n, k = 14336, 4096
    found["copy_bytes_per_second"] = copy_bandwidth()
    plain = [torch.randn(n, k, device=DEVICE, dtype=BF16) / k**0.5 for _ in range(4)]
    for format in ("int4", "int8"):
        stored, parts = made(format, n, k)
        text = str(stored.format)
        copies = [parts, *(cloned(parts) for _ in range(5))]
        for rows in (256, 512, 1024, 2048, 8192):
            x = torch.randn(rows, k, device=DEVICE, dtype=BF16)
            row = found[f"{format}, {rows} rows"] = {"bf16": timed([lambda w=w: F.linear(x, w) for w in plain], 7)}
            row["dequantise"] = timed([lambda w=w: dequantised(w, text, k) for w in copies], 7)
            for count in (1, 2, 4, 7):
                row[f"{count} parts"] = timed([lambda w=w: in_parts(x, w, text, count) for w in copies], 7)
                if count > 1:
                    row[f"{count} parts, two streams"] = timed(
                        [lambda w=w: in_parts(x, w, text, count, torch.cuda.Stream()) for w in copies], 7
                    )
            row = {name: round(us, 1) for name, us in row.items()}
            print(f"  {format}, {rows} rows: {row}", flush=True)


def dequantised(weight: Weight, text: str, k: int) -> torch.Tensor:
    return tiles.launch(weight.codes, weight.scales, weight.zeros, weight.tensor_scale, text, k, BF16)


def in_parts(x: torch.Tensor, weight: Weight, text: str, count: int, other: Any = None) -> torch.Tensor:
    """x times the weight, of which `count` parts are dequantised one after the other; on another stream if given."""
    n, k = weight.codes.shape[0], x.shape[-1]
    out = torch.empty(x.shape[0], n, device=DEVICE, dtype=BF16)
    step, main = n // count, torch.cuda.current_stream()
    if other is not None:
        other.wait_stream(main)
    for start in range(0, n, step):
        part = Weight(weight.codes[start : start + step], weight.scales[start : start + step], None, None, None)
        if other is None:
            matrix = dequantised(part, text, k)
        else:
            with torch.cuda.stream(other):
                matrix = dequantised(part, text, k)
            main.wait_stream(other)
            matrix.record_stream(main)
        torch.mm(x, matrix.t(), out=out[:, start : start + step])
    return out


def activation(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    x = torch.randn(2048, 4096, device=DEVICE, dtype=BF16)
    for format in ("fp8", "fp8-tensor", "mxfp8"):
        found[format] = timed([lambda: quantize(x, format, nonfinite="keep")] * 4)
    found["copy"] = timed([lambda: x.clone()] * 4)
    weight, up, ops = torch.randn(4096, device=DEVICE, dtype=BF16), torch.randn_like(x), torch.ops.thunder
    found["rows"] = timed([lambda: ops.quantize_rows(x)] * 4)
    found["rows after a norm"] = timed([lambda: ops.quantize_rows(ops.rms_norm(x, weight, 1e-6))] * 4)
    found["rows with the norm"] = timed([lambda: ops.quantize_rows(x, weight, 1e-6)] * 4)
    found["rows after a gate"] = timed([lambda: ops.quantize_rows(ops.gated_activation(x, up, "silu"))] * 4)
    found["rows with the gate"] = timed([lambda: ops.quantize_rows(x, None, 1e-6, up, "silu")] * 4)
    codes, scales = ops.quantize_rows(x, weight, 1e-6)
    normed = ops.rms_norm(x.float(), weight.float(), 1e-6)
    decoded = get_format("fp8").kind.decode(codes) * scales
    found["error of the norm's rows (about 0.026)"] = float((decoded - normed).norm() / normed.norm())


def dynamic(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Inference of a layer of Llama 8B whose inputs are quantised at each call, beside bf16."""
    plugins = {
        "bf16": None,
        "fp8": lambda: FP8(inputs="dynamic", use="inference"),
        "int4": QuantizeInt4,
    }
    for tokens in (512, 2048):
        row = found[f"{tokens} tokens"] = {}
        for name, plugin in plugins.items():
            layer, x, others = layer_of_8b()
            layer, x = layer.eval(), x[:, :tokens].detach()
            others = {**others, "position_embeddings": tuple(t[:, :tokens] for t in others["position_embeddings"])}
            try:
                own = [] if plugin is None else [plugin()]
                compiled = thunder.compile(layer, plugins=["reduce-overhead", *own])
                with torch.no_grad():
                    for _ in range(4):
                        compiled(x, **others)
                    row[f"{name}_us"] = median_of(lambda c=compiled, x=x, o=others: c(x, **o), 15)
                    row[f"{name}_kernels"] = kernels_of(lambda c=compiled, x=x, o=others: c(x, **o))
                row[f"{name}_times_bf16"] = row["bf16_us"] / row[f"{name}_us"]
            except Exception:  # one form must not hide the others
                row[f"{name}_failed"] = traceback.format_exc()[-1500:]
            print(f"  {tokens} tokens, {name}: {row.get(f'{name}_us', row.get(f'{name}_failed'))} us, "
                  f"{row.get(f'{name}_times_bf16', 0.0):.2f} times bf16", flush=True)  # fmt: skip


def layer_of_8b() -> Any:
    """A decoder layer with the sizes of Llama 3 8B, and its inputs for a sequence of 8192."""
    transformers = importlib.import_module("transformers")
    llama = importlib.import_module("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=1,
        max_position_embeddings=8192, rope_theta=500000.0, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    layer = llama.LlamaDecoderLayer(config, 0).to(DEVICE, BF16).train()
    x = torch.randn(1, 8192, 4096, device=DEVICE, dtype=BF16, requires_grad=True)
    table = llama.LlamaRotaryEmbedding(config).to(DEVICE)(x, torch.arange(8192, device=DEVICE)[None])
    return layer, x, {"position_embeddings": table, "attention_mask": None}


def training(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Forward and backward: one linear layer (from which size on 8 bits pay), and a layer of Llama 8B."""
    for rows, n, k in ((8192, 2048, 2048), (8192, 4096, 4096), (8192, 14336, 4096), (8192, 4096, 14336)):
        row = found[f"{rows} x {k} -> {n}"] = {}
        x = torch.randn(rows, k, device=DEVICE, dtype=BF16, requires_grad=True)
        tangent = torch.randn(rows, n, device=DEVICE, dtype=BF16)
        for name, plugin in (("bf16", None), ("fp8", FP8(use="training"))):
            linear = torch.nn.Linear(k, n, bias=False, device=DEVICE, dtype=BF16)
            try:
                compiled = thunder.compile(linear, plugins=plugin)
                row[f"{name}_us"] = forward_and_backward(compiled, linear, x, tangent, {})
            except Exception as error:  # one form must not hide the others
                row[f"{name}_failed"] = f"{type(error).__name__}: {error}"[:300]
        if "fp8_us" in row and "bf16_us" in row:
            row["times_bf16"] = row["bf16_us"] / row["fp8_us"]
        print(f"  {rows} x {k} -> {n}: {row}", flush=True)
    row = found["layer of Llama 8B, 8192 tokens"] = {}
    for name, plugin in (("bf16", None), ("fp8", FP8(use="training"))):
        layer, x, others = layer_of_8b()
        tangent = torch.randn_like(x)
        try:
            compiled = thunder.compile(layer, plugins=plugin)
            row[f"{name}_us"] = forward_and_backward(compiled, layer, x, tangent, others)
            row[f"{name}_kernels"] = kernels_of(
                lambda compiled=compiled, layer=layer, x=x, tangent=tangent, others=others: one_step(
                    compiled, layer, x, tangent, others
                )
            )
        except Exception:  # one form must not hide the others
            row[f"{name}_failed"] = traceback.format_exc()[-1500:]
    if "fp8_us" in row and "bf16_us" in row:
        row["times_bf16"] = row["bf16_us"] / row["fp8_us"]
    print(f"  layer: {json.dumps(row)[:2500]}", flush=True)


def one_step(compiled: Any, module: torch.nn.Module, x: torch.Tensor, tangent: torch.Tensor, others: Any) -> None:
    """Gradients of the module's parameters and of x."""
    out = compiled(x, **others)
    out = out[0] if isinstance(out, tuple) else out
    torch.autograd.grad(out, [x, *module.parameters()], tangent)


def forward_and_backward(
    compiled: Any, module: torch.nn.Module, x: torch.Tensor, tangent: torch.Tensor, others: Any
) -> float:
    """Median microseconds of a step."""
    for _ in range(3):
        one_step(compiled, module, x, tangent, others)
    return median_of(lambda: one_step(compiled, module, x, tangent, others), 11)


def kernels_of(run: Callable[[], Any]) -> list[tuple[str, int, float]]:
    """(name, count, microseconds) of the kernels of a piece of work, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    rows = [(e.key[:70], e.count, round(e.self_device_time_total, 1)) for e in profiler.key_averages()]
    return sorted(rows, key=lambda row: -row[2])[:16]


PLUGINS = {
    "bf16": None, "int8": QuantizeInt8, "int4": QuantizeInt4, "nvfp4": NVFP4, "mxfp4": MXFP4, "fp6": FP6, "fp8": FP8,
}  # fmt: skip


def large_model() -> Any:
    """The configuration of DeepSeek-R1-Distill-Qwen-1.5B with random weights."""
    transformers = importlib.import_module("transformers")
    config = transformers.Qwen2Config(
        hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        intermediate_size=8960, vocab_size=151936, max_position_embeddings=131072, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device(DEVICE):
        torch.set_default_dtype(BF16)
        try:
            torch.manual_seed(0)
            model = transformers.Qwen2ForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model.generation_config = transformers.GenerationConfig(eos_token_id=None, pad_token_id=0)
    return model.eval()


def kernels_of_a_token(compiled: Any, ids: torch.Tensor) -> list[tuple[str, float, float]]:
    """(name, count, microseconds) a token: 40 tokens less 20, divided by 20."""
    tables = []
    for tokens in (20, 40):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            compiled.generate(ids, max_new_tokens=tokens, do_sample=False)
            torch.cuda.synchronize()
        tables.append({event.key: (event.count, event.self_device_time_total) for event in profiler.key_averages()})
    rows = [
        (name[:90], (count - before[0]) / 20, round((total - before[1]) / 20, 2))
        for name, (count, total) in tables[1].items()
        if count > (before := tables[0].get(name, (0, 0.0)))[0]
    ]
    return sorted(rows, key=lambda row: -row[2])[:14]


def generate(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    for name in arguments.formats.split(","):
        generate_in(name, found)


def generate_in(name: str, found: dict[str, Any]) -> None:
    """Generation in one format."""
    ids = torch.randint(0, 151936, (1, 10), device=DEVICE)
    row = found[name] = {}
    try:
        model = large_model()
        base, _, head = name.partition("+")
        plugin = PLUGINS[base]
        options = {"include": ["layers", "lm_head"]} if head else {}
        start = time.perf_counter()
        compiled = thunder.compile(model, plugins=plugin(**options) if plugin is not None else None)
        torch.cuda.synchronize()
        row["quantise_s"] = time.perf_counter() - start
        row["gigabytes"] = memory_of(model) / 1e9
        row["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        times = []
        for _ in range(7):
            torch.cuda.synchronize()
            start = time.perf_counter()
            compiled.generate(ids, max_new_tokens=100, do_sample=False)
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
        row["warm_up_ms"], row["ms"] = times[:4], statistics.median(times[4:])
        if "bf16" in found and name != "bf16":
            row["times_bf16"] = found["bf16"]["ms"] / row["ms"]
        row["kernels"] = kernels_of_a_token(compiled, ids)
        row["notes"] = thunder.compile_stats(compiled).notes[:6]
        del model, compiled
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    except Exception:  # a format that fails must not hide the others
        row["error"] = traceback.format_exc()[-2000:]
    print(f"  {name}: {json.dumps(row, default=str)[:1500]}", flush=True)


PARTS: dict[str, Callable[[dict[str, Any], argparse.Namespace], None]] = {
    "values": values, "gemv": one_row, "skinny": some_rows, "prefill": prefill, "chunks": chunks,
    "activation": activation,
    "dynamic": dynamic, "training": training, "generate": generate,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="gpu_precision.json")
    parser.add_argument("--parts", default="values,gemv,skinny,prefill,activation,training")
    parser.add_argument(
        "--formats", default="bf16,int4,nvfp4,int8,fp8", help="for the part generate; int4+head: the head as well"
    )
    parser.add_argument("--seconds", type=float, default=95)
    arguments = parser.parse_args()
    arguments.deadline = time.perf_counter() + arguments.seconds
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "seconds": {}}
    for name in arguments.parts.split(","):
        start = time.perf_counter()
        report[name] = {}
        if start > arguments.deadline:
            report[name]["skipped"] = "out of time"
            continue
        try:
            with torch.no_grad() if name != "training" else torch.enable_grad():
                PARTS[name](report[name], arguments)
            torch.cuda.synchronize()
        except Exception:  # a part that fails must not stop the others
            report[name]["error"] = traceback.format_exc()[-3000:]
        report["seconds"][name] = round(time.perf_counter() - start, 2)
        print(f"{name} ({report['seconds'][name]} s): {json.dumps(report[name], default=str)[:2500]}", flush=True)
        with open(arguments.output, "w") as file:
            json.dump(report, file, indent=1, default=str)


if __name__ == "__main__":
    main()
