"""Training and decoding on several GPUs, thunder beside PyTorch's own, in one run.

    torchrun --nproc-per-node 2 benchmarks/gpu_distributed.py --model 1b --sequence 2048 --batch 4 --output 1b.json
    torchrun --nproc-per-node 2 benchmarks/gpu_distributed.py --device cpu --model tiny --sequence 16 --batch 2 \
        --contenders thunder torch --output tiny.json
    torchrun --nproc-per-node 2 benchmarks/gpu_distributed.py --backend gloo --model tiny --sequence 64 --batch 4 \
        --contenders thunder torch --output shared.json

The last one has several processes share one GPU, with gloo, since NCCL wants one for each: losses, not times.

For each strategy (`--strategies`) every contender trains the same model, from the same values, on the same batches:
thunder's plugin, PyTorch's own (DDP, `fully_shard`, `parallelize_module`), and that with torch.compile.  The JSON has,
for each: losses of ten steps, milliseconds a step, tokens a second and GPU, peak memory of each rank, and from one
profiled step the milliseconds in which only communication ran, with the collectives that showed most; and for each
strategy what `thunder plan` predicts.  Of several `--batch` the largest is taken that all contenders can hold.

`--decode` times generation under tensor parallelism beside one GPU's; `--fp8` trains with "fp8" and "fsdp" together;
`--pp` trains a pipeline, `--offload` keeps FSDP's state on the CPU, `--graphs` captures steps in CUDA graphs.  A part
that fails has its error in the JSON.
`benchmarks/distributed_report.py` sets the figures beside one another; the script prints that at its end.
"""

from __future__ import annotations

