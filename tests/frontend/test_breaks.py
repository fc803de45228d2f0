"""Programs that cannot be one straight line: an error before anything ran, or plain Python with one warning."""

import warnings

import pytest
import torch

import thunder
from thunder.acquire.recorder import Recorder
from thunder.errors import CompilationError, DataDependentError, SharpEdgeWarning, UnsupportedError


def same(a, b):
    torch.testing.assert_close(a, b)


def _prints(x, log):
    log.append("ran")
    print([x])
    return x * 2


def _formats(x, log):
    log.append("ran")
    warnings.warn(f"the value is {x}", stacklevel=2)
    return x * 2


def _branches(x, log):
    log.append("ran")
    x.add_(1)
    return x * 2 if x.sum() > 0 else x * 3


def _counts(x, log):
    log.append("ran")
    while x.sum() < 100:
        x = x * 2
    return x


def _converts(x, log):
    log.append("ran")
    return torch.from_numpy(x.numpy() * 2)


BREAKS = [_prints, _formats, _branches, _counts, _converts]


@pytest.mark.parametrize("program", BREAKS)
def test_a_break_is_an_error_before_anything_ran(program, capsys):
    x, log = torch.ones(3), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataDependentError, match=rf"(?s)test_breaks.py:.* in {program.__name__}.*remedy"):
            thunder.jit(program, executors=["eager"])(x, log)
    assert log == [] and torch.equal(x, torch.ones(3)) and capsys.readouterr().out == ""


@pytest.mark.parametrize("program", BREAKS)
def test_a_break_runs_in_plain_python_with_one_warning(program, capsys):
    expected, x, expected_log, log = torch.ones(3), torch.ones(3), [], []
    with warnings.catch_warnings(record=True):
        results = [program(expected, expected_log) for _ in range(2)]
    printed = capsys.readouterr().out
    compiled = thunder.jit(program, executors=["eager"], on_break="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same([compiled(x, log) for _ in range(2)], results)
    breaks = [str(warning.message) for warning in caught if warning.category is SharpEdgeWarning]
    assert len(breaks) == 1 and "test_breaks.py" in breaks[0] and program.__name__ in breaks[0]
    assert log == expected_log and torch.equal(x, expected) and capsys.readouterr().out == printed
    assert thunder.compile_stats(compiled).plain_calls == 2


def test_calls_that_do_not_break_are_compiled_beside_one_that_does():
    compiled = thunder.jit(lambda x, mode: x * 2 if mode or x.sum() > 0 else x, executors=["eager"], on_break="eager")
    x = torch.ones(2)
    with pytest.warns(SharpEdgeWarning):
        compiled(x, False)
    same([compiled(x, True), compiled(x, True)], [2 * x, 2 * x])
    assert thunder.compile_stats(compiled).plain_calls == 1 and thunder.cache_hits(compiled) == 1


def test_an_operator_without_fake_kernel_is_refused_before_anything_runs():
    log = []

    @torch.library.custom_op("thunder_tests::without_fake", mutates_args=())
    def without_fake(x: torch.Tensor) -> torch.Tensor:
        log.append("ran")
        return x * 2

    with pytest.raises(UnsupportedError, match="register_fake"):
        thunder.jit(lambda x: (log.append(1), without_fake(x)), executors=["eager"])(torch.ones(2))
    assert 1 not in log
    with pytest.warns(SharpEdgeWarning, match="without_fake"):
        result = thunder.jit(without_fake, executors=["eager"], on_break="eager")(torch.ones(2))
    same(result, 2 * torch.ones(2))


def test_a_failure_of_acquisition_alone_is_an_error_and_not_a_silent_detour(monkeypatch):
    monkeypatch.setattr(Recorder, "call", lambda *args: {}["defect"])
    log = []

    def program(x):
        log.append("ran")
        return x.sin()

    with pytest.raises(CompilationError, match="KeyError.*(?s:.)*once"):
        thunder.jit(program, executors=["eager"])(torch.ones(2))
    assert log == ["ran"]
    compiled = thunder.jit(program, executors=["eager"], on_break="eager")
    with pytest.warns(SharpEdgeWarning, match="KeyError"):
        same(compiled(torch.ones(2)), torch.ones(2).sin())
    assert log == ["ran", "ran"]


def test_generation_with_a_model_that_breaks():
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Qwen2Config(num_key_value_heads=2, vocab_size=99, **shape)

    class Branching(transformers.Qwen2ForCausalLM):
        def forward(self, *args, **kwargs):
            result = super().forward(*args, **kwargs)
            if result.logits.sum() > 1e9:
                result.logits = result.logits * 0
            return result

    model = Branching(config).eval()
    prompt = torch.arange(6)[None]
    options = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(prompt, **options)
    with pytest.raises(DataDependentError, match="test_breaks.py"):
        thunder.jit(model, executors=["eager"]).generate(prompt, **options)
    compiled = thunder.jit(model, executors=["eager"], on_break="eager")
    with pytest.warns(SharpEdgeWarning, match="test_breaks.py") as caught:
        assert torch.equal(compiled.generate(prompt, **options), expected)
    assert len([warning for warning in caught if warning.category is SharpEdgeWarning]) == 1
