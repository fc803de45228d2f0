"""A contender's process: answers, errors, death, silence."""

from __future__ import annotations

import numpy
import pytest

from thunder.cli.contenders import EAGER, THUNDER_EAGER, Contender
from thunder.cli.worker import ContenderError, Session, Worker, answers, one_line


@pytest.fixture
def worker_of_thunder(tmp_path):
    with Worker(THUNDER_EAGER.name, tmp_path / "thunder") as started:
        yield started


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with Worker(EAGER.name, tmp_path_factory.mktemp("workers") / "eager") as started:
        yield started


def test_builds_runs_and_times(worker):
    worker.ask("build", "tiny-mlp", "cpu")
    first = worker.ask("first_call")
    assert first.seconds > 0 and first.results["output"].shape == (4, 64)
    assert numpy.array_equal(worker.ask("call")["output"], first.results["output"])
    assert 0 < worker.ask("time_calls", 3) < 1
    assert worker.ask("truth")["output"].dtype == numpy.float64


def test_an_exception_is_reported_and_the_process_goes_on(worker):
    with pytest.raises(ContenderError, match="KeyError: 'no such workload'") as caught:
        worker.ask("build", "no such workload", "cpu")
    assert "Traceback" in caught.value.details
    worker.ask("build", "tiny-mlp", "cpu")
    assert worker.alive


def test_a_step_that_was_not_compiled_is_an_error(worker_of_thunder):
    worker_of_thunder.ask("build", "tiny-mlp", "cpu")
    assert worker_of_thunder.ask("first_call").results["output"].shape == (4, 64)
    session = Session(EAGER.name)
    session.contender = Contender("lazy", lambda model: model, plain_calls=lambda compiled: 1)
    session.build("tiny-mlp", "cpu")
    with pytest.raises(ContenderError, match="not compiled: 1 calls"):
        session.first_call()


def test_a_dead_process_is_an_error(tmp_path):
    with Worker(EAGER.name, tmp_path / "dies") as worker:
        worker._process.kill()
        with pytest.raises(ContenderError, match="the process ended"):
            worker.ask("warm_up")
        assert not worker.alive


def test_silence_is_an_error(tmp_path):
    with Worker(EAGER.name, tmp_path / "silent", timeout=0.01) as worker:
        with pytest.raises(ContenderError, match="no answer within"):
            worker.ask("warm_up")
        assert not worker.alive


def test_messages_are_one_line():
    assert one_line(ValueError("\n\n  first\nsecond")) == "ValueError: first"
    assert one_line(RuntimeError()) == "RuntimeError"


def test_answers_come_as_they_are_ready(tmp_path):
    with Worker(EAGER.name, tmp_path / "a") as first, Worker(EAGER.name, tmp_path / "b", timeout=0.01) as silent:
        for asked in (first, silent):
            asked.send("build", "tiny-mlp", "cpu")
        found = dict(answers({"first": first, "silent": silent}))
        assert found["first"] is None and first.alive
        assert isinstance(found["silent"], ContenderError) and not silent.alive
