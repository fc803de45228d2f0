"""Predicted beside measured: steps on one H100 that `thunder plan`'s cost model is held against.

    python benchmarks/plan_validation.py [--only NAME] [--output validation.json]

Needs no GPU.  The measured figures are read from `benchmarks/results/h100`; the workloads are traced on the meta
device.  Of these only deepseek-train has lent figures to the model (the rates of its matrix products); all others are
new to it.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from thunder.cli.large_workloads import FULL, large_workloads
from thunder.cli.workloads import Task, Workload
from thunder.kernels.registry import kernel_mode
from thunder.planning import Segments, TracedStep, cut, get_device, seconds_of, trace_step

RESULTS = Path(__file__).parent / "results" / "h100"
FITTED = ("deepseek-train",)


@dataclass(frozen=True)
class Measured:
    """A measured step.

    Attributes:
        file: of `RESULTS`.
        milliseconds: median of a step.
        gibibytes: peak memory, None where the process had held other models before.
        waits: whether each step began on an idle GPU, so that the host's part shows.
    """

    workload: str
    file: str
    milliseconds: float
    gibibytes: float | None
    waits: bool


LATER = ("profile-litgpt-and-long-forward.json", "profile-plan.json")
"""Profiles of single workloads, in the order in which they were taken; those that are there count."""


def measured_steps() -> list[Measured]:
    """The last figure of each workload; memory where the process had held nothing else before."""
    found: dict[str, Measured] = {}
    runs = json.loads((RESULTS / "profile.json").read_text())["runs"]
    train = _of_bench("train.json", "deepseek-train")
    for run in runs[1:]:  # the first was taken before causal masks were recognised
        for row in run["rows"]:
            name = row["workload"]
            if row["by"] == "thunder" and name not in ("deepseek-forward", "deepseek-backward"):
                memory = train["peak_memory"] / 2**30 if name == "deepseek-train" else None
                found[name] = Measured(name, "profile.json", row["median_ms"], memory, True)
    for file in LATER:
        if not (RESULTS / file).exists():
            continue
        for number, (name, rows) in enumerate(json.loads((RESULTS / file).read_text())["workloads"].items()):
            row = next((row for row in rows if row.get("by") == "thunder" and "median_ms" in row), None)
            if row is not None and name != "deepseek-forward":
                memory = row["peak_gib"] if number == 0 else None
                found[name] = Measured(name, file, row["median_ms"], memory, True)
    entry = _of_bench("bert-and-forward.json", "bert-long")
    last = json.loads((RESULTS / "first-calls.json").read_text())["runs"][-1]
    alone = json.loads((RESULTS / "profile-forward-and-litgpt.json").read_text())["workloads"]["deepseek-forward"][0]
    return [
        *found.values(),
        Measured(
            "bert-long", "bert-and-forward.json", 1e3 * entry["call"]["median"], entry["peak_memory"] / 2**30, False
        ),
        Measured(
            "deepseek-forward", "first-calls.json", float(last["back to back"].split()[0]), alone["peak_gib"], False
        ),
    ]  # fmt: skip


def _of_bench(file: str, workload: str) -> dict[str, Any]:
    entries = json.loads((RESULTS / file).read_text())["measurements"]
    return next(e for e in entries if e["workload"] == workload and e["contender"] == "thunder")


@dataclass(frozen=True)
class Predicted:
    """A predicted step: milliseconds without the host's part, and peak memory."""

    milliseconds: float
    gibibytes: float


def predict_workload(workload: Workload) -> Predicted:
    """Traces a workload of `thunder bench` and predicts its step on one H100."""
    device = get_device("h100")
    training = workload.kind == "training"
    with torch.device("meta"):
        task = workload.build()
    step = trace_step(task.model, task.args, task.kwargs, training=training)
    segments = cut(step)
    seconds = sum(
        seconds_of(half, device) for segment in segments.in_order() for half in (segment.forward, segment.backward)
    )
    outside = _loss_outside(task, step) if training else None
    if outside is not None:
        seconds += sum(seconds_of(half, device) for half in (outside.tail.forward, outside.tail.backward))
    return Predicted(1e3 * seconds, (_peak(segments, outside, training) + device.workspace) / 2**30)


def _loss_outside(task: Task, step: TracedStep) -> Segments | None:
    """The loss that the step computes of the model's result, where the model does not."""
    results = [var.value for var in step.forward.output_vars()[: step.result_count]]
    if any(result.dim() == 0 for result in results):
        return None
    logits = torch.empty(results[0].shape, dtype=results[0].dtype, device="meta", requires_grad=True)
    with kernel_mode("never"):
        return cut(trace_step(_Loss(task), (logits,), {}, training=True))


class _Loss(torch.nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.task.loss(logits)


def _peak(segments: Segments, outside: Segments | None, training: bool) -> float:
    """Bytes at the fullest moment: parameters and what is saved, gradients growing in backward."""
    size = 2  # all of these workloads are bfloat16
    alive = most = float(segments.parameters * size)
    ordered = segments.in_order()
    for segment in ordered:
        most = max(most, alive + segment.forward.peak)
        alive += segment.saved + segment.results
    if outside is not None:
        loss = outside.tail
        most = max(most, alive + loss.forward.peak)
        most = max(most, alive + loss.saved + loss.backward.peak)
        alive += outside.tail.backward.peak
    for segment in reversed(ordered) if training else ():
        most = max(most, alive + segment.backward.peak)
        alive += segment.parameters * size - segment.saved
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    workloads = {workload.name: workload for workload in large_workloads(FULL)}
    host = 1e3 * get_device("h100").step_seconds
    known: dict[str, Predicted] = {}
    rows = []
    print(f"{'step':24} {'measured':>10} {'predicted':>10} {'ratio':>6} {'GiB':>7} {'predicted':>10} {'ratio':>6}")
    for measured in measured_steps():
        if arguments.only and measured.workload not in arguments.only:
            continue
        if measured.workload not in known:
            known[measured.workload] = predict_workload(workloads[measured.workload])
        predicted = known[measured.workload]
        milliseconds = predicted.milliseconds + (host if measured.waits else 0.0)
        ratio = milliseconds / measured.milliseconds
        line = f"{measured.workload:24} {measured.milliseconds:10.2f} {milliseconds:10.2f} {ratio:6.2f}"
        if measured.gibibytes is not None:
            share = predicted.gibibytes / measured.gibibytes
            line += f" {measured.gibibytes:7.2f} {predicted.gibibytes:10.2f} {share:6.2f}"
        else:
            line += f" {'':7} {predicted.gibibytes:10.2f}"
        is_fitted = measured.workload in FITTED
        print(line + (f"  {measured.file}" + (", fitted to" if is_fitted else "")), flush=True)
        rows.append(
            {**asdict(measured), "predicted_ms": milliseconds, "predicted_gib": predicted.gibibytes, "ratio": ratio}
        )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
