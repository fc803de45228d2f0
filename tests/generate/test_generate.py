"""Generation gives Hugging Face's own tokens: architectures, modes, caches, criteria, streamers."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.generation import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import thunder
from tests.executors.recorded_graphs import RecordedGraphs
from tests.generate.tiny_models import CONFIGURATIONS, OTHER_LOOPS, make_model
from thunder.executors.cuda_graphs import GraphPolicy
from thunder.generate import GenerationMethods

TOKENS = 14


@functools.cache
def model_and_compiled(name="llama"):
    model = make_model(name)
    return model, thunder.compile(model, recipe="eager")


def prompt(batch=1, length=7):
    torch.manual_seed(5)
    return torch.randint(2, 99, (batch, length))


def padded_prompt():
    ids, mask = prompt(3, 8), torch.ones(3, 8, dtype=torch.long)
    mask[0, :5], mask[2, :2] = 0, 0
    return ids * mask, mask


def generate(model, *args, seed=3, **options):
    torch.manual_seed(seed)
    return model.generate(*args, **{"max_new_tokens": TOKENS, "do_sample": False, **options})


def assert_same(name, *args, **options):
    model, compiled = model_and_compiled(name)
    wanted = generate(model, *args, **options)
    for _ in range(2):
        assert generate(compiled, *args, **options).tolist() == wanted.tolist()
    return wanted


def own_loops(compiled):
    """Notes about calls that ran in Hugging Face's loop."""
    return [note for note in thunder.compile_stats(compiled).notes if "own loop" in note]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_architectures(name):
    ids, mask = padded_prompt()
    assert_same(name, prompt())
    assert_same(name, ids, attention_mask=mask)
    notes = own_loops(model_and_compiled(name)[1])
    if name in OTHER_LOOPS:
        assert any(OTHER_LOOPS[name] in note for note in notes)
    else:
        assert not notes


def test_a_prompt_that_ends_with_padding():
    """Its first token would be chosen by what the model makes of padding, which the loop does not reproduce."""
    model = make_model("qwen2")
    compiled = thunder.compile(model, recipe="eager")
    ids, mask = prompt(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, -2:] = 0
    wanted = generate(model, ids, attention_mask=mask)
    assert generate(compiled, ids, attention_mask=mask).tolist() == wanted.tolist()
    assert any("a prompt ends with padding" in note for note in own_loops(compiled))


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_eager_attention(name):
    model = make_model(name)
    model.set_attn_implementation("eager")
    compiled = thunder.compile(model, recipe="eager")
    ids, mask = padded_prompt()
    wanted = generate(model, ids, attention_mask=mask)
    assert generate(compiled, ids, attention_mask=mask).tolist() == wanted.tolist()
    assert not own_loops(compiled)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "top_k": 12},
        {"top_p": 0.8},
        {"min_p": 0.05},
        {"epsilon_cutoff": 0.01},
        {"repetition_penalty": 1.4},
        {"typical_p": 0.9},
    ],
    ids=str,
)
def test_sampling_draws_the_same_tokens(options):
    assert_same("llama", prompt(3), do_sample=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6, "eos_token_id": [4, 5, 6, 7, 8, 9, 30, 31, 32, 33]},
        {"suppress_tokens": [3, 4, 5]},
        {"max_length": 9, "max_new_tokens": None},
        {"max_new_tokens": 1},
        {"num_return_sequences": 3, "do_sample": True},
        {"cache_implementation": "static"},
    ],
    ids=str,
)
def test_options(options):
    assert_same("llama", prompt(2), **options)
    assert not own_loops(model_and_compiled("llama")[1])


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_other_modes_are_hugging_faces(options):
    model = make_model("llama")
    compiled = thunder.compile(model, recipe="eager")
    assert generate(compiled, prompt(), **options).tolist() == generate(model, prompt(), **options).tolist()


def test_end_of_sequence():
    ids = prompt(4)
    free = generate(model_and_compiled()[0], ids)
    eos = sorted({int(free[0, 9]), int(free[1, 12]), int(free[2, 8]), int(free[3, 15])})
    wanted = assert_same("llama", ids, eos_token_id=eos)
    assert wanted.shape[1] < free.shape[1]
    assert_same("llama", ids, eos_token_id=eos[:1])


class StopAfter(StoppingCriteria):
    """Ends a sequence once it holds a token twice."""

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids == input_ids[:, -1:]).sum(dim=1) > 1


def test_criteria_in_python():
    assert_same("llama", prompt(2), stopping_criteria=StoppingCriteriaList([StopAfter()]))


def test_maximal_time():
    assert_same("llama", prompt(2), max_time=600.0)


class Ban(LogitsProcessor):
    def __call__(self, input_ids, scores):
        scores[:, input_ids[:, -1] % 50] = -1e9
        return scores


