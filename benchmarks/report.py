"""Records as pictures (.png, .svg) and as one page (.html) that needs nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Record, missed, shown, unit_of
from engine.errors import ConfigError

BARS = 16  # figures in one chart; more cannot be read
# A stage so many times as long as the middle one, and lengths are drawn by their logarithms. Fewer:
# shares cannot be seen where they could; more: one wait hides all the rest.
WIDE = 1000
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.15rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f6}
th{border-bottom:1px solid #999;vertical-align:bottom}
.MISSED,.failed{color:#b00020;font-weight:600}.met{color:#1b7a3d}
svg{max-width:100%;height:auto}pre{white-space:pre-wrap;background:#f4f4f6;padding:.6rem}
@media(prefers-color-scheme:dark){body{background:#17181b;color:#ddd}tr:nth-child(even),pre{
background:#222429}.met{color:#5fca85}.MISSED,.failed{color:#ff6b81}svg{background:#fff}}
"""


def draw(record: Record, path: Path) -> None:
    """Write a record as its ending says.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        if path.suffix == ".html":
            path.write_text(page([record]), encoding="utf-8")
        else:
            path.write_bytes(_picture(record, path.suffix[1:]))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _picture(record: Record, kind: str) -> bytes:
    """The record's charts, one below the other: what was drawn of raw values, then of tables."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'lipwire[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    charts = [*_curves(record), *_stacks(record), *_lines(record)] or [_bars]
    figure, axes = pyplot.subplots(
        len(charts), 1, figsize=(7.5, 3.4 * len(charts)), squeeze=False, layout="constrained"
    )
    for chart, place in zip(charts, axes[:, 0], strict=True):
        chart(place, record)
    figure.suptitle(f"{record['benchmark']}, {record['machine']['processor']}, "
                    f"{record['date'][:10]}", fontsize=9)  # fmt: skip
    out = io.BytesIO()
    # Glyphs as shapes: the page looks alike everywhere. No date: equal records, equal bytes.
    meta = {"Date": None} if kind == "svg" else None
    figure.savefig(out, format=kind, dpi=110, metadata=meta)
    pyplot.close(figure)
    return out.getvalue()


def _curves(record: Record) -> list[Any]:
    """Shares of raw values below each value, those of one unit in one chart."""
    units: dict[str, list[str]] = {}
    for name, runs in record["samples"].items():
        if any(runs) and not name.startswith("stage "):
            units.setdefault(unit_of(name), []).append(name)

    def chart(names: Sequence[str], unit: str) -> Any:
        def plot(axes: Any, record: Record) -> None:
            for name in names:
                values = np.sort(np.concatenate([np.array(r) for r in record["samples"][name]]))
                axes.plot(values, (np.arange(len(values)) + 1) / len(values), label=name)
            low = min(min(min(r) for r in record["samples"][n] if r) for n in names)
            if unit == "ms" and low >= 0:
                axes.set_xscale("symlog", linthresh=1)
            axes.set_xlabel(unit)
            axes.set_ylabel("share of values below")
            axes.legend(fontsize=7)
            axes.grid(alpha=0.3)

        return plot

    return [chart(names, unit) for unit, names in units.items()]


def _stacks(record: Record) -> list[Any]:
    """Tables of stages that add up, as one bar."""
    found = []
    for title, rows in record["tables"].items():
        if rows and {"stage", "p50_ms"} <= rows[0].keys():

            def plot(axes: Any, record: Record, title: str = title) -> None:
                rows = [r for r in record["tables"][title] if r["p50_ms"] is not None]
                rows = [r for r in rows if not r.get("sum")][::-1]
                names, values = [r["stage"] for r in rows], [r["p50_ms"] for r in rows]
                axes.barh(names, values)
                ends = [max(row["p99_ms"] or 0.0, row["p50_ms"]) for row in rows]
                axes.hlines(names, values, ends, color="#888")
                if max(values) > WIDE * float(np.median(values)):
                    axes.set_xscale("symlog", linthresh=1)
                axes.figure.set_figheight(axes.figure.get_figheight() + 0.1 * len(rows))
                axes.tick_params(axis="y", labelsize=7)
                axes.set_xlabel(f"{title}: ms, median; line to p99")
                axes.grid(alpha=0.3, axis="x")

            found.append(plot)
    return found


def _lines(record: Record) -> list[Any]:
    """Tables whose first column counts something: the other columns over it."""
    found = []
    for title, rows in record["tables"].items():
        if len(rows) < 2 or "p50_ms" in rows[0]:
            continue
        first, *rest = rows[0]
        if not all(isinstance(row[first], int | float) for row in rows):
            continue
        names = [n for n in rest if all(isinstance(row.get(n), int | float) for row in rows)]

        def plot(axes: Any, record: Record, title: str = title, first: str = first,
                 names: list[str] = names) -> None:  # fmt: skip
            rows = record["tables"][title]
            for name in names:
                axes.plot([row[first] for row in rows], [row[name] for row in rows],
                          marker="o", markersize=3, linestyle="none" if len(rows) > 30 else "-",
                          label=name)  # fmt: skip
            axes.set_xlabel(first)
            axes.set_title(title, fontsize=8)
            axes.set_yscale("symlog", linthresh=0.1)
            axes.legend(fontsize=7)
            axes.grid(alpha=0.3)

        if names:
            found.append(plot)
    return found


def _bars(axes: Any, record: Record) -> None:
    rows = [(name, one["value"]) for name, one in record["figures"].items()
            if isinstance(one["value"], int | float)][:BARS][::-1]  # fmt: skip
    axes.barh([name for name, _ in rows], [value for _, value in rows])
    axes.set_xscale("symlog")
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.3, axis="x")


