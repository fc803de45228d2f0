"""Calls that reach outside of the program: what they answer is never what they answered while it was acquired."""

from __future__ import annotations

import datetime
import os
import random
import secrets
import sys
import time
import uuid
import warnings

import numpy
import pytest
import torch

import thunder
from thunder.errors import SharpEdgeError, SharpEdgeWarning, UnsupportedError

RNG = random.Random(3)
NUMPY_RNG = numpy.random.default_rng(3)
LIBRARY = random
ANSWERS = {
    "random.random": lambda: random.random(),
    "random.uniform": lambda: random.uniform(0, 1),
    "random.randint": lambda: random.randint(0, 10**9),
    "random.choice": lambda: random.choice(range(10**9)),
    "random.gauss": lambda: random.gauss(0, 1),
    "under another name": lambda: LIBRARY.random(),
    "Random instance": lambda: RNG.random(),
    "Random instance, method in Python": lambda: RNG.sample(range(10**6), 2),
    "SystemRandom": lambda: random.SystemRandom().random(),
    "secrets": lambda: secrets.token_hex(8),
    "numpy.random": lambda: float(numpy.random.rand()),
    "numpy Generator": lambda: float(NUMPY_RNG.normal()),
    "os.urandom": lambda: os.urandom(8),
    "uuid.uuid4": lambda: uuid.uuid4().hex,
    "uuid.uuid1": lambda: uuid.uuid1().hex,
    "time.time": lambda: time.time(),
    "time.perf_counter": lambda: time.perf_counter_ns(),
    "datetime": lambda: datetime.datetime.now().isoformat(),
}


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    numpy.random.seed(0)
    RNG.seed(3)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_differ_are_not_kept(name):
    answer = ANSWERS[name]

    def subject(x):
        return x + 1, answer()

    compiled = thunder.jit(subject, executors=["eager"])
    found = [compiled(torch.ones(2))[1] for _ in range(3)]
    assert len(set(map(str, found))) == 3
    # Every second number of `gauss` lies in an attribute of the generator, which has a guard.
    assert thunder.compile_stats(compiled).plain_calls == (2 if name == "random.gauss" else 3)
    assert "another answer" in thunder.compile_stats(compiled).plain_reason


@pytest.mark.parametrize("name", ANSWERS)
def test_they_are_reported_with_the_line(name):
    answer = ANSWERS[name]

    def subject(x):
        return x + 1, answer()

    with pytest.raises(SharpEdgeError, match="test_sharp_edges.py:"):
        thunder.jit(subject, executors=["eager"], sharp_edges="error")(torch.ones(2))
    compiled = thunder.jit(subject, executors=["eager"], sharp_edges="warn")
    with pytest.warns(SharpEdgeWarning, match="test_sharp_edges.py:"):
        first = compiled(torch.ones(2))[1]
    assert first != compiled(torch.ones(2))[1]


def test_the_numbers_are_those_of_plain_python():
    def subject(x):
        if random.random() < 0.5:
            return x + random.randint(1, 9)
        return x * RNG.random()

    compiled = thunder.jit(subject, executors=["eager"])
    state, own = random.getstate(), RNG.getstate()
    expected = [subject(torch.ones(2)) for _ in range(6)]
    random.setstate(state)
    RNG.setstate(own)
    for value in expected:
        assert torch.equal(compiled(torch.ones(2)), value)


def test_only_calls_that_get_there_run_in_plain_python():
    def subject(x, training):
        if training:
            x = x * random.random()
        return x + 1

    compiled = thunder.jit(subject, executors=["eager"])
    for training in (True, False, True, False):
        compiled(torch.ones(2), training)
    statistics = thunder.compile_stats(compiled)
    assert statistics.plain_calls == 2
    assert (statistics.cache_misses, statistics.cache_hits) == (2, 1)