import argparse
import datetime
import functools
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
from distributed_report import report
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import thunder
from thunder.planning import Fixed, Job, Mesh, ModelTracer, PlannedModel, get_device, make_config, search
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
        self.batch = arguments.batch[0]

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
        size = (self.batch, arguments.sequence)
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
        found["batch"] = self.batch
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, found)
        self.results[name] = {"ranks": gathered, "seconds": time.perf_counter() - start}
        if self.rank == 0:
            shown = {key: value for key, value in found.items() if key not in ("losses", "traceback", "collectives")}
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
        tokens = self.batch * self.arguments.sequence / (self.world if same_everywhere else 1)
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

    def profile(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Milliseconds of one call in which collectives ran, and in which nothing else did; the collectives, by name.

        On the CPU collectives are gloo's, which run on threads of their own beside PyTorch's operators: this shows
        that the figures come out, and says nothing of a GPU.
        """
        kinds = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[kinds.CUDA if self.is_cuda else kinds.CPU]) as profiler:
            function()
            self.synchronise()
        talking: dict[str, list[tuple[float, float]]] = {}
        working = []
        for event in profiler.events():
            span = (event.time_range.start, event.time_range.end)
            if self.is_cuda and event.device_type is not torch.autograd.DeviceType.CUDA:
                continue
            name = event.name.lower()
            if "nccl" in name if self.is_cuda else name.startswith("gloo:"):
                talking.setdefault(event.name[:60], []).append(span)
            elif self.is_cuda or name.startswith("aten::"):
                working.append(span)
        spans = [span for of_kind in talking.values() for span in of_kind]
        busy, both = union_length(working), union_length([*spans, *working])
        collectives = {}
        for name, of_kind in talking.items():
            shown = union_length([*of_kind, *working]) - busy
            collectives[name] = {"count": len(of_kind), "ms": union_length(of_kind) / 1e3, "exposed_ms": shown / 1e3}
        return {
            "communication_ms": union_length(spans) / 1e3,
            "exposed_communication_ms": (both - busy) / 1e3,
            "busy_ms": both / 1e3,
            "collectives": collectives,
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
    return stepping(model, optimizer_of(run, parameters))


def stepping(model: Any, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], torch.Tensor]:
    """A training step of a model that computes its own loss."""

    def step(tokens: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def optimizer_of(run: Run, parameters: Any) -> torch.optim.Optimizer:
    """AdamW, fused on GPUs; tensors and DTensors do not go into one kernel."""
    groups: dict[bool, list[torch.Tensor]] = {}
    for parameter in parameters:
        groups.setdefault(isinstance(parameter, DTensor), []).append(parameter)
    options: dict[str, Any] = {"fused": True} if run.is_cuda else {"foreach": False}
    return torch.optim.AdamW([{"params": members} for members in groups.values()], lr=1e-4, **options)


def by_thunder(run: Run, strategy: str, *, captured: bool = False) -> dict[str, Any]:
    plugins: dict[str, Any] = {
        "ddp": lambda: DDP(),
        "fsdp-zero2": lambda: FSDP(stage=2),
        "fsdp-zero3": lambda: FSDP(),
        "tp": lambda: TP(),
    }
    chosen = [plugins[strategy](), *(["reduce-overhead"] if captured else [])]
    model = thunder.compile(run.model(), recipe=run.arguments.recipe, plugins=chosen)
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
    count = max(run.world, min(run.batch, 2 * run.world))
    model = thunder.compile(run.model(), recipe=run.arguments.recipe, plugins=PP(microbatches=count))
    optimizer = optimizer_of(run, model.parameters())

    def step(tokens: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model.train_step(input_ids=tokens, labels=tokens, use_cache=False)
        optimizer.step()
        return loss

    return {**run.train(step, same_everywhere=True), "stages": model.stages()}


def with_fp8(run: Run) -> dict[str, Any]:
    model = thunder.compile(run.model().train(), recipe=run.arguments.recipe, plugins=["fp8", FSDP()])
    return run.train(trainer(run, model, model.parameters()), same_everywhere=False)


def with_offload(run: Run) -> dict[str, Any]:
    """Parts, gradients and the optimiser's states on the CPU; the losses are to be those of "fsdp-zero3"."""
    model = thunder.compile(run.model(), recipe=run.arguments.recipe, plugins=FSDP(offload=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)
    return run.train(stepping(model, optimizer), same_everywhere=False)


def decoding(run: Run) -> dict[str, Any]:
    """Milliseconds a token at batch 1: tensor parallelism, the same captured in a CUDA graph, and this GPU alone."""
    found: dict[str, Any] = {}
    tokens = torch.arange(3, 35, device=run.device)[None]
    count = 33 if run.is_cuda else 5
    ways: dict[str, Any] = {"tp": [TP()], "tp_graphs": [TP(), "reduce-overhead"], "alone": None}
    for name, plugins in ways.items():
        if name == "tp_graphs" and not run.is_cuda:
            continue
        try:
            model = thunder.compile(run.model().eval(), recipe=run.arguments.recipe, plugins=plugins)
            options: dict[str, Any] = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
            for _ in range(3):  # run in Python, compiled, captured
                answer = model.generate(tokens, **options)
            run.synchronise()
            start = time.perf_counter()
            model.generate(tokens, **options)
            run.synchronise()
            found[f"{name}_ms_per_token"] = 1e3 * (time.perf_counter() - start) / count
            found[f"{name}_tokens"] = answer[0, -count:].tolist()
            found[f"{name}_notes"] = [note for notes in thunder.compile_stats(model).notes for note in notes][:5]
            del model
        except Exception as error:  # a boundary: the other ways are still to be timed
            found[f"{name}_error"] = f"{type(error).__name__}: {error}"
        gc.collect()
    return found


def planned(run: Run, strategy: str) -> dict[str, float]:
    """What `thunder plan` predicts for a step of this strategy."""
    arguments = run.arguments
    config = {"model_type": "llama", "max_position_embeddings": 8192, **CONFIGURATIONS[arguments.model]}
    divided = strategy == "tp"
    batch = run.batch if divided else run.batch * run.world
    job = Job(PlannedModel(arguments.model, make_config(config, arguments.model)), arguments.sequence, batch, "bf16")
    stage = {"fsdp-zero2": 2, "fsdp-zero3": 3}.get(strategy, 0) if run.world > 1 else 0
    fixed = Fixed(run.world if divided else 1, 1, stage, run.batch, False)
    device = get_device("h200" if run.is_cuda and "H200" in torch.cuda.get_device_name() else "h100")
    tracer = ModelTracer(job, lambda text: None)
    best = search(job, Mesh(1, run.world), device, fixed, tracer)[0]
    return {"step_ms": 1e3 * best.seconds, "peak_gib": best.memory.total / 2**30}


def run_strategy(run: Run, strategy: str) -> None:
    """Every contender with the largest batch that all of them can hold."""
    for batch in sorted(run.arguments.batch, reverse=True):
        run.batch = batch
        names = []
        for contender in run.arguments.contenders:
            if contender == "thunder":
                train: Callable[[], Any] = functools.partial(by_thunder, run, strategy)
            else:
                train = functools.partial(by_torch, run, strategy, compiles=contender == "torch.compile")
            names.append(f"{strategy} {contender}")
            run.part(names[-1], train)
        ranks = [found for name in names for found in run.results[name]["ranks"]]
        if not any("OutOfMemoryError" in found.get("error", "") for found in ranks):
            break
        for name in names:
            run.results[f"{name}, batch {batch}"] = run.results.pop(name)
    if run.arguments.graphs:
        run.part(f"{strategy} thunder, graphs", functools.partial(by_thunder, run, strategy, captured=True))
    run.part(f"{strategy} planned", functools.partial(planned, run, strategy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backend", choices=("nccl", "gloo"), help="default: nccl on GPUs, gloo on CPUs")
    parser.add_argument("--model", choices=list(CONFIGURATIONS), default="1b")
    parser.add_argument("--sequence", type=int, default=2048)
    parser.add_argument("--batch", type=int, nargs="+", default=[2], help="of each rank; with tp and pp, of all")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--strategies", nargs="*", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--recipe", default="auto", help="of thunder; eager spares the CPU its compiler")
    parser.add_argument("--pp", action="store_true")
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--graphs", action="store_true", help="thunder's steps in CUDA graphs as well")
    parser.add_argument("--output", default="gpu_distributed.json")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = arguments.backend or ("nccl" if arguments.device == "cuda" else "gloo")
    dist.init_process_group(backend, timeout=datetime.timedelta(minutes=4))
    run = Run(arguments)
    for strategy in arguments.strategies:
        run_strategy(run, strategy)
    for name, function in (("pp", pipelined), ("fp8", with_fp8), ("offload", with_offload), ("decode", decoding)):
        if getattr(arguments, name):
            run.part(name, functools.partial(function, run))
    if run.rank == 0:
        print(report(run.written()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