def page(records: Sequence[Record], failed: Mapping[str, str] | None = None) -> str:
    """One page with every record's figures, tables and charts; nothing is loaded from elsewhere.

    Args:
        records: in the order wanted.
        failed: benchmarks that gave none, and why.
    """
    failed = failed or {}
    parts = [_head(records, failed)]
    for name, why in failed.items():
        parts.append(
            f'<h2 id="{_e(name)}" class=failed>{_e(name)}: failed</h2><pre>{_e(why)}</pre>'
        )
    for record in records:
        parts.append(_section(record))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>lipwire bench</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _head(records: Sequence[Record], failed: Mapping[str, str]) -> str:
    rows = [
        f"<tr><td><a href='#{_e(r['benchmark'])}'>{_e(r['benchmark'])}</a><td>{_e(r['what'])}"
        f"<td>{_verdict(r)}"
        for r in records
    ]
    rows += [f"<tr><td><a href='#{_e(n)}'>{_e(n)}</a><td><td class=failed>failed" for n in failed]
    table = f"<table><tr><th>benchmark<th><th>{''.join(rows)}</table>"
    if not records:
        return f"<h1>lipwire bench</h1>{table}"
    first = records[0]
    machine, bundle = first["machine"], first["bundle"]
    versions = ", ".join(f"{n} {v}" for n, v in machine["versions"].items() if v)
    return (
        f"<h1>lipwire bench</h1><p>{_e(machine['processor'])}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {_e(machine['system'])}, Python {_e(machine['python'])}; "
        f"{_e(versions)}. Model {_e(bundle['name'])} {_e(bundle['version'])} "
        f"({_e(bundle['sha256'][:12])}). Commit {_e(str(first['commit'])[:13])}.</p>{table}"
    )


def _verdict(record: Record) -> str:
    count = len(missed(record))
    judged = sum(one["ok"] is not None for one in record["figures"].values())
    if "incomplete" in record:
        return "<span class=MISSED>incomplete</span>"
    if not judged:
        return "measured"
    return f"<span class=MISSED>{count} missed</span>" if count else "<span class=met>met</span>"


def _section(record: Record) -> str:
    words = {True: "met", False: "MISSED", None: ""}
    figures = "".join(
        f"<tr><td>{_e(name)}<td>{_e(shown(one['value'], one['unit']))}<td>{_e(one['target'] or '')}"
        f"<td class={words[one['ok']] or 'none'}>{words[one['ok']]}"
        for name, one in record["figures"].items()
    )
    tables = "".join(_table(title, rows) for title, rows in record["tables"].items() if rows)
    cut = ""
    if "incomplete" in record:
        cut = f"<p class=MISSED>It is incomplete: {_e(record['incomplete'])}.</p>"
    return (
        f'<h2 id="{_e(record["benchmark"])}">{_e(record["benchmark"])}</h2>'
        f"<p>{_e(record['what'])} {_e(record['date'])}, "
        f"load {record['machine']['load_1min']}.</p>{cut}<pre>{_e(record['command'])}</pre>"
        f"<table><tr><th>figure<th>measured<th>target<th>{figures}</table>{tables}{_inline(record)}"
    )


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    # Long names may be broken, or wide tables leave the page.
    head = "".join(f"<th>{_e(c).replace('_', '_<wbr>')}" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_e(shown(row.get(c), unit_of(c)))}" for c in columns)
        for row in rows
    )
    return f"<h3>{_e(title)}</h3><table><tr>{head}{body}</table>"


def _inline(record: Record) -> str:
    """The charts as SVG inside the page; a sentence where they cannot be drawn."""
    try:
        svg = _picture(record, "svg").decode()
    except ConfigError as error:
        return f"<p>{_e(str(error))}</p>"
    # matplotlib's own ids repeat from picture to picture.
    prefix = f"{record['benchmark']}-"
    svg = svg[svg.index("<svg") :].replace('id="', f'id="{prefix}')
    return svg.replace('href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")


def _e(text: object) -> str:
    return html.escape(str(text))