def test_processors_in_python():
    assert_same("llama", prompt(2), logits_processor=LogitsProcessorList([Ban()]))


def test_prefix_allowed_tokens():
    assert_same("llama", prompt(1), prefix_allowed_tokens_fn=lambda batch, ids: [int(ids[-1]) % 7 + 2, 40])


class Collect(BaseStreamer):
    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("options", [{}, {"eos_token_id": list(range(4, 60))}], ids=str)
def test_streamers(options):
    model, compiled = model_and_compiled()
    wanted, found = Collect(), Collect()
    generate(model, prompt(), streamer=wanted, **options)
    generate(compiled, prompt(), streamer=found, **options)
    assert found.pieces == wanted.pieces and found.ended


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_returned_scores_and_cache(name):
    model, compiled = model_and_compiled(name)
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    wanted, found = generate(model, prompt(2), **options), generate(compiled, prompt(2), **options)
    assert found.sequences.tolist() == wanted.sequences.tolist()
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    assert type(found.past_key_values) is type(wanted.past_key_values)
    assert found.past_key_values.get_seq_length() == wanted.past_key_values.get_seq_length()
    for ours, theirs in zip(found.past_key_values.layers, wanted.past_key_values.layers):
        torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.values, theirs.values, atol=1e-4, rtol=1e-4)


def test_a_returned_cache_is_the_callers():
    _, compiled = model_and_compiled()
    first = generate(compiled, prompt(), return_dict_in_generate=True).past_key_values
    before = first.layers[0].keys.clone()
    generate(compiled, prompt(length=5), return_dict_in_generate=True)
    assert torch.equal(first.layers[0].keys, before)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_conversation_goes_on(name):
    model, compiled = model_and_compiled(name)
    answers = []
    for module in (model, compiled):
        cache = DynamicCache(config=model.config)
        first = generate(module, prompt(), past_key_values=cache)
        more = torch.cat([first, prompt(length=3)], dim=1)
        answers.append((first.tolist(), generate(module, more, past_key_values=cache).tolist(), cache.get_seq_length()))
    assert answers[0] == answers[1]


def test_a_given_static_cache():
    model, compiled = model_and_compiled()
    answers = []
    for module in (model, compiled):
        cache = StaticCache(config=model.config, max_cache_len=64)
        found = generate(module, prompt(), past_key_values=cache)
        answers.append((found.tolist(), int(cache.get_seq_length())))
    assert answers[0] == answers[1]


def test_long_and_short_calls_follow_each_other():
    for length in (3, 40, 17, 3, 100):
        assert_same("llama", prompt(length=length), max_new_tokens=5)


def test_weights_that_change():
    model = make_model("llama")
    compiled = thunder.compile(model, recipe="eager")
    before = generate(compiled, prompt()).tolist()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(torch.linspace(-0.1, 0.1, parameter.shape[-1]))
    wanted = generate(model, prompt()).tolist()
    assert generate(compiled, prompt()).tolist() == wanted != before


def test_inference_mode():
    with torch.inference_mode():
        assert_same("llama", prompt(2))


def test_half_precision_runs():
    model = make_model("llama").to(torch.bfloat16)
    found = generate(thunder.compile(model, recipe="eager"), prompt(2))
    assert found.shape == (2, 7 + TOKENS)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 10}, {"repetition_penalty": 1.2}], ids=str)
def test_captured_steps(options):
    model = make_model("qwen2")
    backend = RecordedGraphs()
    policy = GraphPolicy(training=False, verbose=True, backend=backend)
    compiled = thunder.jit(model, executors=["eager"], cuda_graphs=policy, mixins=(GenerationMethods,))
    for length in (6, 6, 9, 6):
        ids = prompt(2, length)
        assert generate(compiled, ids, **options).tolist() == generate(model, ids, **options).tolist()
    assert sum(graph.replays for graph in backend.graphs) > 2 * TOKENS


def test_captured_steps_after_weights_have_moved():
    model = make_model("qwen2")
    policy = GraphPolicy(training=False, verbose=True, backend=RecordedGraphs())
    compiled = thunder.jit(model, executors=["eager"], cuda_graphs=policy, mixins=(GenerationMethods,))
    ids = prompt(2)
    generate(compiled, ids)
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data = parameter * 1.05
        assert generate(compiled, ids).tolist() == generate(model, ids).tolist()


def test_lowered_steps():
    model = make_model("qwen2")
    compiled = thunder.jit(model, executors=["aten"], mixins=(GenerationMethods,))
    ids, mask = padded_prompt()
    wanted = generate(model, ids, attention_mask=mask).tolist()
    for _ in range(2):
        assert generate(compiled, ids, attention_mask=mask).tolist() == wanted