def test_a_generator_that_the_program_seeds_itself_is_its_own_affair():
    def subject(x):
        return x * random.Random(5).random()

    compiled = thunder.jit(subject, executors=["eager"], sharp_edges="error")
    assert torch.equal(compiled(torch.ones(2)), subject(torch.ones(2)))


def test_printing_happens_at_every_call(capsys):
    def subject(x, name):
        y = x + 1
        print("sum of", name, y, [1, name], sep=" | ")
        print(len(name), end="!\n")
        return y

    compiled = thunder.jit(subject, executors=["eager"])
    for count in range(3):
        compiled(torch.ones(2) * count, "x")
        assert capsys.readouterr().out == f"sum of | x | {torch.ones(2) * count + 1} | [1, 'x']\n1!\n"
    assert thunder.cache_misses(compiled) == 1


def test_printing_to_standard_error_and_writing(capsys):
    def subject(x):
        print("to stderr", file=sys.stderr)
        sys.stdout.write("written\n")
        return x

    compiled = thunder.jit(subject, executors=["eager"])
    for _ in range(2):
        compiled(torch.ones(2))
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("written\n", "to stderr\n")


def test_a_printed_tensor_that_changes_afterwards_is_refused():
    def subject(x):
        y = x + 1
        print(y)
        y.add_(1)
        return y

    with pytest.raises(UnsupportedError, match="changed in place"):
        thunder.jit(subject, executors=["eager"])(torch.ones(2))


def test_files_are_read_at_every_call(tmp_path):
    path = tmp_path / "number.txt"

    def subject(x):
        with open(path) as file:
            return x * int(file.read())

    compiled = thunder.jit(subject, executors=["eager"])
    for number in (2, 3):
        path.write_text(str(number))
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), float(number)))


def test_files_are_written_at_every_call(tmp_path):
    with open(tmp_path / "log.txt", "w+") as file:

        def subject(x):
            file.write("line\n")
            return x + 1

        compiled = thunder.jit(subject, executors=["eager"])
        for _ in range(3):
            compiled(torch.ones(2))
        file.seek(0)
        assert file.read() == "line\n" * 3


class Thing:
    pass


def test_addresses_are_those_of_the_objects():
    things = [Thing(), Thing()]
    held = torch.ones(2)

    def subject(x):
        return id(things[0]), id(held), id(x), hash(things[1]), hash(held)

    compiled = thunder.jit(subject, executors=["eager"])
    for _ in range(3):
        x = torch.ones(2)
        assert compiled(x) == subject(x)
        things.reverse()
    with pytest.raises(SharpEdgeError, match=r"id\(\)"):
        thunder.jit(subject, executors=["eager"], sharp_edges="error")(torch.ones(2))


def test_the_process_is_guarded(tmp_path, monkeypatch):
    def subject(x):
        return x + 1, os.getcwd(), os.getpid()

    compiled = thunder.jit(subject, executors=["eager"])
    first = compiled(torch.ones(2))[1:]
    monkeypatch.chdir(tmp_path)
    second = compiled(torch.ones(2))[1:]
    assert first != second == (str(tmp_path), os.getpid())


