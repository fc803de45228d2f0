"""Compiles every kernel of the library ahead of time, on a machine without a GPU.

    python tests/kernels/compile_ahead.py [--targets 80,90,100] [--json FILE] [--quantized]

Each kernel is launched by the library's own launcher on CPU tensors; in place of running, its specialisation is
compiled for each target.  Prints registers and spilled bytes, and ends with an error when something does not compile.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from thunder.kernels import (
    cross_entropy,
    decode_attention,
    embedding,
    few_rows,
    forward_attention,
    gemv,
    layer_norm,
    rms_norm,
    rope,
    skinny,
    swiglu,
)
from thunder.precision.formats import empty_quantized, get_format
from thunder.precision.kernels import float8, float8_rows, tiles
from thunder.precision.kernels import gemm as quantized_gemm
from thunder.precision.kernels import gemv as quantized_gemv

BF16 = torch.bfloat16
_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int64: "i64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
}


class Compiler:
    """Stands for `JITFunction.run`: compiles what is launched."""

    def __init__(self, targets: list[int]) -> None:
        self.targets = targets
        self.results: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def __call__(self, kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages", "launch_pdl") if name in kwargs}
        given = dict(zip(kernel.arg_names, args)) | kwargs
        signature, constants, attributes = {}, {}, {}
        for position, parameter in enumerate(kernel.params):
            value = given[parameter.name]
            if parameter.is_constexpr or (type(value) is int and value == 1):
                signature[parameter.name] = "constexpr"
                constants[(position,)] = value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = "*" + _TYPES[value.dtype]
                attributes[(position,)] = [["tt.divisibility", 16]]
            elif type(value) is int:
                signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if value % 16 == 0:
                    attributes[(position,)] = [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32"
        for target in self.targets:
            if given.get("EARLY") and target < 90:
                continue  # from Hopper on
            described = f"{kernel.fn.__name__} sm_{target} {list(constants.values())}"
            try:
                source = ASTSource(kernel, signature, constants, attributes)
                compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
            except Exception as error:  # all failures are listed together
                self.failures.append(f"{described}: {type(error).__name__}: {str(error)[:500]}")
                continue
            self.results.append({"kernel": described, **resources(compiled.asm["cubin"])})


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of local memory of a compiled kernel, as cuobjdump tells them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    return {"registers": found.get("REG", -1), "stack": found.get("STACK", -1), "shared": found.get("SHARED", -1)}


def randn(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=BF16)


def launch_everything() -> None:
    """Calls the launchers with the sizes of a 1.5B and an 8B model."""
    for n, k in ((2048, 1536), (1536, 8960), (151936, 1536), (6144, 4096)):
        for rows in (1, 4, 8):
            gemv.launch(randn(rows, k), randn(n, k), None, randn(n), randn(rows, n), randn(k), 1e-6, "none")
    gemv.launch(randn(1, 1536), randn(2048, 1536), None, None, None, None, 1e-6, "none")
    for rows in (1, 4, 8):
        gemv.launch(randn(rows, 1536), randn(8960, 1536), randn(8960, 1536), None, None, randn(1536), 1e-6, "silu")
    for k, sizes in ((1536, (1536, 256, 256)), (1536, (8960, 8960)), (8960, (1536,))):
        x, weights, grads = randn(10, k), [randn(n, k) for n in sizes], [randn(10, n) for n in sizes]
        few_rows._launch_outputs(x, weights, [randn(n) for n in sizes])
        few_rows._launch_input_gradient(grads, weights)
        few_rows._launch_weight_gradients(x, grads)
    for block_n, warps in ((1, 1), (2, 2), (4, 4)):
        for programs in (8, 1 << 16):
            plan = gemv.Plan(block_n, 0, warps, programs, early=True)
            x, gate, up, norm = randn(1, 1536), randn(8960, 1536), randn(8960, 1536), randn(1536)
            gemv.launch(x, gate, up, None, None, norm, 1e-6, "silu", plan=plan)
            gemv.launch(x, gate, None, randn(8960), randn(1, 8960), None, 1e-6, "none", plan=plan)
            gemv.launch(randn(1, 4096), randn(4096, 4096), None, None, None, None, 1e-6, "none", plan=plan)
    for group, size in ((6, 128), (4, 64), (1, 80)):
        cache = randn(1, 2, 1024, size)
        query, position = randn(1, 2 * group, 1, size), torch.zeros(1, dtype=torch.int64)
        mask = torch.ones(1, 1, 1, 1024, dtype=torch.bool)
        for splits in (1, 8):
            decode_attention.launch(query, cache, cache, position, None, 0.1, splits)
            decode_attention.launch(query, cache, cache, None, mask, 0.1, splits)
    for size, length in ((64, 512), (64, 197), (128, 10)):
        query = randn(2, length, 12, size).transpose(1, 2)
        forward_attention.launch(query, query, query, randn(2, 1, length, length), False, 0.1)
        forward_attention.launch(query, query, query, None, True, 0.1)
    for size in (1536, 4096, 8192):
        x, weight = randn(64, size), randn(size)
        rms_norm._launch(x, None, weight, 1e-6, 0.0)
        rms_norm._launch(x, x, weight, 1e-6, 0.0)
        rms_norm._launch_backward(x, x, weight, 1e-6, 0.0, x)
        layer_norm._launch(x, x, weight, weight, 1e-6)
        layer_norm._launch_backward(x, x, weight, 1e-6, x)
    for length in (1, 64):
        q, k = randn(1, length, 12, 128).transpose(1, 2), randn(1, length, 2, 128).transpose(1, 2)
        table, cache = randn(1, 1, length, 128), randn(1, 2, 256, 128)
        rope._launch(q, table, table, backward=False)
        rope._launch(q, table.float(), table.float(), backward=True)
        rope._launch_into_cache(q, k, k, table, table, cache, cache, torch.zeros(length, dtype=torch.int64))
    for activation in ("silu", "gelu", "gelu_tanh"):
        swiglu._launch(randn(8, 8960), randn(8, 8960), activation)
        swiglu._launch_backward(randn(8, 8960), randn(8, 8960), randn(8, 8960), activation)
    logits, target, scale = randn(4, 151936), torch.zeros(4, dtype=torch.int64), torch.ones(())
    cross_entropy.row_losses(logits, target, -100)
    cross_entropy.row_gradients(logits, target, torch.zeros(4), scale, -100, torch.empty_like(logits))
    cross_entropy.losses_and_gradients_in_place(logits, target, scale, -100)
    embedding._launch_backward(randn(32, 1536), torch.zeros(32, dtype=torch.int64), 100, -1)


def launch_quantized() -> None:
    """Calls the launchers of the kernels that read quantised weights."""
    for name in ("int4", "int4-asymmetric", "nf4", "nvfp4", "mxfp4", "fp6", "mxfp6", "int8", "fp8", "mxfp8"):
        format = str(get_format(name))
        for n, k in ((2048, 1536), (1536, 8960)):
            empty = empty_quantized((n, k), format, "cpu")
            weight = quantized_gemv.Weight(empty.codes, empty.scales, empty.zeros, empty.tensor_scale, None)
            quantized_gemv.launch(randn(1, k), [weight], format)
            if k == 1536:
                quantized_gemv.launch(randn(1, k), [weight] * 3, format)
                parts = (weight.codes, weight.scales, weight.zeros, weight.tensor_scale)
                tiles.launch(*parts, format, k, BF16)
                for rows in (8, 64, 256):
                    quantized_gemm.launch(randn(rows, k), weight, format)


def launch_float8() -> None:
    """Calls the launcher that writes 8-bit floating point; from capability 8.9 on."""
    for element in ("e4m3", "e5m2"):
        for transposed in (False, True):
            float8.launch(randn(8192, 4096), None, element, transposed)
            float8.launch(randn(8192, 4096), torch.empty(()), element, transposed)
    x = randn(2048, 4096)
    for given in ((None, 0.0, None, "none"), (randn(4096), 1e-6, None, "none"), (None, 0.0, x, "silu")):
        float8_rows.launch(x, *given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="80,90,100")
    parser.add_argument("--json", default="")
    parser.add_argument("--quantized", action="store_true", help="only the kernels that read quantised weights")
    options = parser.parse_args()
    compiler = Compiler([int(target) for target in options.targets.split(",")])
    JITFunction.run = lambda kernel, *args, **kwargs: compiler(kernel, *args, **kwargs)
    modules = (
        cross_entropy, embedding, few_rows, gemv, decode_attention, forward_attention, layer_norm, rms_norm, rope,
        swiglu,
    )  # fmt: skip
    for module in modules:
        module.runs_triton = lambda tensor: True
    for module in (gemv, skinny, few_rows, quantized_gemv, quantized_gemm, forward_attention):
        module.begins_early = lambda device: True
    if not options.quantized:
        launch_everything()
    launch_quantized()
    if min(compiler.targets) >= 89:
        launch_float8()
    for row in compiler.results:
        print(f"{row['registers']:4} registers {row['stack']:5} stack {row['shared']:7} shared  {row['kernel']}")
    if options.json:
        Path(options.json).write_text(json.dumps(compiler.results, indent=1))
    for failure in compiler.failures:
        print("FAILED", failure)
    sys.exit(bool(compiler.failures))


if __name__ == "__main__":
    main()
