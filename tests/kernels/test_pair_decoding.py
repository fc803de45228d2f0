"""The machine code that decodes pairs of 16-bit floats, carried out here instruction by instruction: every code."""

from __future__ import annotations

import re

import pytest
import torch

from thunder.precision.formats import Format
from thunder.precision.kernels.pair_decoding import pair_decoding


def as_floats(register, dtype):
    """The two 16-bit floats of each 32-bit number, float64 [..., 2]."""
    halves = torch.stack([register & 0xFFFF, register >> 16], -1)
    signed = torch.where(halves >= 0x8000, halves - 0x10000, halves).to(torch.int16)
    return signed.view(dtype).double()


def as_register(floats):
    halves = floats.view(torch.int16).long() & 0xFFFF
    return halves[..., 0] | (halves[..., 1] << 16)


def permuted(first, second, selector):
    sources = [(source >> (8 * i)) & 255 for source in (first, second) for i in range(4)]
    return sum(sources[(selector >> (4 * i)) & 7] << (8 * i) for i in range(4))


def carry_out(text, registers, dtype):
    """Runs the text on `registers`, int64 tensors of 32 bits by name; the results are written there."""
    known = dict(registers)
    like = next(iter(registers.values()))

    def value(name):
        return known[name] if name in known else torch.full_like(like, int(name, 0))

    actions = {
        "mov.b32": lambda a: a,
        "and.b32": lambda a, b: a & b,
        "or.b32": lambda a, b: a | b,
        "xor.b32": lambda a, b: a ^ b,
        "shl.b32": lambda a, b: (a << b) & 0xFFFFFFFF,
        "shr.u32": lambda a, b: a >> b,
        "prmt.b32": lambda a, b, c: permuted(a, b, int(c[0])),
    }
    for line in re.findall(r"^(?!\.reg)([a-z0-9.]+) (.*);$", text, re.MULTILINE):
        name, (target, *arguments) = line[0], line[1].split(", ")
        values = [value(one) for one in arguments]
        if name.startswith("fma.rn."):
            a, b, c = (as_floats(one, dtype) for one in values)
            known[target] = as_register((a * b + c).to(dtype))
        else:
            known[target] = actions[name](*values)
    return known


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("element", ["int8", "int4", "uint4", "e4m3", "e5m2", "e2m1"])
def test_every_code(element, dtype):
    format = Format(element, 1, 32, "float32")
    decoding = pair_decoding(format, dtype, True)
    kind = format.kind
    numbers = kind.decode(torch.arange(1 << kind.bits).to(torch.uint8)).double()
    places = torch.arange(256).view(-1, 4)
    word = (places << torch.tensor([0, 8, 16, 24])).sum(-1)
    count = 2 if format.bits == 8 else 4
    scale = torch.full((len(word), 2), 0.5, dtype=dtype)
    offset = torch.full((len(word), 2), -decoding.fixed, dtype=dtype)
    given = [word, *[as_register(offset)] * 2, *[as_register(scale)] * 2]
    known = carry_out(decoding.text, {f"${count + i}": one for i, one in enumerate(given)}, dtype)
    for half in range(count // 2):
        found = torch.cat([as_floats(known[f"${2 * half + pair}"], dtype) for pair in range(2)], -1)
        wanted = numbers[(places >> (4 * half)) & ((1 << format.bits) - 1)] * 0.5
        finite = wanted.isfinite()
        assert torch.equal(found[finite], wanted[finite])


def test_formats_without_such_code():
    assert pair_decoding(Format("nf4", 1, 64), torch.bfloat16, True) is None
    assert pair_decoding(Format("e3m2"), torch.bfloat16, False) is None
    assert pair_decoding(Format("int8"), torch.float32, False) is None