def test_plain_python_is_never_silent():
    def subject(x):
        print("hello")
        return x * random.random()

    compiled = thunder.jit(subject, executors=["eager"])
    with pytest.warns(SharpEdgeWarning, match="(?s)plain Python.*random.*test_sharp_edges.py:"):
        compiled(torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(torch.ones(2))  # once for each place


DRAWS = {
    "numpy": lambda: numpy.random.uniform(0, 1),
    "numpy Generator": lambda: NUMPY_RNG.normal(),
    "random": lambda: random.uniform(0, 1),
    "random.random": lambda: random.random(),
    "Random instance": lambda: RNG.randint(1, 6),
}


def _states():
    return random.getstate(), RNG.getstate(), str(numpy.random.get_state()), str(NUMPY_RNG.bit_generator.state)


@pytest.mark.parametrize("name", DRAWS)
def test_a_number_that_is_drawn_and_not_used_is_an_effect(name):
    draw = DRAWS[name]

    def subject(x, training, rate):
        for _ in range(3):
            drawn = draw()
            if training and drawn < rate:
                continue
            x = x + 1
        return x

    compiled = thunder.jit(subject, executors=["eager"])
    before = (random.getstate(), RNG.getstate(), numpy.random.get_state(), NUMPY_RNG.bit_generator.state)
    for training in (False, False, True, False):
        expected = subject(torch.ones(2), training, 0.5)
        states = _states()
        random.setstate(before[0])
        RNG.setstate(before[1])
        numpy.random.set_state(before[2])
        NUMPY_RNG.bit_generator.state = before[3]
        assert torch.equal(compiled(torch.ones(2), training, 0.5), expected)
        assert _states() == states
        before = (random.getstate(), RNG.getstate(), numpy.random.get_state(), NUMPY_RNG.bit_generator.state)
    assert thunder.compile_stats(compiled).plain_calls == 1
    with pytest.raises(SharpEdgeError, match="test_sharp_edges.py:"):
        thunder.jit(subject, executors=["eager"], sharp_edges="error")(torch.ones(2), False, 0.5)


class _Holder:
    last = None


HOLDER = _Holder()


def _caught(x, number):
    try:
        return x.mul(number)
    except TypeError:
        return x


def _stored(x, number):
    HOLDER.last = number
    return x


USES = {
    "comparison": lambda x, number: x + 1 if number < 0.5 else x,
    "truth": lambda x, number: x + 1 if number else x,
    "negation": lambda x, number: x + 1 if not number else x,
    "arithmetic": lambda x, number: x * (1 - number),
    "factor": lambda x, number: x * number,
    "argument": lambda x, number: x.mul(number),
    "argument, errors caught": _caught,
    "keyword": lambda x, number: torch.add(x, x, alpha=number),
    "filling": lambda x, number: torch.full((2,), number),
    "tensor": lambda x, number: torch.tensor([number]),
    "type": lambda x, number: x if type(number) is float else x + 1,
    "text": lambda x, number: (x, f"{number}"),
    "conversion": lambda x, number: x + int(number * 10),
    "maximum": lambda x, number: x + max(number, 0.5),
    "membership": lambda x, number: x if number in [0.5] else x + 1,
    "result": lambda x, number: (x, number),
    "result in a container": lambda x, number: {"x": [x, number]},
    "attribute": lambda x, number: x if hasattr(number, "is_integer") else x + 1,
    "stored": _stored,
    "closure": lambda x, number: (lambda: x + number)(),
    "default": lambda x, number: (lambda y=number: x + y)(),
}


@pytest.mark.parametrize("name", USES)
def test_a_use_of_a_drawn_number_runs_in_plain_python(name):
    use = USES[name]

    def subject(x):
        return use(x, numpy.random.uniform(0, 1))

    compiled = thunder.jit(subject, executors=["eager"])
    numpy.random.seed(0)
    expected = [subject(torch.ones(2)) for _ in range(2)]
    numpy.random.seed(0)
    assert [repr(compiled(torch.ones(2))) for _ in range(2)] == list(map(repr, expected))
    assert thunder.compile_stats(compiled).plain_calls == 2
    assert "uniform() of NumPy's random numbers" in thunder.compile_stats(compiled).plain_reason


def test_the_class_of_a_drawn_number_is_known():
    def subject(x):
        number, count = numpy.random.uniform(0, 1), random.randint(1, 6)
        match number:
            case float():
                x = x + 1
        return x * 2 if isinstance(number, float) and isinstance(count, int) and count is not None else x

    compiled = thunder.jit(subject, executors=["eager"])
    assert torch.equal(compiled(torch.ones(2)), subject(torch.ones(2)))
    assert thunder.compile_stats(compiled).plain_calls == 0
