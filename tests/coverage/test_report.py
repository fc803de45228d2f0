"""Reports say the same in three forms."""

from __future__ import annotations

import json

from rich.console import Console

from thunder.coverage.outcomes import Outcome, RowResult, Status
from thunder.coverage.report import failure_table, html_page, json_document, rate_table


def rows() -> list[RowResult]:
    good, bad = RowResult("ops", "add:float32", "thunder"), RowResult("ops", "sub:float32", "thunder")
    good.add(Outcome("function", "0", Status.OK))
    bad.add(Outcome("function", "1", Status.ERROR, error_class="TypeError", message="<b> & such", location="a.py:1 f"))
    return [good, bad]


def test_json_holds_versions_rates_and_rows():
    document = json.loads(json_document(rows(), {"torch": "2"}))
    assert document["versions"] == {"torch": "2"}
    assert document["rates"][0] | {"percent": 50.0, "passed": 1, "total": 2} == document["rates"][0]
    assert [RowResult.from_json(row) for row in document["rows"]] == rows()


def test_html_is_escaped_and_self_contained():
    page = html_page(rows(), {"torch": "2"})
    assert "TypeError: &lt;b&gt; &amp; such" in page
    assert "sub:float32" in page and "add:float32" not in page
    assert "http" not in page and "<script" not in page


def test_tables_print():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(rate_table(rows()))
    console.print(failure_table(rows()))
    text = console.export_text()
    assert "50.00%" in text and "sub:float32" in text
