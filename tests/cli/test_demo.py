"""`thunder demo` and `thunder bench`: what counts as a failure, and what the tables show."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from thunder.cli import bench, demo
from thunder.cli.app import COMMANDS, build_app, main
from thunder.cli.contenders import EAGER, THUNDER, THUNDER_EAGER, TORCH_COMPILE, select_contenders
from thunder.cli.measurement import Timing
from thunder.cli.workloads import DEMONSTRATION, FIGURES
from thunder.errors import OptionError

WORKLOADS = {workload.name: workload for workload in DEMONSTRATION}


def row(name, **errors):
    """A row whose contenders (eager, torch_compile, thunder) have these errors, or failed with a text."""
    names = {"eager": EAGER.name, "torch_compile": TORCH_COMPILE.name, "thunder": THUNDER.name}
    outcomes = {}
    for key, error in errors.items():
        outcome = demo.Outcome(names[key], 1.0, Timing(0.5, 0.4, 0.6, 0.4, 3))
        if isinstance(error, str):
            outcome.failure = error
        else:
            outcome.error = error
        outcomes[names[key]] = outcome
    judged = demo.Row(WORKLOADS[name], outcomes)
    demo.judge(judged)
    return judged


def shown(table):
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("judged", "failed"),
    [
        (row("mlp", eager=1e-6, torch_compile=1e-6, thunder=3e-6), False),
        (row("mlp", eager=1e-6, torch_compile=1e-6, thunder=5e-6), True),
        (row("mlp", eager=1e-6, torch_compile=1.0, thunder=1e-6), False),
        (row("mlp", eager=1e-6, torch_compile="no compiler", thunder=1e-6), False),
        (row("mlp", eager=1e-6, torch_compile=1e-6, thunder="ValueError: no"), True),
        (row("mlp", eager="ImportError: transformers"), True),
        (row("llama-static-cache", eager=0.0, thunder=0.0), False),
        (row("llama-static-cache", eager=0.0, thunder=float("inf")), True),
    ],
)
def test_only_thunders_and_eagers_failures_count(judged, failed):
    assert judged.failed is failed


def test_table_shows_times_errors_and_failures():
    table = shown(
        demo.result_table(
            [
                row("mlp", eager=1e-6, torch_compile=2e-6, thunder="ValueError: [bold] things"),
                row("llama-static-cache", eager=0.0, thunder=float("inf")),
            ]
        )
    )
    for text in ("MLP 2048-4096-64", "500 ms", "1.00", "2.0e-06", "ValueError: [bold] things", "differ", "failed"):
        assert text in table


def test_generation_is_compared_with_eager_alone():
    every = [contender.name for contender in demo.CAST]
    assert demo.contenders_of(WORKLOADS["qwen2-dynamic-cache"], every) == [EAGER.name, THUNDER.name]
    assert demo.contenders_of(WORKLOADS["qwen2"], every) == every


def test_every_command_has_a_module_of_its_name():
    app = build_app()
    names = {command.name for command in app.registered_commands}
    assert names == {module.__name__.rpartition(".")[2] for module in COMMANDS}
    assert {"demo", "bench", "inspect", "coverage", "doctor"} <= names


def test_a_wrong_option_is_a_message(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["thunder", "bench", "--only", "nothing"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "unknown workload 'nothing'" in capsys.readouterr().err


def test_contenders_are_selected_in_their_own_order():
    every = [EAGER, TORCH_COMPILE, THUNDER]
    assert select_contenders(every, None) == [EAGER.name, TORCH_COMPILE.name, THUNDER.name]
    assert select_contenders(every, [THUNDER.name, EAGER.name]) == [EAGER.name, THUNDER.name]
    assert select_contenders(every, [THUNDER.name]) == [THUNDER.name]
    with pytest.raises(OptionError, match="torch.compile"):
        select_contenders(every, ["jax"])


def test_bench_measures_and_writes_json(tmp_path):
    path = tmp_path / "figures.json"
    arguments = ["bench", "--only", "tiny-mlp", "--by", THUNDER.name, "--rounds", "2", "--json", str(path)]
    finished = CliRunner().invoke(build_app(), arguments)
    assert finished.exit_code == 0, finished.output
    written = json.loads(path.read_text())
    assert written["versions"]["torch"] and written["machine"]
    by_contender = {entry["contender"]: entry for entry in written["measurements"]}
    assert set(by_contender) == {THUNDER.name}
    assert by_contender[THUNDER.name]["call"]["median"] > 0
    assert by_contender[THUNDER.name]["error"] < 1e-5


def test_bench_reports_what_it_knows_after_every_step():
    known = []

    def report(measurements):
        known.append([(entry.first_call is not None, entry.call and entry.call.rounds) for entry in measurements])

    workload, names = FIGURES[0], [EAGER.name, THUNDER_EAGER.name]
    found = bench.measure(workload, names, "cpu", bench.Settings(rounds=2, at_once=True), report)
    assert known[0] == [(False, None)] * 2  # the models are built
    assert known[2] == [(True, None)] * 2  # both first calls, whichever answered first
    assert known[3:] == [[(True, 1)] * 2, [(True, 2)] * 2, [(True, 2)] * 2]
    assert all(entry.failure is None and entry.no_reference is None for entry in found)
    assert all(entry.error < 1e-5 and entry.floor > 0 for entry in found)


def test_bench_measures_workloads_at_once():
    workloads = [FIGURES[0], replace(FIGURES[0], name="tiny-mlp-backward"), replace(FIGURES[0], name="nothing")]
    names = {workload.name: [EAGER.name] for workload in workloads}
    reports = []
    settings = bench.Settings(rounds=1, at_once=True)
    found = bench.measure_at_once(workloads, names, "cpu", settings, lambda known: reports.append(len(known)))
    assert [entry.workload for entry in found] == list(names) and reports[-1] == 3
    assert all(entry.call and entry.error < 1e-5 and entry.failure is None for entry in found[:2])
    assert "nothing" in found[2].failure and "nothing" in found[2].no_reference and found[2].call is None


def test_bench_replaces_its_file_as_a_whole(tmp_path):
    path = tmp_path / "figures.json"
    for seconds in (1.0, 2.0):
        entry = bench.Measurement(FIGURES[0].name, EAGER.name, first_call=seconds)
        bench.write_json(path, bench.as_json("cpu", [entry]))
    assert json.loads(path.read_text())["measurements"][0]["first_call"] == 2.0
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_bench_shows_failures():
    measurements = [bench.Measurement(FIGURES[0].name, EAGER.name, failure="RuntimeError: [no]")]
    assert "RuntimeError: [no]" in shown(bench.result_table([FIGURES[0]], measurements))
    measurements = [bench.Measurement(FIGURES[0].name, EAGER.name, no_reference="OutOfMemoryError: [no]")]
    assert "no reference: OutOfMemoryError: [no]" in shown(bench.result_table([FIGURES[0]], measurements))


def test_demo_runs_a_workload(tmp_path):
    path = tmp_path / "demo.json"
    arguments = ["demo", "--only", "mlp", "--by", THUNDER.name, "--rounds", "1", "--json", str(path)]
    finished = CliRunner().invoke(build_app(), arguments)
    assert finished.exit_code == 0, finished.output
    rows = json.loads(path.read_text())["rows"]
    assert [entry["contender"] for entry in rows] == [EAGER.name, THUNDER.name]
    assert all(entry["failure"] is None for entry in rows)
    assert "stage by stage" in finished.output and "torch.nn.functional.relu" in finished.output
