"""How long the first calls of a compiled model take on a GPU, and where the time goes.

    python benchmarks/gpu_first_call.py [--profile] [--cold] [--workload deepseek-forward]

Prints seconds for the imports, the model, the first three calls, and with `--profile` the functions of the first call
that take longest.  `--cold`: with an empty folder of compiled kernels, Triton's and Inductor's included.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="deepseek-forward")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    if options.cold:
        folder = tempfile.mkdtemp()
        for variable in ("THUNDER_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            os.environ[variable] = os.path.join(folder, variable.lower())
    start = time.perf_counter()
    import torch

    from thunder.cli.worker import Session

    session = Session("thunder")
    print(f"imports {time.perf_counter() - start:.2f} s", flush=True)
    start = time.perf_counter()
    session.build(options.workload, "cuda")
    torch.cuda.synchronize()
    print(f"model {time.perf_counter() - start:.2f} s", flush=True)
    profiler = cProfile.Profile()
    if options.profile:
        profiler.enable()
    first = session.first_call().seconds
    profiler.disable()
    print(f"first call {first:.2f} s", flush=True)
    if options.profile:
        statistics = pstats.Stats(profiler).strip_dirs()
        statistics.sort_stats("cumulative").print_stats(90)
        statistics.sort_stats("tottime").print_stats(45)
    for name in ("second", "third", "fourth"):
        start = time.perf_counter()
        session.call()
        torch.cuda.synchronize()
        print(f"{name} call {time.perf_counter() - start:.4f} s", flush=True)
    print(f"back to back {session.time_calls(50) * 1e3:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
