"""Guards: a change of anything that the program has read is noticed at the next call."""

from __future__ import annotations

import copy

import pytest
import torch

import thunder
from tests.acquire.cases import Case, run

BOX = """
class Box:
    size = 1
    def __init__(self):
        self.items = [1]
BOX = Box()
"""
CASES = [
    # Values that are equal and yet different.
    Case("bool and int", "G = 1\ndef subject(x): return x, [G], str(G)", ("", "G = True", "G = 1.0", "G = 1")),
    Case("sign of zero", "G = 0.0\ndef subject(x): return math.copysign(1, G)", ("", "G = -0.0", "G = 0.0")),
    Case("not a number", "G = math.nan\ndef subject(x): return G == G, x", ("", "G = 1.0", "G = float('nan')")),
    Case("items of a set", "G = {1}\ndef subject(x): return [type(i).__name__ for i in G]", ("", "G.clear(); G.add(True)")),
    Case("keys of a dict", "G = {1: 2}\ndef subject(x): return list(G)", ("", "G.clear(); G[True] = 2", "G.clear(); G[1.0] = 2")),
    Case("complex", "G = 0j\ndef subject(x): return str(G)", ("", "G = complex(0, -0.0)", "G = 0")),
    Case("nested tuple", "G = (1, (2,))\ndef subject(x): return str(G)", ("", "G = (1, (2.0,))", "G = (True, (2,))")),
    # A guard that follows one with `or` in it.
    Case(
        "argument and then a list",
        "G = [2, None]\ndef subject(x, n): return [*G, n]",
        ("", "G.pop(0)"), "torch.ones(4), 1.0",
    ),
    # Containers.
    Case("length", "G = [1]\ndef subject(x): return x * len(G)", ("", "G.append(1)")),
    Case("length after a change", "G = [1]\ndef subject(x):\n    G.append(2)\n    return len(G)", ("", "", "")),
    Case("truth of a set", "G = set()\ndef subject(x): return bool(G)", ("", "G.add(1)", "G.clear()")),
    Case("truth of a dict", "G = {}\ndef subject(x): return x + 1 if G else x", ("", "G[1] = 1")),
    Case("order of a dict", "G = {'a': 1, 'b': 2}\ndef subject(x): return list(G)", ("", "G['a'] = G.pop('a')")),
    Case("item from the end", "G = [1, 2]\ndef subject(x): return G[-1]", ("", "G.append(3)", "G.pop()")),
    Case("missing key", "G = {}\ndef subject(x): return G.get('k', 0)", ("", "G['k'] = None", "G['k'] = 0", "del G['k']")),
    Case("nested containers compared", "G = [[1]]\ndef subject(x): return G == [[1]]", ("", "G[0].append(1)")),
    Case("nested containers shown", "G = {'a': [1]}\ndef subject(x): return str(G), f'{G}'", ("", "G['a'].append(1)")),
    Case("nested containers searched", "G = [[1]]\ndef subject(x): return [1] in G", ("", "G[0].append(1)")),
    Case("sum of lists", "G = [1]\ndef subject(x): return G + [2]", ("", "G.append(5)")),
    Case("next of iter", "G = [{'a'}]\ndef subject(x): return next(iter(G))", ("", "G.insert(0, 1)", "G.clear()\nG.append(2)")),
    Case("yield from", "G = [1]\ndef each():\n    yield from G\ndef subject(x): return list(each())", ("", "G.append(5)")),
    Case("inherited list", "class Row(list):\n    pass\nG = Row([1])\ndef subject(x): return [i for i in G], len(G)", ("", "G.append(2)")),
    Case(
        "inherited dict with __missing__",
        "class Table(dict):\n    def __missing__(self, key): return key\nG = Table()\ndef subject(x): return G['k']",
        ("", "G['k'] = 1", "del G['k']", "Table.__missing__ = lambda self, key: 0"),
    ),
    Case("default dict", "G = collections.defaultdict(list)\ndef subject(x): return len(G), G['k']", ("", "G['k'].append(1)", "G.clear()")),
    Case("byte array", "G = bytearray(b'a')\ndef subject(x):\n    G.append(65)\n    return bytes(G)", ("", "", "G.clear()")),
    Case("deque", "G = collections.deque([1], 2)\ndef subject(x):\n    G.append(2)\n    return list(G)", ("", "", "G.clear()")),
    Case("objects as keys", "class K: pass\nA, B = K(), K()\nG = {A: 1}\ndef subject(x): return G.get(A), G.get(B)", ("", "G[B] = 1", "G[A] = 2")),
    # Objects and classes.
    Case("attribute", BOX + "def subject(x): return BOX.size", ("", "BOX.size = 2", "del BOX.size", "Box.size = 3", "del Box.size")),
    Case("attribute that comes later", BOX + "def subject(x): return getattr(BOX, 'late', 0), hasattr(BOX, 'late')", ("", "BOX.late = 1", "del BOX.late", "Box.late = 2")),
    Case("__getattr__ that comes later", BOX + "def subject(x): return getattr(BOX, 'late', 0)", ("", "Box.__getattr__ = lambda self, name: name")),
    Case("property that comes later", BOX + "def subject(x): return BOX.items", ("", "Box.items = property(lambda self: 1)")),
    Case("setter that comes later", BOX + "def subject(x):\n    BOX.items = [x]", ("", "Box.items = property(lambda self: 1, lambda self, value: None)")),
    Case("__setattr__ that comes later", BOX + "def subject(x):\n    BOX.items = 1", ("", "Box.__setattr__ = lambda self, name, value: None")),
    Case("patched special methods", BOX + "Box.__len__ = lambda self: 1\ndef subject(x): return len(BOX), bool(BOX)", ("", "Box.__len__ = lambda self: 0", "Box.__bool__ = lambda self: True", "del Box.__bool__")),
    Case("patched operators", BOX + "Box.__add__ = lambda self, other: 1\ndef subject(x): return BOX + 1, BOX == 1", ("", "Box.__add__ = lambda self, other: 2", "Box.__eq__ = lambda self, other: True")),
    Case("patched __call__", BOX + "Box.__call__ = lambda self, x: x\ndef subject(x): return BOX(x)", ("", "Box.__call__ = lambda self, x: x + 1")),
    Case("patched __contains__", BOX + "Box.__contains__ = lambda self, x: True\ndef subject(x): return 1 in BOX", ("", "Box.__contains__ = lambda self, x: False")),
    Case("method on the instance", BOX + "Box.get = lambda self: 1\ndef subject(x): return BOX.get()", ("", "BOX.get = lambda: 2", "del BOX.get", "Box.get = lambda self: 3")),
    Case("another class", BOX + "def subject(x): return BOX.size, type(BOX).__name__", ("", "BOX.__class__ = type('Other', (Box,), {'size': 5})")),
    Case("super", "class A:\n    def f(self): return 1\nclass B(A):\n    def f(self): return super().f()\nG = B()\ndef subject(x): return G.f()", ("", "A.f = lambda self: 2")),
    Case("bases", "class A: size = 1\nclass A2: size = 2\nclass B(A): pass\nG = B()\ndef subject(x): return G.size, isinstance(G, A), B.__mro__[1].__name__", ("", "B.__bases__ = (A2,)")),
    Case("class attribute", BOX + "def subject(x): return Box.size", ("", "Box.size = 2", "del Box.size")),
    Case("attributes of a class", BOX + "def subject(x): return 'late' in vars(Box)", ("", "Box.late = 1")),
    Case("class attribute behind a written one", "class A: size = 1\nclass B(A): pass\ndef subject(x):\n    A.size = 7\n    return B.size", ("", "B.size = 2", "del B.size")),
    Case("slots", "class S:\n    __slots__ = ('a', 'b')\nG = S()\ndef subject(x): return getattr(G, 'a', 0)", ("", "G.a = 1", "G.a = True", "del G.a")),
    Case("descriptor", "class D:\n    def __get__(self, obj, kind): return 1\nclass A: d = D()\nG = A()\ndef subject(x): return G.d", ("", "G.d = 2", "del G.d", "D.__get__ = lambda self, obj, kind: 3", "D.__set__ = lambda self, obj, value: None")),
    Case("named tuple", "class P(typing.NamedTuple):\n    first: list\nclass H: pass\nG = H()\nG.p = P([])\ndef subject(x): return G.p.first", ("", "G.p.first.append(1)", "G.p = P([2])")),
    Case("cached property", "class A:\n    @functools.cached_property\n    def c(self): return [1]\nG = A()\ndef subject(x): return G.c", ("", "", "del G.c", "G.c = 5")),
    Case("copied object", BOX + "def subject(x): return copy.copy(BOX).items", ("", "BOX.items = [2]")),
    Case("all attributes", BOX + "def subject(x): return sorted(vars(BOX))", ("", "BOX.late = 1")),
    # Names.
    Case("deleted global", "G = 1\ndef subject(x):\n    try:\n        return G\n    except NameError:\n        return 'unset'", ("", "del globals()['G']", "G = 2")),
    Case("shadowed builtin", "def subject(x): return len([1, 2])", ("", "globals()['len'] = sum", "del globals()['len']")),
    Case("closure", "def make():\n    n = 1\n    def subject(x): return x * n\n    def put(value):\n        nonlocal n\n        n = value\n    return subject, put\nsubject, put = make()", ("", "put(2)", "put(2.0)")),
    Case("unset closure", "def make():\n    def subject(x):\n        try:\n            return n\n        except NameError:\n            return 'unset'\n    def put(value):\n        nonlocal n\n        n = value\n    if False:\n        n = 1\n    return subject, put\nsubject, put = make()", ("", "put(2)")),
    Case("defaults", "def helper(x, n=1, *, k=[]): return x * n, len(k)\ndef subject(x): return helper(x)", ("", "helper.__defaults__ = (2,)", "helper.__kwdefaults__ = {'k': [1]}", "helper.__kwdefaults__['k'].append(1)")),
    Case(  # checked in one step
        "many functions",
        "def a(x, n=1): return x * n\ndef b(x): return a(x)\ndef c(x, *, k=2): return b(x) + k\ndef d(x): return c(x)\n"
        "def subject(x): return d(x)",
        ("", "b.note = 1", "a.__defaults__ = (2,)", "c.__kwdefaults__ = {'k': 7}", "c.__kwdefaults__ = None; c.__defaults__ = None; c.__code__ = b.__code__", "d.__code__ = (lambda x: x - 1).__code__"),
    ),
    Case("code", "def helper(x): return x\ndef subject(x): return helper(x)", ("", "helper.__code__ = (lambda x: x * 2).__code__")),
    Case("module", "m = types.ModuleType('m')\nm.f = torch.relu\ndef subject(x): return m.f(x), hasattr(m, 'late')", ("", "m.f = torch.neg", "m.late = 1", "del m.late", "m.__getattr__ = lambda name: name")),
    Case("environment", "os.environ['FUZZ_MODE'] = 'a'\ndef subject(x): return os.environ.get('FUZZ_MODE'), 'FUZZ_LEVEL' in os.environ, os.getenv('FUZZ_LEVEL')", ("", "os.environ['FUZZ_MODE'] = 'b'", "os.environ['FUZZ_LEVEL'] = '1'", "del os.environ['FUZZ_MODE']")),
    # Arguments.
    Case("same list twice", "def subject(a, b):\n    a.append(1)\n    return len(b), a is b", ("", "", ""), ("[], []", "*[[]] * 2", "[], []")),
    Case("same object twice", BOX + "def subject(a, b):\n    a.size = 5\n    return b.size", ("", "", ""), ("Box(), Box()", "*[Box()] * 2", "Box(), Box()")),
    Case("the global as an argument", "G = []\ndef subject(a):\n    a.append(1)\n    return len(G), a is G", ("", "", ""), ("[]", "G", "[]")),
    Case("same tensor twice", "def subject(a, b):\n    a.add_(1)\n    return a + b, a is b", ("", "", ""), ("torch.ones(4), torch.ones(4)", "*[torch.ones(4)] * 2", "torch.ones(4), torch.ones(4)")),
    Case("one object or two", BOX + "def subject(a, b): return a is b", ("", "", ""), ("Box(), Box()", "*[Box()] * 2", "Box(), Box()")),
    # Tensors and torch's state.
    Case("storage offset", "G = torch.arange(8.0)[4:]\ndef subject(x): return G.storage_offset(), G[1:].storage_offset()", ("", "G = torch.arange(8.0)[2:6]", "G = torch.ones(4)")),
    Case("metadata", "G = torch.ones(4)\ndef subject(x): return G.dtype, G.shape, G.stride(), G.requires_grad, G.is_leaf, x + G", ("", "G.requires_grad_(True)", "G.data = G.data.double()", "G = torch.ones(2, 4).t()[:, 0]", "G = nn.Parameter(torch.ones(4))")),
    Case("attribute of a tensor", "G = torch.ones(4)\ndef subject(x): return getattr(G, 'tag', 0)", ("", "G.tag = 1", "del G.tag")),
    Case("gradient", "G = torch.ones(4, requires_grad=True)\ndef subject(x): return G.grad is None, G.grad", ("", "G.grad = torch.ones(4)", "G.grad = None")),
    Case("default dtype", "def subject(x): return torch.zeros(2), torch.tensor(1.5), torch.get_default_dtype()", ("", "", ""), contexts=("contextlib.nullcontext()", "default_dtype(torch.float64)", "contextlib.nullcontext()")),
    Case("modes", "W = torch.ones(4, 4)\ndef subject(x): return (x @ W).dtype, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled('cpu')", ("",) * 5, contexts=("torch.no_grad()", "torch.enable_grad()", "torch.autocast('cpu', dtype=torch.bfloat16)", "torch.autocast('cpu', dtype=torch.float16)", "torch.inference_mode()")),
    Case("inference mode inside", "def subject(x):\n    with torch.inference_mode():\n        return torch.is_inference_mode_enabled()"),
]  # fmt: skip

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer('running', torch.zeros(4))
        self.act = nn.ReLU()
        self.blocks = nn.ModuleList([nn.Tanh()])
        self.flag = True
    def helper(self, x): return x
    def forward(self, x):
        x = self.act(self.helper(x) * self.weight) + self.running
        for block in self.blocks:
            x = block(x)
        return x + 1 if self.training and self.flag else x
