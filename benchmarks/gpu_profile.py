"""Where the GPU's time goes in one step of the large workloads, kernel by kernel, and how fast the step is.

    python benchmarks/gpu_profile.py --output profile.json --only deepseek-train --only vit-base [--sources FOLDER]

For each workload of `thunder bench --suite models`: the first call's time, the median time of a step, the peak memory,
the kernels of a step (how often, microseconds), and where the host spends its time.  `--by NAME` profiles another
contender of the benchmark, such as `torch.compile`.  `--sources` writes the last traces of thunder's programs and its
generated kernels there.
"""

from __future__ import annotations

import argparse
import cProfile
import faulthandler
import gc
import json
import os
import pstats
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import thunder
from thunder.cli.contenders import CONTENDERS
from thunder.cli.large_workloads import FULL, large_workloads
from thunder.cli.workloads import Workload, step, surroundings

WARM_UP_CALLS, TIMED_CALLS, PROFILED_CALLS = 4, 10, 3


def seconds_of(call: Any) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def profile(workload: Workload, by: str, sources: Path | None) -> dict[str, Any]:
    contender = CONTENDERS[by]
    with torch.device("cuda"):
        task = workload.build().to("cuda")
    task.generate |= dict(contender.generate)
    compiled = contender.compile(task.model)
    call = step(task, workload.kind, compiled)
    found: dict[str, Any] = {"by": by}
    with surroundings(workload.kind):
        found["first_call_s"] = round(seconds_of(call), 2)
        torch.cuda.reset_peak_memory_stats()
        found["warm_up_ms"] = [round(1e3 * seconds_of(call), 2) for _ in range(WARM_UP_CALLS)]
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        times = [1e3 * seconds_of(call) for _ in range(TIMED_CALLS)]
        found["median_ms"], found["min_ms"] = round(statistics.median(times), 3), round(min(times), 3)
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(PROFILED_CALLS):
                call()
            torch.cuda.synchronize()
        found["host"] = host_profile(call)
    rows = [
        (event.key[:150], event.count / PROFILED_CALLS, round(event.self_device_time_total / PROFILED_CALLS, 1))
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    rows.sort(key=lambda row: -row[2])
    found |= waiting(profiler.events())
    found["kernel_us"] = round(sum(row[2] for row in rows), 1)
    found["launches"] = sum(row[1] for row in rows)
    found["kernels (name, launches, microseconds)"] = rows[:70]
    if by.startswith("thunder"):
        found["notes"] = thunder.compile_stats(compiled).notes
        if sources is not None:
            write_sources(compiled, sources / workload.name)
    return found


def waiting(events: Any, limit: int = 12) -> dict[str, Any]:
    """Of the profiled calls together: from the first kernel to the last, how long any ran, and the longest times in
    which none did, with the kernels around them (microseconds; the profiler adds a little to each kernel)."""
    ranges = sorted(
        (event.time_range.start, event.time_range.end, event.name[:50])
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    if not ranges:
        return {}
    gaps, busy, end, last = [], 0.0, ranges[0][0], ""
    for start, stop, name in ranges:
        if start > end:
            gaps.append((round(start - end, 1), last, name))
        busy += max(0.0, stop - max(start, end))
        if stop > end:
            end, last = stop, name
    gaps.sort(reverse=True)
    short = [gap for gap, _, _ in gaps if gap < 20.0]
    return {
        "span_us": round(end - ranges[0][0], 1), "busy_us": round(busy, 1),
        "gaps below 20 us (number, sum)": (len(short), round(sum(short), 1)), "longest gaps": gaps[:limit],
    }  # fmt: skip


def host_profile(call: Any, limit: int = 30) -> list[tuple[str, int, float]]:
    """Where Python spends its time in a step: function, calls, microseconds in itself (several times what it takes
    unobserved, so that only ratios count)."""
    profiler = cProfile.Profile()
    torch.cuda.synchronize()
    profiler.enable()
    call()
    profiler.disable()
    torch.cuda.synchronize()
    rows = [
        (f"{Path(file).name}:{line} {name}", calls, round(1e6 * own, 1))
        for (file, line, name), (_, calls, own, _, _) in pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    ]
    return sorted(rows, key=lambda row: -row[2])[:limit]


def write_sources(compiled: Any, stem: Path) -> None:
    """The last forward and backward traces, and the source of every generated kernel in them."""
    traces = {"forward": thunder.last_traces(compiled), "backward": thunder.last_backward_traces(compiled)}
    for name, passes in traces.items():
        if not passes:
            continue
        last = passes[-1]
        stem.with_suffix(f".{name}.py.txt").write_text(str(last))
        kernels = {
            region.implementation.source: None
            for region in last.regions()
            if getattr(region.implementation, "source", None)
        }
        if kernels:
            stem.with_suffix(f".{name}.kernels.txt").write_text("\n\n".join(kernels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("profile.json"))
    parser.add_argument("--only", action="append")
    parser.add_argument("--by", action="append")
    parser.add_argument("--sources", type=Path)
    arguments = parser.parse_args()
    faulthandler.dump_traceback_later(60, repeat=True)  # says where a workload that takes long is
    if arguments.sources:
        arguments.sources.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "thunder": thunder.__version__,
        "workloads": {},
    }
    workloads = {workload.name: workload for workload in large_workloads(FULL)}
    for name in arguments.only or workloads:
        for by in arguments.by or ["thunder"]:
            began = time.perf_counter()
            try:
                found = profile(workloads[name], by, arguments.sources)
            except Exception:  # a workload that fails must not stop the others
                found = {"by": by, "error": traceback.format_exc()[-3000:]}
            found["seconds"] = round(time.perf_counter() - began, 1)
            report["workloads"].setdefault(name, []).append(found)
            arguments.output.write_text(json.dumps(report, indent=1))
            brief = {key: value for key, value in found.items() if not key.startswith(("kernels", "host", "longest"))}
            print(name, json.dumps(brief, default=str)[:1200], flush=True)
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
