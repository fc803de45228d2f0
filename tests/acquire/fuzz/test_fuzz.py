"""Random programs behave compiled as they do in plain Python; and the comparison would notice if they did not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.acquire.fuzz.generator import generate
from tests.acquire.fuzz.reduction import reduce_program
from tests.acquire.fuzz.runner import check, check_seed, run_seeds
from tests.acquire.fuzz.subjects import WRONG, in_plain_python
from tests.acquire.fuzz.worlds import DIFFERENT, SAME

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.py"))
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
SETTINGS = {
    "deadline": None,
    # A seed is not made smaller by making the number smaller: the program is reduced instead.
    "phases": (Phase.explicit, Phase.reuse, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}


def assert_same(seed: int) -> None:
    """Fails with the reduced program when the seed's program behaves otherwise than in plain Python."""
    program, outcome = check_seed(seed)
    if outcome.status == SAME:
        return
    place = outcome.explanation.splitlines()[0]

    def fails(source: str) -> bool:
        found = check(source)
        return found.status == DIFFERENT and found.explanation.splitlines()[0] == place

    source = reduce_program(program, fails)
    pytest.fail(f"seed {seed}, round {outcome.round}: {outcome.explanation}\nreduced:\n{source}")


@settings(max_examples=1000, derandomize=True, **SETTINGS)
@given(seed=SEEDS)
def test_random_programs(seed):
    assert_same(seed)


@pytest.mark.slow
@settings(max_examples=10000, **SETTINGS)
@given(seed=SEEDS)
def test_many_random_programs(seed):
    assert_same(seed)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_regression(path):
    outcome = check(path.read_text())
    assert outcome.status == SAME, outcome.explanation
    assert not outcome.refusals


def test_plain_python_agrees_with_itself():
    summary = run_seeds(range(200), in_plain_python)
    assert summary.failures == []
    assert summary.exceptions < summary.calls / 3, "programs that raise at once test little"


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_compiler_is_found_out(wrong):
    summary = run_seeds(range(100), wrong, stop_at=1)
    assert summary.failures


def test_a_seed_gives_the_same_program_again():
    assert generate(7) == generate(7)
    assert generate(7).source() != generate(8).source()


def test_refusals_are_rare():
    summary = run_seeds(range(60))
    assert summary.refused <= 6, summary.refusals
