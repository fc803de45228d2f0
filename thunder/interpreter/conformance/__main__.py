"""`python -m thunder.interpreter.conformance`: CPython's own tests, natively and interpreted, for every Python found.

For each version and module: how many tests pass natively, how many of these pass interpreted, which do not, and the
share of the executed Python frames that were interpreted.  Each run is a process of its own with a time limit; results
are kept in a directory, and what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from .modules import MODULES
from .pythons import VERSIONS, Python, find_pythons, has_module, probe
from .results import Comparison, compare, read_run
from .tables import missing_tests, modules_table, totals_table

_WORKER = Path(__file__).with_name("worker.py")
_ROOT = Path(__file__).resolve().parents[3]
_TARGET = 0.995
_PROCESSES_FOR_ONE_MODULE = 6


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m thunder.interpreter.conformance", description=__doc__)
    parser.add_argument("--python", action="append", help="a version (3.11) or an executable; default: all found")
    parser.add_argument("--module", action="append", help="a module of the test package; default: the list")
    parser.add_argument("--results", type=Path, default=Path("build/conformance"), help="where results are kept")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one run of one module")
    parser.add_argument("--jobs", type=int, default=1, help="modules that run at the same time")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    parser.add_argument(
        "--frames", action="store_true", help="count frames with 3.10 and 3.11 too, in one more, slow run"
    )
    parser.add_argument("--tables", action="store_true", help="print the results as Markdown tables too")
    return parser.parse_args(arguments)


def run_worker(python: Python, module: str, results: Path, mode: str, timeout: float) -> None:
    """One run of a module in a process of its own, in an empty directory."""
    command = [python.executable]
    if mode != "native":
        command += ["-m", "thunder.interpreter"]
    command += [str(_WORKER), module, str(results)]
    if mode == "frames" or (mode == "interpreted" and not python.counts_frames_slowly):
        command.append("--frames")
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(_ROOT)}
    environment.pop("PYTHONSTARTUP", None)
    directory = tempfile.mkdtemp(prefix="conformance-")
    end = time.monotonic() + timeout
    try:
        with open(results.with_suffix(".log"), "wb") as log:
            # A process that dies in a test is followed by one that goes on after that test.
            for _ in range(_PROCESSES_FOR_ONE_MODULE):
                subprocess.run(
                    command, cwd=directory, env=environment, timeout=end - time.monotonic(), check=False,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
                if read_run(results).seconds is not None:
                    break
    except subprocess.TimeoutExpired:
        pass  # what is missing from the results tells
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_module(python: Python, module: str, options: argparse.Namespace) -> Comparison:
    """Runs a module natively and interpreted, unless that was done before, and compares."""
    directory = options.results / python.version
    directory.mkdir(parents=True, exist_ok=True)
    paths = {mode: directory / f"{module}.{mode}.jsonl" for mode in ("native", "interpreted", "frames")}
    for mode, path in paths.items():
        if mode == "frames" and not (options.frames and python.counts_frames_slowly):
            continue
        if options.fresh:
            path.unlink(missing_ok=True)
        if read_run(path).seconds is None:  # goes on where an earlier run was stopped
            run_worker(python, module, path.resolve(), mode, options.timeout)
    runs = {mode: read_run(path) for mode, path in paths.items()}
    return compare(python.version, module, runs["native"], runs["interpreted"], runs["frames"])


def report(result: Comparison) -> str:
    """The lines that tell about one module."""
    share = f"{result.share:8.2%}" if result.share is not None else "       -"
    seconds = f"{result.interpreted_seconds:8.1f}" if result.interpreted_seconds is not None else "   (cut)"
    lines = [
        f"{result.version:8} {result.module:28} native {result.native_passed:5}  interpreted "
        f"{result.interpreted_passed:5}  missing {len(result.missing):4}  frames {share}  seconds {seconds}"
    ]
    not_run = [test for test, outcome in result.missing.items() if outcome == "not run"]
    lines += [f"    {test}: {outcome}" for test, outcome in result.missing.items() if outcome != "not run"]
    if not_run:
        lines.append(f"    not run: {len(not_run)} tests, from {not_run[0]} to {not_run[-1]}")
    return "\n".join(lines)


def summarize(results: list[Comparison]) -> dict[str, tuple[int, int]]:
    """(passed natively, passed interpreted) by version."""
    totals: dict[str, tuple[int, int]] = {}
    for result in results:
        native, interpreted = totals.get(result.version, (0, 0))
        totals[result.version] = (native + result.native_passed, interpreted + result.interpreted_passed)
    return totals


def share_of_frames(results: list[Comparison], version: str) -> str:
    """The share of a version's frames that were interpreted, over the modules where they were counted."""
    counted = [result for result in results if result.version == version and result.share is not None]
    interpreted = sum(result.interpreted_frames for result in counted)
    total = interpreted + sum(result.native_frames for result in counted)
    return f"{interpreted / total:.2%} in {len(counted)} modules" if total else "not counted (see --frames)"


def main(arguments: list[str]) -> int:
    # A shell that runs this in the background makes it ignore SIGINT, and the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = parse_arguments(arguments)
    chosen = options.python or list(VERSIONS)
    pythons = find_pythons(tuple(version for version in VERSIONS if version in chosen))
    pythons += filter(None, (probe(path) for path in chosen if os.sep in path))
    if not pythons:
        print("no Python with a test package was found", file=sys.stderr)
        return 2
    results: list[Comparison] = []
    for python in pythons:
        modules = [module for module in options.module or MODULES if has_module(python, module)]
        with ThreadPoolExecutor(options.jobs) as pool:
            for result in pool.map(lambda module, python=python: run_module(python, module, options), modules):
                results.append(result)
                print(report(result), flush=True)
    print()
    reached = True
    for version, (native, interpreted) in summarize(results).items():
        share = interpreted / native if native else 0.0
        reached = reached and share >= _TARGET
        print(
            f"{version}: {interpreted} of {native} tests that pass natively pass interpreted ({share:.2%}); "
            f"interpreted frames: {share_of_frames(results, version)}"
        )
    if options.tables:
        print("", totals_table(results), modules_table(results), missing_tests(results), sep="\n\n")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "summary.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
