"""More programs of a distrustful reader: methods that are kept, metaclasses, hooks, and code that examines classes."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

import thunder
from tests.acquire.cases import Case, run

META = "class Meta(type):\n"
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.lin = nn.ReLU(), nn.Identity()
    def forward(self, x): return self.act(self.lin(x))
net = Net()
"""
BEHAVIOUR = """
LOG = []
class One:
    n = 1
    def __call__(self, x): return x * self.n
    def __add__(self, other): return self.n
    def __radd__(self, other): return -self.n
    def __neg__(self): return -self.n
    def __len__(self): return self.n
    def __getitem__(self, key): return self.n
    def __setitem__(self, key, value): LOG.append(self.n)
    def __contains__(self, item): return self.n == 1
    def __iter__(self): return iter(range(self.n))
    def __enter__(self): return self.n
    def __exit__(self, *error): return self.n == 1
    def __bool__(self): return self.n == 1
    def __eq__(self, other): return self.n == 1
    def __lt__(self, other): return self.n == 1
    def __hash__(self): return self.n
    def __str__(self): return 's' * self.n
    def __repr__(self): return 'r' * self.n
    def __format__(self, spec): return 'f' * self.n
    def __float__(self): return float(self.n)
    def __int__(self): return self.n
    def __index__(self): return self.n
    def __abs__(self): return self.n
    def keys(self): return ['k' * self.n]
class Two(One):
    n = 2
o = One()
"""
USES = (
    "o(x)", "o + 1", "1 + o", "-o", "len(o)", "o[0]", "5 in o", "[*o]", "bool(o)", "not o", "o == 1", "o < 1", "hash(o)",
    "str(o)", "repr(o)", "f'{o}'", "'%s' % o", "[10, 20, 30][o]", "x * float(o)", "int(o)", "list(range(o))", "abs(o)", "{**o}",
    "{o: 1}.get(o)", "[o] == [1]", "any([o])", "list(map(o, [1]))", "sum([o], 0)", "type(o).__name__", "isinstance(o, Two)",
)
CASES = [
    # The class of an object that is only used, and no attribute of it read.
    Case("the class of what is used by operators and builtins", BEHAVIOUR + "def subject(x): return " + ", ".join(USES), ("", "o.__class__ = Two", "o.__class__ = One", "One.n = 3")),
    Case("the class of what is used by statements", BEHAVIOUR + "def subject(x):\n    o[0] = 1\n    with o as n: raise ValueError\n    first, *others = (0, *o)\n    assert o\n    return n, others, LOG", ("", "o.__class__ = Two", "o.__class__ = One")),
    Case("the class of the subject", "class A:\n    def __call__(self, x): return x * 2\nsubject = A()", ("", "subject.__class__ = type('B', (), {})", "subject.__class__ = type('C', (A,), {'__call__': lambda self, x: x * 5})", "subject.__class__ = A", "A.__call__ = lambda self, x: x * 7")),
    Case("numbers by methods", "class N:\n    f = 1.5; i = 2; d = 3\n    def __float__(self): return self.f\n    def __int__(self): return self.i\n    def __index__(self): return self.d\n    def __round__(self, digits=0): return 'r', digits\n    def __floor__(self): return 'f'\n    def __divmod__(self, other): return 'd', other\nn = N()\ndef subject(x): return float(n), int(n), round(n), round(n, 2), math.floor(n), divmod(n, 2), hex(n), math.sqrt(n), range(n), [1, 2, 3, 4][n], x * float(n)", ("", "N.f = 2.5", "n.i = 7", "n.d = 0", "N.__float__ = lambda self: 9.0", "del N.__int__", "N.__round__ = lambda self, digits=0: 0")),
    Case("methods that C code searches by", "class K:\n    def __init__(self, n): self.n = n\n    def __hash__(self): return 1\n    def __eq__(self, other): return self.n == other.n\na, b = K(1), K(1)\nD = {a: 1}\nL = [a]\ndef subject(x): return D.get(b), b in L, (a, 1) == (b, 1), {a, b} == {a}", ("", "K.__eq__ = lambda self, other: self is other", "K.__hash__ = lambda self: self.n", "b.n = 5", "del K.__eq__", "K.__eq__ = lambda self, other: True")),
    # Methods and their like hold an object that is changed behind their back.
    Case("a method kept", "class A:\n    k = 1\n    def f(self): return self.k\na = A()\nm = a.f\ndef subject(x): return m() * x, m.__self__ is a, m == a.f", ("", "a.k = 4", "m = A().f", "A.f = lambda self: 7", "a = A()")),
    Case("a method of C code kept", "D = {'a': 1}\nget = D.get\nL = [1]\nsize = L.__len__\ndef subject(x): return get('a'), get('z', 0), size()", ("", "D['a'] = 5", "D['z'] = 1", "L.append(2)", "get = {}.get")),
    Case("a method that changes its object", "L = [1]\nappend = L.append\ndef subject(x):\n    append(len(L))\n    return list(L)", ("", "", "L.clear()", "append = [].append")),
    Case("partial of a method", "class A:\n    k = 1\n    def f(self, n, x): return x * n * self.k\na = A()\nP = functools.partial(a.f, 2)\ndef subject(x): return P(x)", ("", "a.k = 3", "P = functools.partial(a.f, 5)", "A.f = lambda self, n, x: n")),
    Case("a view of bytes", "B = bytearray(b'abc')\nM = memoryview(B)\ndef subject(x): return x * M[0], M.tolist(), len(B)", ("", "B[0] = 1", "M[1] = 5")),
    # Metaclasses that decide what an assignment does.
    Case("__setattr__ of a metaclass", META + "    log = []\n    def __setattr__(cls, name, value):\n        Meta.log.append(name)\n        super().__setattr__('own_' + name, [value])\nclass A(metaclass=Meta): own_k = [0]\ndef subject(x):\n    A.k = x\n    return A.own_k, list(Meta.log)", ("", "A.k = 5", "Meta.log.clear()", "del Meta.__setattr__; A.own_k = 3")),
    Case("__delattr__ of a metaclass", META + "    def __delattr__(cls, name):\n        type.__delattr__(cls, name)\n        type.__setattr__(cls, 'gone', name)\nclass A(metaclass=Meta): k = 1; gone = ''\ndef subject(x):\n    try: del A.k\n    except AttributeError: return 'none', A.gone\n    return A.gone, hasattr(A, 'k')", ("", "A.k = 5", "A.gone = 'z'", "")),
    Case("__getattribute__ of a metaclass", META + "    def __getattribute__(cls, name):\n        value = super().__getattribute__(name)\n        return value * 2 if isinstance(value, int) else value\nclass A(metaclass=Meta): k = 1\ndef subject(x): return x * A.k", ("", "A.k = 5", "Meta.__getattribute__ = type.__getattribute__", "A.k = 7")),
    Case("property of a metaclass", META + "    @property\n    def p(cls): return cls.own\n    @p.setter\n    def p(cls, value): cls.own = value\nclass A(metaclass=Meta): own = 1\ndef subject(x):\n    A.p = A.p + 1\n    return A.p, x * A.own", ("", "A.own = 10", "A.p = 3", "Meta.p = property(lambda cls: 7, lambda cls, value: None)")),
    # Code that is not interpreted looks at a class as a whole.
    Case("subclasses", "class A: pass\nKEPT = []\ndef subject(x): return [kind.__name__ for kind in A.__subclasses__()]", ("", "KEPT.append(type('B', (A,), {}))", "KEPT.append(type('C', (KEPT[0],), {}))", "KEPT.append(type('D', (A,), {}))")),
    Case("dir", "class A: pass\na = A()\nm = types.ModuleType('m')\ndef subject(x): return [n for n in dir(a) if n[0] != '_'], [n for n in dir(A) if n[0] != '_'], len(dir(m)), dir()", ("", "a.z = 1", "A.y = 1", "m.z = 1", "A.__dir__ = lambda self: ['w']")),
    Case("inspect", "import inspect\nclass A:\n    k = 1\ndef f(a, b=1): pass\ndef subject(x): return [n for n, _ in inspect.getmembers(A) if n[0] != '_'], str(inspect.signature(f))", ("", "A.z = 1", "f.__defaults__ = (5,)", "f.__signature__ = inspect.Signature()")),
    Case("annotations", "class A:\n    a: int = 1\ndef f(a: int): pass\ndef subject(x): return list(typing.get_type_hints(A)), list(A.__annotations__), list(f.__annotations__)", ("", "A.__annotations__['b'] = str", "f.__annotations__['c'] = int", "f.__annotations__ = {}")),
    Case("a class made of a dict", "NAMES = {'v': 1}\ndef subject(x): return x * type('A', (), NAMES).v", ("", "NAMES['v'] = 4", "NAMES = dict(v=9)")),
    # Hooks that change hooks and modules.
    Case("a hook that removes itself", "net = nn.ReLU()\ndef hook(module, args, output):\n    handle.remove()\n    return output + 1\nhandle = net.register_forward_hook(hook)\ndef subject(x): return net(x), len(net._forward_hooks)", ("", "", "handle = net.register_forward_hook(hook)", "")),
    Case("hooks for one call", NET + "def subject(x):\n    seen = []\n    handles = [m.register_forward_hook(lambda m, a, o: seen.append(type(m).__name__)) for m in (net.act, net.lin)]\n    x = net(x)\n    for handle in handles: handle.remove()\n    with net.act.register_forward_hook(lambda m, a, o: o + 1): x = net(x)\n    return x, seen, len(net.act._forward_hooks)", ("", "", "net.act.register_forward_hook(lambda m, a, o: o * 2)", "")),
    Case("a hook that is removed by the program", NET + "HANDLES = [net.act.register_forward_hook(lambda m, a, o: o + 1)]\ndef subject(x):\n    x = net(x)\n    if HANDLES: HANDLES.pop().remove()\n    return x", ("", "", "HANDLES.append(net.lin.register_forward_pre_hook(lambda m, a: (a[0] * 2,)))", "")),
    Case("a hook that changes its module", "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.act, self.k = nn.ReLU(), 1\n    def forward(self, x): return self.act(x) * self.k\nsubject = Net()\ndef hook(module, args):\n    module.k += 1\n    module.act = nn.Tanh() if module.k % 2 else nn.ReLU()\nsubject.register_forward_pre_hook(hook)", ("", "", "", "subject.k = 7")),
    # Settings.
    Case("the context of decimal numbers", "import decimal\nD = decimal.Decimal(1)\ndef subject(x): return str(D / 3)", ("", "decimal.getcontext().prec = 5", "decimal.getcontext().prec = 28")),
    Case("the seed of a generator", "G = torch.Generator()\nG.manual_seed(1)\ndef subject(x): return G.initial_seed(), torch.initial_seed()", ("", "G.manual_seed(5)", "torch.manual_seed(7)")),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::thunder.errors.SharpEdgeWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_change_is_noticed(case):
    assert not run(case).refusals


@pytest.mark.filterwarnings("ignore::thunder.errors.SharpEdgeWarning")
def test_hooks_that_stay_have_numbers_of_their_own():
    module, handles = torch.nn.Identity(), []

    def program(x):
        handles.append(module.register_forward_hook(lambda module, args, output: output + 1))
        return x * 2

    compiled = thunder.jit(program, executors=["eager"])
    for _ in range(3):
        compiled(torch.ones(2))
    assert len({handle.id for handle in handles}) == 3
    assert torch.equal(module(torch.zeros(2)), torch.full((2,), 3.0))


def test_numbers_of_numpy_are_returned():
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(3)
    compiled = thunder.jit(lambda x: (x * float(array[0]), array.sum(), numpy.float32(2)), executors=["eager"])
    for value in (1.0, 5.0):
        array[0] = value
        for _ in range(2):
            product, total, number = compiled(torch.ones(1))
            assert (product.item(), total, number) == (value, value + 2, 2)
            assert type(total) is numpy.float64 and type(number) is numpy.float32


@pytest.mark.filterwarnings("ignore::thunder.errors.SharpEdgeWarning")
def test_settings_of_the_interpreter():
    compiled = thunder.jit(lambda x: (x, sys.getrecursionlimit(), gc.isenabled()), executors=["eager"])
    limit, enabled = sys.getrecursionlimit(), gc.isenabled()
    try:
        for number in range(3):
            sys.setrecursionlimit(limit + number)
            gc.disable() if number == 1 else gc.enable()
            assert compiled(torch.ones(1))[1:] == (limit + number, number != 1)
    finally:
        sys.setrecursionlimit(limit)
        gc.enable() if enabled else gc.disable()
