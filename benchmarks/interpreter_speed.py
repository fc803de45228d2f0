"""The interpreter's speed on six programs: five loops, and acquiring a transformer of 28 layers.

    python benchmarks/interpreter_speed.py [--layers 28] [--repeats 5]

The loops are those of `python -m thunder.interpreter.benchmark`, plain and with a tracker, in instructions a second and
beside CPython; then the same loops acquired, with the provenance that `thunder.jit` keeps.  The model is a Llama of
`transformers` at a tiny width, so that what is measured is Python, not arithmetic; its time is beside that of one eager
call of the model, which is the same Python run by CPython.
"""

from __future__ import annotations

import argparse
import inspect
import time
from typing import Any

import torch
import transformers

from thunder.acquire import acquire
from thunder.interpreter import benchmark as loops
from thunder.interpreter import extended


def tiny_llama(layers: int) -> torch.nn.Module:
    """A Llama with real depth and next to no width."""
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


def loops_of_a_user() -> list[Any]:
    """The loops as functions of a file that is not thunder's: thunder's own functions are not acquired."""
    parts = (loops.add, loops.Counter, loops.Particle, loops.numbers, *loops.WORKLOADS)
    source = "from __future__ import annotations\n" + "\n".join(inspect.getsource(part) for part in parts)
    namespace: dict[str, Any] = {}
    exec(compile(source, "<loops>", "exec"), namespace)
    return [namespace[workload.__name__] for workload in loops.WORKLOADS]


def measure_provenance(count: int, repeats: int) -> None:
    """Prints the rate of the loops when they are acquired, as `thunder.jit` does: what is read is guarded."""
    print(f"\n{'acquired':16} {'instructions/s':>14}")
    for workload in loops_of_a_user():
        instructions = loops.instructions_of(workload, count // 10) * 10
        best = min(seconds_of(lambda: acquire(workload, (count,), {})) for _ in range(repeats))  # noqa: B023
        print(f"{workload.__name__:16} {instructions / best:14,.0f}")


def seconds_of(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure_acquisition(layers: int, repeats: int) -> None:
    """Prints the first and the best time of an acquisition, and the instructions that it executes."""
    model = tiny_llama(layers)
    inputs = {"input_ids": torch.arange(8).reshape(1, 8)}

    def acquired() -> None:
        acquire(model, (), dict(inputs))

    with torch.no_grad():
        first = seconds_of(acquired)
        best = min(seconds_of(acquired) for _ in range(repeats))
        eager = min(seconds_of(lambda: model(**inputs)) for _ in range(repeats + 1))
        executed = 0

        def count(*_: Any) -> None:
            nonlocal executed
            executed += 1

        with extended(log=count):
            acquired()
    print(f"\nacquiring {layers} layers: first {first:.2f} s, then {best:.2f} s; one eager call {eager * 1e3:.0f} ms")
    print(f"{executed:,} instructions, {executed / best:,.0f} a second, fake tensors and guards included")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--count", type=int, default=20000, help="iterations of each loop")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    loops.main(["--count", str(options.count), "--repeats", str(options.repeats)])
    measure_provenance(options.count, options.repeats)
    measure_acquisition(options.layers, options.repeats)


if __name__ == "__main__":
    main()
