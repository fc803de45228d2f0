"""Runs the tests of one module and writes one line of JSON for each; runs natively or interpreted, like any program.

    python worker.py MODULE RESULTS

Each line of RESULTS: `{"test": name, "outcome": "started" | "passed" | "failed" | ..., "seconds": s, "detail": text}`.
"""

import json
import os
import sys
import time
import unittest


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


def main(module, results):
    os.environ.setdefault("PYTHONHASHSEED", "0")
    with open(results, "a") as file:
        suite = unittest.defaultTestLoader.loadTestsFromName("test." + module)
        began = time.perf_counter()
        suite.run(Recorder(file))
        seconds = round(time.perf_counter() - began, 3)
        file.write(json.dumps({"test": "", "outcome": "finished", "seconds": seconds, "detail": ""}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