subject = Net()
"""
MODULE_CHANGES = {
    "modes": ("subject.eval()", "subject.train()"),
    "parameter": ("subject.weight = nn.Parameter(torch.full((4,), 2.0))", "subject.weight.data.mul_(3)", "subject.weight.requires_grad_(False)"),
    "parameter's data": ("subject.weight.data = torch.full((4,), 2.0)", "subject.weight.data = torch.ones(2, 4)"),
    "parameter without name": ("subject._parameters['weight'] = nn.Parameter(torch.zeros(4))", "del subject.weight", "subject.weight = torch.ones(4)"),
    "buffer": ("subject.running = torch.ones(4)", "subject.running.add_(1)"),
    "dtype": ("subject.double()", "subject.float()"),
    "submodule": ("subject.act = nn.Sigmoid()", "subject.act.forward = torch.neg", "subject.act = subject.blocks[0]", "subject._modules['act'] = nn.ReLU()"),
    "module list": ("subject.blocks.append(nn.ReLU())", "del subject.blocks[0]", "subject.blocks = nn.Sequential(nn.Sigmoid())"),
    "methods": ("subject.helper = lambda x: x * 2", "del subject.helper", "Net.helper = lambda self, x: x * 3", "Net.forward = lambda self, x: x"),
    "attribute": ("subject.flag = False", "subject.flag = 1", "del subject.flag"),
    "hooks": ("handle = subject.register_forward_hook(lambda m, a, o: o * 2)", "handle.remove()", "subject.act.register_forward_pre_hook(lambda m, a: (a[0] - 1,))"),
    "class of a submodule": ("subject.act.__class__ = nn.Tanh",),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_change_is_noticed(case):
    assert not run(case).refusals


@pytest.mark.parametrize("name", MODULE_CHANGES)
def test_change_of_a_module_is_noticed(name):
    assert not run(Case(name, NET, ("", *MODULE_CHANGES[name], ""))).refusals


def test_guards_do_not_run_the_users_code():
    calls = []

    class Loud(dict):
        def __getitem__(self, key):
            calls.append(key)
            return super().__getitem__(key)

        def __missing__(self, key):
            calls.append(key)
            return 0

    table = Loud(a=1)

    def subject(x):
        return x * dict.get(table, "a")

    compiled = thunder.jit(subject, executors=["eager"])
    for _ in range(3):
        assert torch.equal(compiled(torch.ones(2)), torch.ones(2))
    assert calls == []
    assert thunder.cache_misses(compiled) == 1


def test_unchanged_state_is_a_hit():
    state = {"a": [1, 2.5, None], "b": {"c": (True, "x")}, "n": float("nan")}

    def subject(x):
        return x * len(str(state)) + state["a"][0]

    compiled = thunder.jit(subject, executors=["eager"])
    for _ in range(4):
        compiled(torch.ones(2))
    assert (thunder.cache_misses(compiled), thunder.cache_hits(compiled)) == (1, 3)


def test_an_iterator_from_before_the_call_is_refused():
    numbers = iter([1, 2, 3])

    def subject(x):
        return x * next(numbers)

    compiled = thunder.jit(subject, executors=["eager"])
    with pytest.raises(thunder.errors.UnsupportedError, match="iterator"):
        compiled(torch.ones(2))
    assert next(numbers) == 1


def test_a_refusal_cannot_be_caught_by_the_program():
    def subject(x):
        try:
            return x + 1 if x.sum() > 0 else x
        except Exception:
            return x - 1

    compiled = thunder.jit(subject, executors=["eager"])
    with pytest.raises(thunder.errors.DataDependentError):
        compiled(torch.ones(2))


def test_the_note_that_copying_leaves_on_a_class_is_no_change_of_it():
    class Options:
        scale = 2

    def subject(x, options):
        names = [name for name in vars(type(options)) if not name.startswith("_")]
        return x * getattr(copy.copy(options), names[0])

    compiled = thunder.jit(subject, executors=["eager"])
    assert compiled(torch.ones(2), Options()).tolist() == [2, 2]
    assert "__slotnames__" in vars(Options)
    compiled(torch.ones(2), Options())
    assert (thunder.cache_misses(compiled), thunder.compile_stats(compiled).plain_calls) == (1, 0)
    Options.scale = 3
    assert compiled(torch.ones(2), Options()).tolist() == [3, 3]
