"""`thunder plan`: what a training step of a model will take on a mesh of GPUs, and the plans that take least.

Input: a model's configuration, a mesh, a device.  Output: a table of the best plans, JSON, a picture of scaling.
Nothing runs: the model is traced on the meta device.

    thunder plan --model llama-70b --mesh 64x8 --device h100 --sequence 8192 --batch 1024
    thunder plan --model ./config.json --mesh 1x8 --tp 2 --json plans.json
    thunder plan --model llama-8b --mesh 128x8 --plot scaling.svg
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from thunder.cli.plot import check_plotting
from thunder.cli.scaling_plot import draw_scaling
from thunder.errors import unknown_name
from thunder.planning import (
    BUILT_IN,
    DEVICES,
    PRECISIONS,
    SCHEDULES,
    Device,
    Fixed,
    Job,
    Mesh,
    ModelTracer,
    Prediction,
    get_device,
    load_model,
    search,
)
from thunder.planning.search import scaling_meshes


def plan_table(job: Job, mesh: Mesh, device: Device, predictions: Sequence[Prediction]) -> Table:
    """The best plans, one a row."""
    fitting = sum(prediction.fits for prediction in predictions)
    title = (
        f"{job.model.name} on {mesh} {device.title}: {job.batch} sequences of {job.sequence} tokens a step, "
        f"{job.precision} precision"
    )
    caption = "predicted; " + ("" if fitting else "no plan fits the memory; ") + "the rates of this device are "
    table = Table(title=title, caption=caption + ("measured" if device.is_measured else "scaled from the H100's"))
    for heading in ("plan", "at a time", "step", "tokens/s/GPU", "MFU", "memory", "bound by"):
        table.add_column(heading, justify="left" if heading in ("plan", "bound by") else "right")
    for prediction in predictions:
        plan = prediction.plan
        at_a_time = f"{plan.micro_batch} ({plan.micro_batches(job)}x)"
        memory = f"{prediction.memory.total / 2**30:.1f} GiB"
        table.add_row(
            plan.describe() + (", checkpointing" if plan.checkpointing else ""),
            at_a_time,
            f"{prediction.seconds:.3f} s",
            f"{prediction.tokens_per_second:,.0f}",
            f"{prediction.utilisation:.1%}",
            memory if prediction.fits else f"[red]{memory}[/]",
            prediction.parts.largest(),
        )
    return table


def as_json(job: Job, mesh: Mesh, device: Device, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """All figures; times in seconds, memory in bytes."""
    return {
        "model": job.model.name,
        "mesh": str(mesh),
        "device": device.name,
        "device_is_measured": device.is_measured,
        "sequence": job.sequence,
        "batch": job.batch,
        "precision": job.precision,
        "schedule": job.schedule,
        "plans": [_prediction_json(job, prediction) for prediction in predictions],
    }


def _prediction_json(job: Job, prediction: Prediction) -> dict[str, Any]:
    return {
        **asdict(prediction.plan),
        "micro_batches": prediction.plan.micro_batches(job),
        "step_seconds": prediction.seconds,
        "parts": asdict(prediction.parts),
        "bound_by": prediction.parts.largest(),
        "tokens_per_second_per_gpu": prediction.tokens_per_second,
        "model_flops_utilisation": prediction.utilisation,
        "memory_bytes": prediction.memory.total,
        "memory": asdict(prediction.memory),
        "fits": prediction.fits,
    }


def command(
    model: Annotated[str, typer.Option(help=f"A config.json, its directory, or one of: {', '.join(BUILT_IN)}.")],
    mesh: Annotated[str, typer.Option(help="Nodes x GPUs of each: 64x8.")],
    device: Annotated[str, typer.Option(help=f"One of: {', '.join(DEVICES)}.")] = "h100",
    sequence: Annotated[int, typer.Option(min=1, help="Tokens of a sequence.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a step, over all GPUs.")] = 1024,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Only this many sequences at a time.")] = None,
    precision: Annotated[
        str, typer.Option(help="mixed: state and sums in float32, computation in bfloat16; bf16: all of it.")
    ] = "mixed",
    schedule: Annotated[str, typer.Option(help=f"Of the pipeline: {', '.join(SCHEDULES)}.")] = "1f1b",
    tp: Annotated[int | None, typer.Option(min=1, help="Only this tensor parallelism.")] = None,
    pp: Annotated[int | None, typer.Option(min=1, help="Only this many stages of a pipeline.")] = None,
    stage: Annotated[int | None, typer.Option(help="Only DDP (0), or FSDP of this stage (2, 3).")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Only with, or without.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many plans to show.")] = 10,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all plans to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the best plans' scaling up to the mesh's size (.svg or .png).")
    ] = None,
) -> None:
    """Predict the step time and memory of a model on a mesh of GPUs, and find the best plan, without running it."""
    console = Console()
    for kind, name, known in (("precision", precision, PRECISIONS), ("schedule", schedule, SCHEDULES)):
        if name not in known:
            raise unknown_name(kind, name, list(known))
    if stage not in (None, 0, 2, 3):
        raise unknown_name("stage", stage, ["0", "2", "3"])
    if plot is not None:
        check_plotting()
    gpus, shape = get_device(device), Mesh.parse(mesh)
    job = Job(load_model(model), sequence, batch, cast(Any, precision), cast(Any, schedule))
    fixed = Fixed(tp, pp, stage, micro_batch, checkpointing)
    with console.status("tracing") as status:
        tracer = ModelTracer(job, status.update)
        predictions = search(job, shape, gpus, fixed, tracer)
        smaller = [] if plot is None else scaling_meshes(shape)
        best = [(other, search(job, other, gpus, fixed, tracer)[0]) for other in smaller]
    console.print(plan_table(job, shape, gpus, predictions[:top]))
    if json_path is not None:
        json_path.write_text(json.dumps(as_json(job, shape, gpus, predictions), indent=2) + "\n")
    if plot is not None:
        draw_scaling(plot, f"{job.model.name}, {gpus.title}", job, best)
