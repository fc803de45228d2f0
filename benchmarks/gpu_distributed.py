"""Training and decoding on several GPUs, thunder beside PyTorch's own, in one run.

    torchrun --nproc-per-node 2 benchmarks/gpu_distributed.py --model 1b --sequence 2048 --batch 4 --output 1b.json
    torchrun --nproc-per-node 2 benchmarks/gpu_distributed.py --device cpu --model tiny --sequence 16 --batch 2 \
        --contenders thunder torch --output tiny.json

For each strategy (`--strategies`) every contender trains the same model, from the same values, on the same batches:
thunder's plugin, PyTorch's own (DDP, `fully_shard`, `parallelize_module`), and that with torch.compile.  The JSON has,
for each: losses of ten steps, milliseconds a step, tokens a second and GPU, peak memory of each rank, and from one
profiled step the milliseconds in which only communication ran.  `--decode` times generation under tensor parallelism
beside one GPU's; `--fp8` trains with "fp8" and "fsdp" together.  A part that fails has its error in the JSON.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import torch.distributed as dist
import transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import thunder
from thunder.plugins import DDP, FSDP, PP, TP

STRATEGIES = ("ddp", "fsdp-zero2", "fsdp-zero3", "tp")
CONTENDERS = ("thunder", "torch", "torch.compile")

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
    },
    "8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}  # fmt: skip


class Run:
    """One run of the script on this rank: arguments, device, and what has been measured."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.is_cuda = arguments.device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.is_cuda else torch.device("cpu")
        self.dtype = torch.bfloat16 if self.is_cuda else torch.float32
        self.results: dict[str, Any] = {}

    # Models and batches ---------------------------------------------------------------------------------------------
    def model(self) -> torch.nn.Module:
        """The model with random weights, the same at every call and on every rank."""
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**CONFIGURATIONS[self.arguments.model], max_position_embeddings=8192)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                return transformers.LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(before)

    def batches(self, count: int, *, same_everywhere: bool) -> list[torch.Tensor]:
        arguments = self.arguments
        generator = torch.Generator().manual_seed(1 if same_everywhere else 1 + self.rank)
        size = (arguments.batch, arguments.sequence)
        vocabulary = CONFIGURATIONS[arguments.model]["vocab_size"]
        return [torch.randint(0, vocabulary, size, generator=generator).to(self.device) for _ in range(count)]

    # Measuring ------------------------------------------------------------------------------------------------------
    def synchronise(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def part(self, name: str, function: Callable[[], Any]) -> None:
        """Measures one part; its result, or its error, goes into the results of every rank."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            found: Any = function()
        except Exception as error:  # a boundary: one contender's failure must not cost the others their figures
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-3000:]}
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, found)
        self.results[name] = {"ranks": gathered, "seconds": time.perf_counter() - start}
        if self.rank == 0:
            shown = {key: value for key, value in found.items() if key not in ("losses", "traceback")}
            print(f"{name}: {json.dumps(shown)[:400]}", flush=True)
            with open(self.arguments.output, "w") as file:
                json.dump(self.written(), file, indent=1)
        torch._dynamo.reset()
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def written(self) -> dict[str, Any]:
        return {
            "arguments": vars(self.arguments),
            "world": self.world,
            "device": torch.cuda.get_device_name() if self.is_cuda else "cpu",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "results": self.results,
        }

    def train(self, step: Callable[[torch.Tensor], torch.Tensor], *, same_everywhere: bool) -> dict[str, Any]:
        """Ten steps for their losses, as many as asked for their times, one for its profile."""
        batches = self.batches(10, same_everywhere=same_everywhere)
        start = time.perf_counter()
        losses = [step(batches[0]).item()]
        first = time.perf_counter() - start
        losses += [step(batch).item() for batch in batches[1:]]
        times = []
        for number in range(self.arguments.steps):
            self.synchronise()
            start = time.perf_counter()
            step(batches[number % 10])
            self.synchronise()
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        tokens = self.arguments.batch * self.arguments.sequence / (self.world if same_everywhere else 1)
        found = {
            "losses": losses,
            "first_step_s": first,
            "step_ms": 1e3 * median,
            "tokens_per_second_per_gpu": tokens / median,
        }
        if self.is_cuda:
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            found.update(self.profile(lambda: step(batches[0])))
        return found

    def profile(self, function: Callable[[], Any]) -> dict[str, float]:
        """Milliseconds of one call in which kernels of communication ran, and in which nothing else did."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            function()
            torch.cuda.synchronize()
        talking, working = [], []
        for event in profiler.events():
            if event.device_type is torch.autograd.DeviceType.CUDA:
                span = (event.time_range.start, event.time_range.end)
                (talking if "nccl" in event.name.lower() else working).append(span)
        both = union_length([*talking, *working])
        return {
            "communication_ms": union_length(talking) / 1e3,
            "exposed_communication_ms": (both - union_length(working)) / 1e3,
            "busy_ms": both / 1e3,
        }


def union_length(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total


# Contenders -------------------------------------------------------------------------------------------------------
def trainer(run: Run, model: Any, parameters: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, foreach=False)

    def step(tokens: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def by_thunder(run: Run, strategy: str) -> dict[str, Any]:
    plugins: dict[str, Any] = {
        "ddp": lambda: DDP(),
        "fsdp-zero2": lambda: FSDP(stage=2),
        "fsdp-zero3": lambda: FSDP(),
        "tp": lambda: TP(),
    }
    model = thunder.compile(run.model(), plugins=plugins[strategy]())
    found = run.train(trainer(run, model, model.parameters()), same_everywhere=strategy == "tp")
    statistics_of = thunder.compile_stats(model)
    return {**found, "programs": statistics_of.cache_misses, "notes": list(statistics_of.notes)[:5]}


def by_torch(run: Run, strategy: str, *, compiles: bool) -> dict[str, Any]:
    model: Any = run.model()
    mesh = init_device_mesh(run.arguments.device, (run.world,))
    if strategy == "ddp":
        model = DistributedDataParallel(model, device_ids=[run.device.index] if run.is_cuda else None)
        model = torch.compile(model) if compiles else model
    elif strategy == "tp":
        parallelize_module(model, mesh, tensor_plan(model))
        model = torch.compile(model) if compiles else model
    else:
        for layer in model.model.layers:
            if compiles:
                layer.compile()
            fully_shard(layer, mesh=mesh, reshard_after_forward=strategy == "fsdp-zero3")
        fully_shard(model, mesh=mesh, reshard_after_forward=strategy == "fsdp-zero3")
    return run.train(trainer(run, model, model.parameters()), same_everywhere=strategy == "tp")


def tensor_plan(model: Any) -> dict[str, Any]:
    plan: dict[str, Any] = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate()),
        "lm_head": ColwiseParallel(output_layouts=Replicate()),
    }
    for number in range(len(model.model.layers)):
        layer = f"model.layers.{number}"
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            plan[f"{layer}.{name}"] = ColwiseParallel()
        plan[f"{layer}.self_attn.o_proj"] = plan[f"{layer}.mlp.down_proj"] = RowwiseParallel()
    return plan


def pipelined(run: Run) -> dict[str, Any]:
    """Two stages with 1F1B."""
    model = thunder.compile(run.model(), plugins=PP(microbatches=min(run.arguments.batch, 2 * run.world)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)

    def step(tokens: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model.train_step(input_ids=tokens, labels=tokens, use_cache=False)
        optimizer.step()
        return loss

    return {**run.train(step, same_everywhere=True), "stages": model.stages()}


def with_fp8(run: Run) -> dict[str, Any]:
    model = thunder.compile(run.model().train(), plugins=["fp8", FSDP()])
    return run.train(trainer(run, model, model.parameters()), same_everywhere=False)


def decoding(run: Run) -> dict[str, Any]:
    """Milliseconds a token at batch 1: tensor parallelism, and this GPU alone."""
    found = {}
    tokens = torch.arange(3, 35, device=run.device)[None]
    for name, plugins in (("tp", TP()), ("alone", None)):
        model = thunder.compile(run.model().eval(), plugins=plugins)
        options: dict[str, Any] = {"max_new_tokens": 33, "min_new_tokens": 33, "do_sample": False}
        answer = model.generate(tokens, **options)
        model.generate(tokens, **options)
        run.synchronise()
        start = time.perf_counter()
        model.generate(tokens, **options)
        run.synchronise()
        found[f"{name}_ms_per_token"] = 1e3 * (time.perf_counter() - start) / 33
        found[f"{name}_tokens"] = answer[0, -33:].tolist()
        del model
        gc.collect()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=list(CONFIGURATIONS), default="1b")
    parser.add_argument("--sequence", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=2, help="of each rank; with tp and pp, of all")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--strategies", nargs="*", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--pp", action="store_true")
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--output", default="gpu_distributed.json")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if arguments.device == "cuda" else "gloo", timeout=datetime.timedelta(minutes=4))
    run = Run(arguments)
    for strategy in arguments.strategies:
        for contender in arguments.contenders:
            if contender == "thunder":
                run.part(f"{strategy} thunder", lambda strategy=strategy: by_thunder(run, strategy))
            else:
                compiles = contender == "torch.compile"
                run.part(
                    f"{strategy} {contender}",
                    lambda strategy=strategy, compiles=compiles: by_torch(run, strategy, compiles=compiles),
                )
    for name, function in (("pp", pipelined), ("fp8", with_fp8), ("decode", decoding)):
        if getattr(arguments, name):
            run.part(name, lambda function=function: function(run))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
