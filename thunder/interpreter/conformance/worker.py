"""Runs the tests of one module and writes one line of JSON for each; runs natively or interpreted, like any program.

    python worker.py MODULE RESULTS [--frames]

Each line of RESULTS: `{"test": name, "outcome": "started" | "passed" | "failed" | ..., "seconds": s, "detail": text}`.
With --frames (interpreted runs only) a last line tells how many Python frames were interpreted and how many native.
"""

import faulthandler
import json
import os
import sys
import time
import unittest

if "--frames" in sys.argv:  # natively run workers need nothing but the standard library
    from thunder.interpreter.frame_counter import FrameCounter

SECONDS_FOR_ONE_TEST = 600


class Recorder(unittest.TestResult):
    """Writes outcomes as they come, so that they outlive a crash or a time limit."""

    def __init__(self, file):
        super().__init__()
        self.file = file
        self.subtest_failed = False

    def write(self, test, outcome, detail=""):
        record = {"test": test_name(test), "outcome": outcome, "seconds": 0.0, "detail": detail[-3000:]}
        if outcome != "started":
            record["seconds"] = round(time.perf_counter() - self.began, 3)
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def startTest(self, test):
        # A test that hangs ends the process; the next process goes on after it.
        faulthandler.dump_traceback_later(SECONDS_FOR_ONE_TEST, exit=True)
        super().startTest(test)
        self.subtest_failed = False
        self.began = time.perf_counter()
        self.write(test, "started")

    def addSuccess(self, test):
        super().addSuccess(test)
        self.write(test, "failed" if self.subtest_failed else "passed")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.subtest_failed = True
            self.write(test, "failed", f"{subtest}\n" + self._exc_info_to_string(error, test))

    def addError(self, test, error):
        super().addError(test, error)
        if not hasattr(self, "began"):
            self.began = time.perf_counter()
        self.write(test, "error", self._exc_info_to_string(error, test))

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.write(test, "failed", self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if not hasattr(self, "began"):
            self.began = time.perf_counter()
        self.write(test, "skipped", reason)

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        self.write(test, "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.write(test, "failed", "unexpected success")


def test_name(test):
    """A name that native and interpreted runs agree on."""
    return test.id().replace("__main__.", "")


def main(module, results, *options):
    counter = None
    if "--frames" in options:
        counter = FrameCounter()
        counter.start()
    try:
        run_tests(module, results)
    finally:
        if counter is not None:
            counter.stop()  # before the results are written, so that what is counted is the tests
            frames = {"interpreted": counter.interpreted, "native": counter.native}
            with open(results, "a") as file:
                file.write(json.dumps({"test": "", "outcome": "frames", **frames}) + "\n")


def known_tests(results):
    """The tests that earlier processes ran or died in."""
    if not os.path.exists(results):
        return set()
    with open(results) as file:
        return {json.loads(line)["test"] for line in file if line.endswith("\n")}


def without(suite, known):
    """The suite less the tests that are known."""
    rest = unittest.TestSuite()
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            # A suite class of its own may set things up around its tests.
            test._tests = list(without(test, known))
            rest.addTest(test)
        elif test_name(test) not in known:
            rest.addTest(test)
    return rest


def run_tests(module, results):
    known = known_tests(results)
    with open(results, "a") as file:
        suite = unittest.defaultTestLoader.loadTestsFromName("test." + module)
        if known:
            suite = without(suite, known)
        began = time.perf_counter()
        suite.run(Recorder(file))
        seconds = round(time.perf_counter() - began, 3)
        file.write(json.dumps({"test": "", "outcome": "finished", "seconds": seconds, "detail": ""}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
