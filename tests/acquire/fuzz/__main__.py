"""`python -m tests.acquire.fuzz --programs 100000 --seed 0`: runs many programs, prints every failure's reproducer.

A long run can be made in pieces: with `--progress FILE` it goes on where the last one ended, and the file keeps the
sums; `--seconds` ends a piece.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import sys
import time
from pathlib import Path

from tests.acquire.fuzz.reduction import reduce_program
from tests.acquire.fuzz.runner import Summary, check, check_seed, run_seeds
from tests.acquire.fuzz.worlds import DIFFERENT

PROGRAMS_BETWEEN_COLLECTIONS = 50


def main() -> int:
    """Exit status 1 when a program behaves otherwise than in plain Python."""
    parser = argparse.ArgumentParser(prog="python -m tests.acquire.fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the others follow it")
    parser.add_argument("--progress", type=Path, default=None, metavar="FILE", help="go on where this file says")
    parser.add_argument("--seconds", type=float, default=None, help="end after so long, before all programs have run")
    parser.add_argument("--stop-at", type=int, default=None, metavar="N", help="stop after so many failures")
    parser.add_argument("--show", action="store_true", help="print the program of --seed and what becomes of it")
    parser.add_argument("--reduce", action="store_true", help="make failing programs small before they are printed")
    parser.add_argument("--save", type=Path, default=None, metavar="FOLDER", help="save failing programs here")
    parser.add_argument("--run", type=Path, default=None, metavar="FILE", help="run a saved program")
    options = parser.parse_args()
    if options.run is not None:
        outcome = check(options.run.read_text())
        print(outcome.status, outcome.explanation, *outcome.refusals, sep="\n")
        return int(outcome.status == DIFFERENT)
    if options.show:
        program, outcome = check_seed(options.seed)
        print(program.source(), outcome.status, outcome.explanation, *outcome.refusals, sep="\n")
        if outcome.cause is not None:
            sys.excepthook(type(outcome.cause), outcome.cause, outcome.cause.__traceback__)
        return int(outcome.status == DIFFERENT)
    return run_many(options)


def run_many(options: argparse.Namespace) -> int:
    """The long run, or a piece of it."""
    earlier = read_progress(options.progress)
    gc.collect()
    gc.freeze()  # torch's own objects; collections would go through all of them again and again
    gc.disable()  # for a third of the time; `report` collects now and then
    start = last = time.perf_counter()
    reported = 0

    def report(summary: Summary) -> bool:
        nonlocal last, reported
        for seed, explanation in summary.failures[reported:]:
            print(f"seed {seed}: {explanation}", flush=True)
            if options.reduce or options.save:
                show_failure(seed, options.reduce, options.save)
        reported = len(summary.failures)
        if summary.programs % PROGRAMS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        now = time.perf_counter()
        if now - last > 30:
            last = now
            print(summary, flush=True)
            write_progress(options.progress, earlier.plus(summary))
        return options.seconds is None or now - start < options.seconds

    seeds = range(options.seed + earlier.programs, options.seed + options.programs)
    summary = earlier.plus(run_seeds(seeds, stop_at=options.stop_at, report=report))
    write_progress(options.progress, summary)
    print(summary)
    for refusal, count in summary.refusals.most_common(20):
        print(f"  refused {count}: {refusal}")
    return int(bool(summary.failures))


def read_progress(path: Path | None) -> Summary:
    """What has been done, as far as the file says so."""
    if path is None or not path.exists():
        return Summary()
    found = json.loads(path.read_text())
    found["refusals"] = collections.Counter(found["refusals"])
    found["failures"] = [(seed, explanation) for seed, explanation in found["failures"]]
    return Summary(**found)


def write_progress(path: Path | None, summary: Summary) -> None:
    """Keeps the sums for the next piece."""
    if path is not None:
        path.write_text(json.dumps(vars(summary)))


def show_failure(seed: int, reduce: bool, folder: Path | None) -> None:
    """Prints the program of a seed, or saves it, made small if that is wanted."""
    program, outcome = check_seed(seed)
    place = outcome.explanation.splitlines()[0] if outcome.explanation else ""

    def fails(source: str) -> bool:
        found = check(source)
        return found.status == DIFFERENT and found.explanation.splitlines()[0] == place

    source = reduce_program(program, fails) if reduce and place else program.source()
    if folder is None:
        print(source, flush=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed_{seed}.py").write_text(source)


if __name__ == "__main__":
    sys.exit(main())
