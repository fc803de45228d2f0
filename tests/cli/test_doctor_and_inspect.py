"""`thunder doctor` and `thunder inspect`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from thunder.cli import doctor
from thunder.cli.app import build_app
from thunder.cli.inspect import evaluate, load_module
from thunder.errors import OptionError

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.up = torch.nn.Linear(size, 2 * size)

    def forward(self, x, scale=1.0):
        return torch.nn.functional.relu(self.up(x)) * scale
"""


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model_to_inspect.py"
    path.write_text(MODEL)
    return str(path)


def test_expressions_see_the_module_and_torch(model_file):
    module = load_module(model_file)
    assert evaluate("Net(3)(torch.ones(1, 3)).shape", module) == (1, 6)
    assert load_module("torch.nn.functional").relu


def test_missing_file_is_a_mistake_of_the_users():
    with pytest.raises(OptionError, match="no file"):
        load_module("nowhere.py")


def test_inspect_prints_guards_and_stages(model_file):
    arguments = ["inspect", model_file, "Net(4)", "torch.ones(2, 4), scale=2.0", "--executor", "eager"]
    finished = CliRunner().invoke(build_app(), arguments)
    assert finished.exit_code == 0, finished.output
    for text in ("Guards", "Forward", "torch.nn.functional.linear", "torch.nn.functional.relu"):
        assert text in finished.output


def test_inspect_prints_the_backward(model_file):
    finished = CliRunner().invoke(build_app(), ["inspect", model_file, "Net(4)", "torch.ones(2, 4)", "--backward"])
    assert finished.exit_code == 0, finished.output
    assert "Backward" in finished.output


def test_doctor_checks_everything():
    finished = CliRunner().invoke(build_app(), ["doctor"])
    assert finished.exit_code == 0, finished.output
    for subject in ("Python", "PyTorch", "thunder", "C++ compiler", "CUDA", "Triton", "compiler cache"):
        assert subject in finished.output


def test_doctor_reports_a_check_that_breaks():
    def check_everything():
        raise RuntimeError("broken")

    finding = doctor.run_check(check_everything)
    assert finding.level == "problem" and finding.subject == "everything" and "broken" in finding.found


def test_doctor_names_a_remedy_for_a_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    finding = doctor.check_cpp_compiler()
    assert finding.level == "note" and "g++" in finding.remedy


def test_doctor_finds_an_unwritable_cache(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/none")
    assert doctor.check_cache_directory().level in ("problem", "ok")
