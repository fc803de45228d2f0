"""Turn the results of a run into a table for the terminal, a JSON document and an HTML page.

Input: row results and the versions that they hold for. Output: text; nothing is run here. The HTML page is one
file without scripts or outside references: rates on top, then every row that is not ok with the first line of
what went wrong.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.table import Table

from thunder.coverage.outcomes import Outcome, RowResult, Status, rates

STYLES = {
    Status.OK: "green",
    Status.ERROR: "red",
    Status.WRONG: "bold red",
    Status.TIMEOUT: "yellow",
    Status.CRASH: "bold magenta",
    Status.NOT_RUNNABLE: "dim",
}


def rate_table(rows: Sequence[RowResult]) -> Table:
    """Passed cases by suite, subject and phase."""
    table = Table(title="coverage", title_justify="left")
    for heading in ("suite", "subject", "phase"):
        table.add_column(heading)
    for heading in ("passed", "of", "rate", "not runnable in eager"):
        table.add_column(heading, justify="right")
    for rate in rates(rows):
        style = "green" if rate.failed == 0 else "yellow" if rate.fraction >= 0.9 else "red"
        percent = f"[{style}]{100 * rate.fraction:.2f}%[/]" if rate.total else "-"
        counts = (str(rate.passed), str(rate.total), percent, str(rate.not_runnable or ""))
        table.add_row(rate.suite, rate.subject, rate.phase, *counts)
    return table


def failure_table(rows: Sequence[RowResult], limit: int = 40) -> Table:
    """What went wrong, most frequent first."""
    causes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row, failure in failures(rows):
        cause = f"{row.subject} {failure.phase}: {failure.summary[:200]}"
        causes[cause] += 1
        examples.setdefault(cause, f"{row.suite} {row.row} {failure.case}".strip())
    table = Table(title=f"failures: {len(causes)} different", title_justify="left")
    table.add_column("times", justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("for example", overflow="fold")
    for cause, count in causes.most_common(limit):
        table.add_row(str(count), cause, examples[cause])
    return table


def failures(rows: Iterable[RowResult]) -> Iterator[tuple[RowResult, Outcome]]:
    """All kept failures that count against a subject."""
    for row in rows:
        for phase in row.phases.values():
            for failure in phase.failures:
                if failure.status.is_failure:
                    yield row, failure


def json_document(rows: Sequence[RowResult], versions: dict[str, str]) -> str:
    """Versions, rates and every row; a row that is ok in every phase takes one short line."""
    rate_lines = [
        {
            "suite": rate.suite,
            "subject": rate.subject,
            "phase": rate.phase,
            "passed": rate.passed,
            "total": rate.total,
            "percent": round(100 * rate.fraction, 3),
            "not_runnable": rate.not_runnable,
        }
        for rate in rates(rows)
    ]
    head = json.dumps({"versions": versions, "rates": rate_lines}, indent=1)
    body = ",\n".join("  " + json.dumps(row.to_json()) for row in rows)
    return f'{head.rstrip()[:-1].rstrip()},\n "rows": [\n{body}\n ]\n}}\n'


def html_page(rows: Sequence[RowResult], versions: dict[str, str]) -> str:
    """One self-contained page."""
    stated = ", ".join(f"{name} {version}" for name, version in versions.items())
    sections = "".join(suite_section(suite, rows) for suite in dict.fromkeys(row.suite for row in rows))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>thunder coverage</title>\n"
        "<meta name=viewport content='width=device-width,initial-scale=1'>\n"
        f"<style>{CSS}</style>\n<h1>thunder coverage</h1><p>{html.escape(stated)}</p>\n{sections}</html>\n"
    )


def suite_section(suite: str, rows: Sequence[RowResult]) -> str:
    """Rates of a suite and its rows that are not ok."""
    chosen = [row for row in rows if row.suite == suite]
    head = "".join(
        f"<tr><td>{html.escape(rate.subject)}<td>{html.escape(rate.phase)}<td class=n>{rate.passed}"
        f"<td class=n>{rate.total}<td class=n>{100 * rate.fraction:.2f}%<td class=n>{rate.not_runnable or ''}\n"
        for rate in rates(chosen)
    )
    body = "".join(row_lines(row) for row in chosen)
    return (
        f"<h2>{html.escape(suite)}</h2>\n<table><tr><th>subject<th>phase<th>passed<th>of<th>rate"
        f"<th>not runnable in eager\n{head}</table>\n"
        f"<table><tr><th>row<th>subject<th>phase<th>case<th>status<th>first line<th>at\n{body}</table>\n"
    )


def row_lines(row: RowResult) -> str:
    """One line for each failure of a row; nothing for a row that is ok."""
    lines = []
    for phase in row.phases.values():
        for failure in phase.failures:
            cells: list[Any] = [row.row, row.subject, failure.phase, failure.case, failure.status.value]
            cells += [failure.summary, failure.location]
            marked = failure.status.name.lower()
            lines.append(f"<tr class={marked}>" + "".join(f"<td>{html.escape(str(cell))}" for cell in cells) + "\n")
    return "".join(lines)


CSS = """
body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.15rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
tr.wrong,tr.crash{background:#fde8e8}tr.error{background:#fff6e6}tr.timeout{background:#fffbe0}
tr.not_runnable{color:#888}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}td,th{border-color:#333}
tr.wrong,tr.crash{background:#3a1515}tr.error{background:#33260a}tr.timeout{background:#2e2a08}}
"""
