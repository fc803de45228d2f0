"""Side effects: what the program changes is what plain Python would have changed, in order, at every call."""

from __future__ import annotations

import pytest
import torch

import thunder
from tests.acquire.cases import Case, run

CASES = [
    # Lists.
    Case("append, extend, insert", "G = []\ndef subject(x):\n    G.append(x)\n    G.extend([1, [x]])\n    G.insert(1, 'i')"),
    Case("in-place operators", "G, H, S = [1], {'a': 1}, {1}\ndef subject(x):\n    global G, H, S\n    G += [x]\n    G *= 2\n    H |= {'b': x}\n    S -= {1}", ("", "", "S.add(1)")),
    Case("unbound methods", "G = []\ndef subject(x):\n    list.append(G, x)\n    operator.iadd(G, [1])\n    operator.setitem(G, 0, 'z')"),
    Case("a list in itself", "G = [1]\ndef subject(x): G.append(G)", ("", "")),
    Case("slices", "G = [1, 2, 3]\ndef subject(x):\n    G[1:] = [x]\n    del G[0]", ("", "G.extend([4, 5])", "")),
    Case("swap", "G = [1, [2]]\ndef subject(x): G[0], G[-1] = G[-1], G[0]", ("", "", "")),
    Case("sort and reverse", "G = [3, 1, 2]\ndef subject(x):\n    G.sort(key=lambda i: -i)\n    G.reverse()", ("", "G.append(0)")),
    # Dicts.
    Case("order of keys", "G = {'a': 1, 'b': 2}\ndef subject(x):\n    G['a'] = G.pop('a')\n    G['c'] = x", ("", "", "G.clear()")),
    Case("keys that are missing at the next call", "G = {'a': 1, 'b': 2}\ndef subject(x):\n    G['b'] = 5\n    G['a'] = 6", ("", "G.clear()", "G.pop('a')")),
    Case("setdefault and append", "G = {}\ndef subject(x):\n    G.setdefault('k', []).append(x)\n    G.setdefault('k', []).append(x)", ("", "", "G.clear()")),
    Case("popitem and clear", "G = {'a': 1, 'b': 2}\ndef subject(x):\n    G.popitem()\n    log = dict(G)\n    G.clear()\n    return log", ("", "G.update(c=3, d=4)")),
    Case("ordered dict", "G = collections.OrderedDict(a=1, b=2)\ndef subject(x):\n    G.move_to_end('a', last=False)\n    G.move_to_end('b')", ("", "G['c'] = 3", "G.move_to_end('a')")),
    Case("default dict and counter", "G, C = collections.defaultdict(list), collections.Counter()\ndef subject(x):\n    G['k'].append(x)\n    C.update('ab')\n    C['a'] += 1"),
    # The same value again.
    Case("blind assignments", "class A: pass\nG, O, D = None, A(), {}\ndef subject(x):\n    global G\n    G = None\n    O.flag = False\n    D['k'] = 1", ("", "G = 3; O.flag = True; D['k'] = 2", "del O.flag; D.clear()")),
    Case("blind assignment in a closure", "def make():\n    n = None\n    def subject(x):\n        nonlocal n\n        n = None\n    def put(value):\n        nonlocal n\n        n = value\n    return subject, put, lambda: n\nsubject, put, get = make()", ("", "put(3)")),
    Case("set that has the item already", "G = {1}\ndef subject(x):\n    G.add(1)\n    G.discard(2)", ("", "G.clear()", "G.add(2)")),
    # Attributes, slots, classes, names.
    Case("slots", "class S:\n    __slots__ = ('a', 'b')\nG = S()\ndef subject(x):\n    G.a = kept = [x]\n    G.b = kept\n    return kept", ("", "del G.a")),
    Case("deleted attributes", "class A: pass\nG = A()\nG.a = 1\ndef subject(x):\n    del G.a\n    G.b = x", ("", "G.a = 2", "")),
    Case("class attributes", "class A: count = 0\ndef subject(x):\n    A.count += 1\n    return A.count, A().count", ("", "", "A.count = 9", "del A.count")),
    Case("__setattr__ and descriptors", "class D:\n    def __set__(self, obj, value): obj.store['v'] = value\n    def __get__(self, obj, kind): return obj.store['v']\nclass A:\n    d = D()\n    def __init__(self): object.__setattr__(self, 'store', {})\n    def __setattr__(self, name, value): object.__setattr__(self, name, value)\nG = A()\ndef subject(x):\n    G.d = x\n    return G.d"),
    Case("deleted and set again", "G = 1\ndef subject(x):\n    global G\n    del G\n    G = [x]\n    return G", ("", "")),
    Case("nonlocal counter", "def make():\n    n = 0\n    def subject(x):\n        nonlocal n\n        n += 1\n        return x * n\n    return subject, lambda: n\nsubject, get = make()", ("", "", "")),
    Case("mutable default", "def subject(x, seen=[]):\n    seen.append(x)\n    return seen", ("", "", "subject.__defaults__[0].clear()")),
    # Identity of what is stored and returned.
    Case("stored and returned", "G = []\nclass A:\n    __slots__ = ('v', '__dict__')\ndef subject(x):\n    a = A()\n    a.v = a.items = [x, a]\n    G.append(a)\n    return a, a.items", ("", "")),
    Case("shared by the result and an attribute", "G = {}\ndef subject(x):\n    log = []\n    G.setdefault('all', []).append(x)\n    log.append(G['all'])\n    return types.SimpleNamespace(x=x, log=log)", ("", "")),
    Case("tuples, namespaces, exceptions", "G = []\nclass P(typing.NamedTuple):\n    a: object\nclass E(Exception): pass\ndef subject(x):\n    p, e, n = P([x]), E(x, 1), types.SimpleNamespace(x=x)\n    e.extra = [p, n]\n    G.append((p, e, n))\n    return p, e, n, p.a", ("", "")),
    Case("inherited containers", "class L(list): pass\nclass D(dict): pass\nclass T(tuple): pass\nclass S(str): pass\ndef subject(x):\n    made = L([x]), D(x=x), T((x,)), S('s'), collections.deque([x], 3), collections.Counter('aa')\n    made[0].name = made\n    return made", ("", "")),
    Case("functions", "G = []\ndef subject(x):\n    def inner(y, z=[x]): return x + y, z\n    G.append(inner)\n    return inner, functools.partial(inner, x)", ("", "")),
    Case("modules", "def subject(x):\n    global M\n    M = nn.ReLU()\n    M.tag = [x]\n    return M", ("", "M.inplace = True")),
    Case("linked list", "class Node:\n    def __init__(self, value, following): self.value, self.following = value, following\nHEAD = None\ndef subject(x):\n    global HEAD\n    HEAD = Node(x, HEAD)\n    return HEAD", ("", "", "")),
    Case("cache of tensors", "G = {}\ndef subject(x):\n    key = tuple(x.shape)\n    if key not in G:\n        G[key] = x * 2\n    return G[key]", ("", "", "", "G.clear()"), ("torch.ones(4)", "torch.ones(4)", "torch.ones(2)", "torch.ones(2)")),
    # Tensors.
    Case("buffers and views", "B = torch.zeros(2, 4)\nR = B[0]\ndef subject(x):\n    B[0] = x\n    R.add_(1)\n    return R, B[1], B.t()", ("", "B.zero_()", "R = torch.zeros(4)", "R = B[1]")),
    Case("attributes of tensors", "G = torch.ones(4)\ndef subject(x):\n    G.tag = [x]\n    x.tag = 1\n    return G, x, x.tag", ("", "")),
    Case("gradients", "W = torch.ones(4, requires_grad=True)\ndef subject(x):\n    W.grad = None\n    return (x * W).sum()", ("", "W.grad = torch.ones(4)", "(W * 2).sum().backward()")),
    # Errors.
    Case("an exception after changes", "G, LIMIT = [], 1\ndef subject(x):\n    G.append(x)\n    if LIMIT: raise ValueError(LIMIT)\n    G.append(2)", ("", "LIMIT = 0", "LIMIT = 2")),
    Case("an exception that is caught", "G = []\ndef subject(x):\n    try:\n        G.append(1)\n        raise KeyError('k')\n    except KeyError as error:\n        G.append(error.args)\n    finally:\n        G.append('end')"),
    Case("an error that only the computation finds", "G = []\ndef subject(x):\n    G.append(1)\n    return torch.arange(4)[x]", ("", "", ""), ("torch.tensor([1])", "torch.tensor([9])", "torch.tensor([2])")),
    Case("such an error caught", "G = []\ndef subject(x):\n    G.append(1)\n    try:\n        return torch.arange(4)[x]\n    except IndexError:\n        return 'caught'", ("", ""), ("torch.tensor([9])", "torch.tensor([2])")),
    # Outside of Python's objects.
    Case("environment variables", "def subject(x):\n    os.environ['FUZZ_SET'] = '1'\n    os.environ.pop('FUZZ_MODE', None)", ("", "os.environ.pop('FUZZ_SET')", "os.environ['FUZZ_MODE'] = 'm'")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_effects_are_those_of_plain_python(case):
    assert not run(case).refusals


def test_acquisition_leaves_nothing_behind():
    log, table = [], {"a": 1}

    class Holder:
        __slots__ = ("value",)

    holder = Holder()

    def subject(x):
        log.append(x)
        table.clear()
        holder.value = 1
        if x.sum() > 0:
            log.append(1)

    compiled = thunder.jit(subject, executors=["eager"])
    with pytest.raises(thunder.errors.DataDependentError):
        compiled(torch.ones(2))
    assert log == [] and table == {"a": 1} and not hasattr(holder, "value")


def test_effects_of_a_hit_cost_no_compilation():
    log = []

    def subject(x):
        log.append(x + 1)

    compiled = thunder.jit(subject, executors=["eager"])
    for _ in range(5):
        compiled(torch.ones(2))
    assert len(log) == 5
    assert len(set(map(id, log))) == 5
    assert thunder.cache_misses(compiled) == 1
