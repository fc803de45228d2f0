"""What is read from traces: kernels, operations, memory, layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thunder.errors import PlanningError
from thunder.planning import PlannedModel, cut, get_device, make_config, seconds_of, trace_model, trace_step
from thunder.planning.kernel_time import Attention, Matmul

SMALL = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip


def small_llama(layers: int, **changes) -> PlannedModel:
    return PlannedModel("small", make_config(SMALL | {"num_hidden_layers": layers} | changes, "small"))


def kernels_of(segment):
    return [*segment.forward.kernels, *segment.backward.kernels]


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256, bias=False), nn.Linear(256, 64, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.up(x))).sum()


def perceptron_step(training: bool):
    with torch.device("meta"):
        module, x = Perceptron().to(torch.bfloat16), torch.empty(512, 64, dtype=torch.bfloat16)
    return cut(trace_step(module, (x,), {}, training=training))


def test_a_module_without_layers_is_one_segment():
    segments = perceptron_step(training=True)
    assert segments.layers == 0 and segments.parameters == 2 * 64 * 256
    products = [kernel for kernel in kernels_of(segments.tail) if isinstance(kernel, Matmul)]
    # Two forward, two gradients of weights, one of the hidden values; x needs none.
    assert sum(product.operations for product in products) == 5 * 2 * 512 * 64 * 256


def test_memory_without_gradients_and_with():
    hidden = 512 * 256 * 2
    inference, training = perceptron_step(training=False).tail, perceptron_step(training=True).tail
    assert inference.saved == 0 and not inference.backward.kernels
    assert 2 * hidden <= inference.forward.peak < 2.5 * hidden  # what is made before and after the activation
    assert hidden <= training.saved <= 2 * hidden + 1024


def test_a_few_layers_stand_for_all():
    """Two traced layers and a number, against all of them traced."""
    short = trace_model(small_llama(6), sequence=64, micro_batch=2, tensor_parallel=1)
    config = small_llama(6).config
    with torch.device("meta"):
        module = __import__("transformers").AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        tokens = torch.empty(2, 64, dtype=torch.long)
    options = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    whole = cut(trace_step(module.train(), (), options, training=True))
    assert short.layers == whole.layers == 6
    assert short.parameters == whole.parameters == sum(p.numel() for p in module.parameters())
    for name in ("head", "layer", "tail"):
        few, all_of_them = getattr(short, name), getattr(whole, name)
        assert kernels_of(few) == kernels_of(all_of_them), name
        assert (few.saved, few.parameters) == (all_of_them.saved, all_of_them.parameters), name


def test_operations_of_a_layer_are_the_formulas():
    segments = trace_model(small_llama(4), sequence=64, micro_batch=2, tensor_parallel=1)
    forward = segments.layer.forward.kernels
    products = sum(kernel.operations for kernel in forward if isinstance(kernel, Matmul))
    hidden, columns = 256, 256 + 2 * 128 + 256 + 3 * 512  # query, keys and values, output, three of the gated layer
    assert products == 2 * (2 * 64) * hidden * columns
    (attention,) = [kernel for kernel in forward if isinstance(kernel, Attention)]
    assert attention.is_causal and attention.operations == 4 * 2 * 4 * 64 * 32 * 64
    backward = segments.layer.backward.kernels
    assert sum(kernel.operations for kernel in backward if isinstance(kernel, Matmul)) == 2 * products
    assert seconds_of(segments.layer.backward, get_device("h100")) > seconds_of(
        segments.layer.forward, get_device("h100")
    )


def test_tensor_parallelism_divides_products_and_parameters():
    whole = trace_model(small_llama(4), sequence=64, micro_batch=2, tensor_parallel=1)
    half = trace_model(small_llama(4), sequence=64, micro_batch=2, tensor_parallel=2)

    def products(segment):
        return sum(kernel.operations for kernel in kernels_of(segment) if isinstance(kernel, Matmul))

    assert products(half.layer) * 2 == products(whole.layer) and products(half.tail) * 2 == products(whole.tail)
    norms = 2 * 256
    assert (half.layer.parameters - norms) * 2 == whole.layer.parameters - norms
    with pytest.raises(PlanningError, match="num_key_value_heads=2 does not divide by 4"):
        trace_model(small_llama(4), sequence=64, micro_batch=1, tensor_parallel=4)


def test_tied_embeddings_count_once():
    tied = trace_model(small_llama(3, tie_word_embeddings=True), sequence=32, micro_batch=1, tensor_parallel=1)
    apart = trace_model(small_llama(3), sequence=32, micro_batch=1, tensor_parallel=1)
    assert apart.parameters - tied.parameters == 1024 * 256
    assert tied.tail.parameters == apart.tail.parameters


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, target: F.cross_entropy(logits, target),
        lambda logits, target: F.nll_loss(F.log_softmax(logits, 1), target),
        lambda logits, target: torch.where(target.unsqueeze(1) > 3, logits, 0.0).sum(),
    ],
    ids=["cross_entropy", "nll_loss", "where"],
)
def test_losses_have_their_gradients_on_the_meta_device(loss):
    """PyTorch has no gradients there for some operators, of which nothing would be counted."""

    class Loss(nn.Module):
        def forward(self, logits, target):
            return loss(logits, target)

    logits = torch.empty(128, 1000, device="meta", requires_grad=True)
    target = torch.empty(128, dtype=torch.long, device="meta")
    tail = cut(trace_step(Loss(), (logits, target), {}, training=True)).tail
    assert sum(kernel.bytes for kernel in tail.backward.kernels) >= 128 * 1000 * 4


def test_results_without_gradients_are_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return (x.detach() * 2).sum(), (x * 0 > 1).sum()

    x = torch.empty(64, device="meta", requires_grad=True)
    with pytest.raises(PlanningError, match="Cut has no gradients"):
        trace_step(Cut(), (x,), {}, training=True)


def test_programs_that_run_operation_by_operation_are_refused():
    class Chosen(nn.Module):
        def forward(self, x):
            return x[x > 0].sum()

    with pytest.raises(PlanningError, match="Chosen cannot be planned"):
        trace_step(Chosen(), (torch.empty(8, device="meta"),), {}, training=False)
