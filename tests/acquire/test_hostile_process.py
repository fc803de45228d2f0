"""Programs that depend on the process: settings of PyTorch, modules, threads, context variables, log levels, NumPy's arrays.

What can be asked again is guarded; a call that changes such a thing runs in plain Python.
"""

from __future__ import annotations

import pytest

from tests.acquire.cases import Case, run

CASES = [
    Case('sys.modules replaced', "import sys\ndef put(k):\n    m = types.ModuleType('hostile_m'); m.k = k\n    sys.modules['hostile_m'] = m\nput(1)\ndef subject(x):\n    import hostile_m\n    return x * hostile_m.k", ('', 'put(2)', "sys.modules['hostile_m'].k = 5", 'put(1)', "sys.modules['hostile_m'].__dict__['k'] = 6", "sys.modules.pop('hostile_m', None)")),
    Case('import from', "import sys, importlib\ndef put(k):\n    m = types.ModuleType('hostile_n'); m.k = k\n    sys.modules['hostile_n'] = m\nput(1)\ndef subject(x):\n    from hostile_n import k\n    return x * k, importlib.import_module('hostile_n').k", ('', 'put(2)', "sys.modules['hostile_n'].k = 5", 'put(1)')),
    Case('a module that appears', "import sys\nsys.modules.pop('hostile_o', None)\ndef subject(x):\n    try:\n        import hostile_o\n        return x * 2\n    except ImportError:\n        return x", ("sys.modules.pop('hostile_o', None)", "sys.modules['hostile_o'] = types.ModuleType('hostile_o')", "sys.modules.pop('hostile_o', None)")),
    Case('builtin hidden', 'def subject(x): return x * len([1, 2]), abs(-3), max(1, 2)', ('', 'len = lambda v: 7', "del globals()['len']", "max = lambda *v: 'max'")),
    Case('builtins changed', 'import builtins\nfrom unittest import mock\nf = lambda v: 9\ndef subject(x): return x * abs(-3)', ('', '', '', ''), contexts=('contextlib.nullcontext()', "mock.patch.object(builtins, 'abs', f)", "mock.patch.object(builtins, 'abs', math.fabs)", 'contextlib.nullcontext()')),
    Case('thread local', "import threading\nL = threading.local(); L.k = 1\ndef other():\n    t = threading.Thread(target=lambda: setattr(L, 'k', 50)); t.start(); t.join()\ndef subject(x): return x * L.k, getattr(L, 'z', 'none')", ('', 'L.k = 2', 'L.z = 1', 'other()', 'del L.z')),
    Case('thread local changed inside', 'import threading\nL = threading.local(); L.k = 1\ndef subject(x):\n    L.k += 1\n    return x * L.k', ('', '', 'L.k = 5')),
    Case('events, queues and locks', 'import threading, queue\nE = threading.Event()\nQ = queue.Queue()\nK = threading.Lock()\ndef subject(x):\n    with K:\n        return x * (2 if E.is_set() else 1), Q.qsize()', ('', 'E.set()', 'Q.put(1)', 'E.clear()')),
    Case('log levels', "import logging\nLOG = logging.getLogger('hostile'); LOG.setLevel('WARNING')\ndef subject(x): return x * (2 if LOG.isEnabledFor(10) else 1), LOG.level, LOG.getEffectiveLevel()", ('', "LOG.setLevel('DEBUG')", "LOG.setLevel('ERROR')")),
    Case('context variable', "import contextvars\nV = contextvars.ContextVar('v', default=1)\ndef subject(x): return x * V.get()", ('', 'V.set(3)', 'V.set(4)', 'tok = V.set(9); V.reset(tok)')),
    Case('context variable set inside', "import contextvars\nV = contextvars.ContextVar('v2', default=1)\ndef subject(x):\n    V.set(V.get() + 1)\n    return x * V.get()", ('', '', 'V.set(10)', '')),
    Case('environment', "def subject(x): return x * len(os.environ.get('FUZZ_MODE', '')), 'FUZZ_LEVEL' in os.environ, os.getenv('FUZZ_SET', 'd')", ('', "os.environ['FUZZ_MODE'] = 'abc'", "os.environ['FUZZ_LEVEL'] = '1'", "del os.environ['FUZZ_LEVEL']", "os.environ.update(FUZZ_SET='z')", "os.environ.pop('FUZZ_MODE'); os.environ.pop('FUZZ_SET')")),
    Case('default device', 'def subject(x): return x.sum(), torch.ones(2).device.type, torch.zeros(1).is_meta, torch.get_default_device().type', ('', '', ''), contexts=('contextlib.nullcontext()', "torch.device('meta')", 'contextlib.nullcontext()')),
    Case('matmul precision', 'def subject(x): return x, torch.get_float32_matmul_precision()', ('', "torch.set_float32_matmul_precision('high')", "torch.set_float32_matmul_precision('highest')")),
    Case('deterministic flag', 'def subject(x): return x * (2 if torch.are_deterministic_algorithms_enabled() else 1)', ('', 'torch.use_deterministic_algorithms(True)', 'torch.use_deterministic_algorithms(False)')),
    Case('backends flags', 'def subject(x): return x * (2 if torch.backends.cudnn.benchmark else 1), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32', ('', 'torch.backends.cudnn.benchmark = True', 'torch.backends.cuda.matmul.allow_tf32 = True', 'torch.backends.cudnn.deterministic = True', 'torch.backends.cudnn.benchmark = False; torch.backends.cuda.matmul.allow_tf32 = False; torch.backends.cudnn.deterministic = False')),
    Case('backends flags 2', 'def subject(x): return torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.backends.opt_einsum.enabled', ('', 'torch.backends.mkldnn.enabled = False', 'torch.backends.cuda.enable_flash_sdp(False)', 'torch.backends.mha.set_fastpath_enabled(False)', 'torch.backends.opt_einsum.enabled = False', 'torch.backends.mkldnn.enabled = True; torch.backends.cuda.enable_flash_sdp(True); torch.backends.mha.set_fastpath_enabled(True); torch.backends.opt_einsum.enabled = True')),
    Case('number of threads', 'def subject(x): return x * torch.get_num_threads()', ('', 'torch.set_num_threads(2)', 'torch.set_num_threads(1)')),
    Case('grad mode read', 'def subject(x): return x * (2 if torch.is_grad_enabled() else 1), torch.is_inference_mode_enabled()', ('', '', '', ''), contexts=('contextlib.nullcontext()', 'torch.no_grad()', 'torch.inference_mode()', 'torch.enable_grad()')),
    Case('autocast read', "def subject(x): return torch.is_autocast_enabled('cpu'), str(torch.get_autocast_dtype('cpu')), x @ x, torch.is_autocast_cache_enabled()", ('', '', '', ''), contexts=('contextlib.nullcontext()', "torch.autocast('cpu', torch.bfloat16)", "torch.autocast('cpu', torch.float16)", "torch.autocast('cpu', torch.bfloat16, cache_enabled=False)")),
    Case('anomaly mode', 'def subject(x): return x * (2 if torch.is_anomaly_enabled() else 1), torch.is_warn_always_enabled()', ('', 'torch.autograd.set_detect_anomaly(True)', 'torch.autograd.set_detect_anomaly(False)')),
    Case('print options', 'def subject(x): return torch._tensor_str.PRINT_OPTS.precision', ('', 'torch.set_printoptions(precision=2)', "torch.set_printoptions(profile='default')")),
    Case('default dtype inside', 'def subject(x): return x + torch.ones(4), torch.tensor(1.5).dtype, torch.get_default_dtype()', ('', 'torch.set_default_dtype(torch.float64)', 'torch.set_default_dtype(torch.float32)')),
    Case('torch function patched', 'from unittest import mock\ndef subject(x): return torch.relu(x - 2) + F.gelu(x) + x.neg()', ('', '', '', ''), contexts=('contextlib.nullcontext()', "mock.patch.object(torch, 'relu', torch.neg)", "mock.patch.object(F, 'gelu', torch.exp)", 'contextlib.nullcontext()')),
    Case('tensor class patched', "from unittest import mock\nf = lambda self: self * 5\ng = lambda self: self * 6\ndef subject(x): return x.hostile() if hasattr(x, 'hostile') else x, x.neg()", ('', '', '', '', ''), contexts=('contextlib.nullcontext()', "mock.patch.object(torch.Tensor, 'hostile', f, create=True)", "mock.patch.object(torch.Tensor, 'hostile', g, create=True)", 'contextlib.nullcontext()', "mock.patch.object(torch.Tensor, 'neg', f)")),
    Case('operator of tensors patched', 'from unittest import mock\nf = lambda self, o: torch.sub(self, o)\ndef subject(x): return x + 1, 1 - x, x < 2', ('', '', '', '', ''), contexts=('contextlib.nullcontext()', "mock.patch.object(torch.Tensor, '__add__', f)", 'contextlib.nullcontext()', "mock.patch.object(torch.Tensor, '__rsub__', f)", "mock.patch.object(torch.Tensor, '__lt__', f)")),
    Case('nn class patched', 'from unittest import mock\nL = nn.ReLU()\nf = lambda self, x: x * 9\ndef subject(x): return L(x - 2)', ('', '', '', ''), contexts=('contextlib.nullcontext()', "mock.patch.object(nn.ReLU, 'forward', f)", "mock.patch.object(nn.Module, '__call__', f)", 'contextlib.nullcontext()')),
    Case('global hooks', 'L = nn.ReLU()\ndef subject(x): return L(x - 2)', ('', "H = torch.nn.modules.module.register_module_forward_hook(lambda m, a, o: o + 5); globals()['H'] = H", 'H.remove()')),
    Case('math patched', 'from unittest import mock\nf = lambda v: v\ndef subject(x): return x * math.sqrt(4), math.pi', ('', '', '', ''), contexts=('contextlib.nullcontext()', "mock.patch.object(math, 'sqrt', f)", "mock.patch.object(math, 'pi', 3)", 'contextlib.nullcontext()')),
    Case('array of numpy', "import numpy\nA = numpy.ones(4, dtype='float32')\ndef subject(x): return x + torch.from_numpy(A), A.shape, A[0]", ('', 'A[0] = 5', 'A += 1', "import numpy; A = numpy.zeros(4, dtype='float32')")),
    Case('pickled and dumped', "import json, pickle\nclass O: pass\no = O(); o.a = 1\nD = {'a': [1]}\ndef subject(x): return json.dumps(D), len(pickle.dumps(D)), json.loads(json.dumps(D))", ('', "D['a'].append(2)")),
    Case('json of objects', 'import json\nclass O: pass\no = O(); o.a = 1\ndef enc(v): return v.a\ndef subject(x): return json.dumps([o], default=enc)', ('', 'o.a = 2')),
    Case('signature', 'import inspect\ndef f(a, b=1): pass\ndef subject(x): return list(inspect.signature(f).parameters)', ('', 'f.__code__ = (lambda z: 1).__code__; f.__defaults__ = None')),
    Case('bool of numpy', 'import numpy\nA = numpy.ones(1)\nB = numpy.arange(3)\ndef subject(x): return x * (2 if A else 1), x * int(B.sum()), len(B), [int(v) for v in B], B.tolist()', ('', 'A[0] = 0', 'B[1] = 9', 'import numpy; B = numpy.arange(4)')),
    Case('numpy changed inside', 'import numpy\nA = numpy.zeros(2)\ndef subject(x):\n    A[0] += 1\n    return x * float(A[0])', ('', '', 'A[0] = 5')),
    Case('arrays of bytes', "import array\nA = array.array('i', [1, 2])\ndef subject(x): return x * A[0], len(A), list(A)", ('', 'A[0] = 5', 'A.append(3)')),
    Case('decimal and fraction', "import decimal, fractions\nD = decimal.Decimal('1.5')\nF = fractions.Fraction(1, 2)\ndef subject(x): return x * float(D), x * float(F), D + 1, F + 1", ('', "import decimal; D = decimal.Decimal('2.5')", 'import fractions; F = fractions.Fraction(3, 2)')),
    Case('regular expressions', "import re\nP = re.compile('a+')\nT = 'aab'\ndef subject(x): return P.match(T).end(), re.sub('a', 'c', T), bool(P.search('b'))", ('', "T = 'a'", "import re; P = re.compile('a*b')")),
    Case('dates', 'import datetime\nD = datetime.date(2020, 1, 2)\ndef subject(x): return x * D.year, D + datetime.timedelta(days=1)', ('', 'import datetime; D = datetime.date(2021, 1, 2)')),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_as_in_plain_python(case):
    assert not run(case).refusals
