"""Generators of random numbers: what a program makes, seeds and restores happens in every call anew."""

from __future__ import annotations

import pytest
import torch

import thunder
from thunder.errors import ImpureCallError, SharpEdgeError, SharpEdgeWarning

OUTER = torch.Generator()


class Noise:
    generator = None


NOISE = Noise()


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def made_and_seeded(x):
    generator = torch.Generator(device="cpu").manual_seed(4)
    return torch.rand(2, generator=generator), torch.randperm(5, generator=generator), generator.initial_seed()


def seeded_by_a_size(x):
    generator = torch.Generator()
    seed = generator.initial_seed()
    generator.manual_seed(x.shape[0])
    return x.bernoulli(0.5, generator=generator), torch.randn(3, generator=generator), seed


def seeded_from_outside(x):
    OUTER.manual_seed(3)
    return torch.rand(2, generator=OUTER), OUTER.initial_seed()


def restored(x):
    state = OUTER.get_state()
    first = torch.rand(2, generator=OUTER)
    OUTER.set_state(state)
    return first, torch.rand(2, generator=OUTER), state


def seeded_process(x):
    generator = torch.manual_seed(-5)
    return torch.rand(2, generator=generator), torch.rand(2), torch.initial_seed(), generator is torch.default_generator


def cloned(x):
    generator = torch.Generator().manual_seed(2)
    first = torch.rand(2, generator=generator)
    clone = generator.clone_state()
    return first, torch.rand(2, generator=generator), torch.rand(2, generator=clone)


def made_once(x):
    if NOISE.generator is None:
        NOISE.generator = torch.Generator().manual_seed(3)
    return torch.rand(2, generator=NOISE.generator)


PROGRAMS = [
    made_and_seeded, seeded_by_a_size, seeded_from_outside, restored, seeded_process, cloned, made_once
]  # fmt: skip


@pytest.mark.parametrize("executors", [["eager"], ["aten"]], ids=["eager", "lowered"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_call_gives_the_numbers_of_plain_python(program, executors):
    compiled, x = thunder.jit(program, executors=executors), torch.full((4,), 0.5)

    def three_calls(function):
        NOISE.generator = None
        OUTER.manual_seed(1)
        torch.manual_seed(2)
        results = [function(x) for _ in range(3)]
        return results, torch.rand(1), torch.rand(1, generator=OUTER)

    same(three_calls(compiled), three_calls(program))
    assert thunder.compile_stats(compiled).plain_calls == 0


def test_a_generator_that_is_returned_is_made_by_the_call():
    compiled = thunder.jit(lambda x: torch.Generator().manual_seed(6), executors=["eager"])
    first, second = compiled(torch.ones(1)), compiled(torch.ones(1))
    assert first is not second and first.initial_seed() == second.initial_seed() == 6
    assert "torch.Generator.manual_seed(" in str(thunder.last_traces(compiled)[0])


def test_acquisition_leaves_generators_alone():
    def program(x):
        OUTER.manual_seed(3)
        torch.manual_seed(3)
        return x.nonzero().shape[0] > 1 and x

    OUTER.manual_seed(1)
    torch.manual_seed(2)
    states = OUTER.get_state(), torch.get_rng_state()
    with pytest.raises(thunder.errors.DataDependentError):
        thunder.jit(program, executors=["eager"])(torch.ones(3))
    same((OUTER.get_state(), torch.get_rng_state()), states)


def test_random_seeds_run_in_plain_python():
    def program(x):
        generator = torch.Generator()
        generator.seed()
        return torch.rand(8, generator=generator)

    compiled = thunder.jit(program, executors=["eager"])
    with pytest.warns(SharpEdgeWarning, match="seed"):
        assert not torch.equal(compiled(torch.ones(1)), compiled(torch.ones(1)))
    with pytest.raises((ImpureCallError, SharpEdgeError), match="seed"):
        thunder.jit(program, executors=["eager"], sharp_edges="error")(torch.ones(1))


def test_random_state_is_read_and_written_when_the_program_runs():
    def program(x):
        state = torch.get_rng_state()
        torch.manual_seed(42)
        first = torch.randn_like(x)
        torch.set_rng_state(state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            second = torch.rand(2)
        return first, second, torch.rand(2)

    compiled = thunder.jit(program, executors=["eager"])
    x = torch.zeros(3)
    for seed in (5, 6):
        torch.manual_seed(seed)
        expected = program(x)
        torch.manual_seed(seed)
        same(compiled(x), expected)
    assert thunder.cache_misses(compiled) == 1
