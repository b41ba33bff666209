"""Alerts and dashboard: what they name is there, and each alert fires on its incident alone."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
ALERTS = REPO / "deploy" / "grafana" / "alerts.yaml"
DASHBOARD = REPO / "deploy" / "grafana" / "dashboard.json"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]

# What a healthy server says, a sample a minute (first value + step x number): promtool's notation.
X = "x600"
HEALTHY = {
    "up": f"1+0{X}",
    "lipwire_sessions": f"2+0{X}",
    "lipwire_sessions_max": f"8+0{X}",
    "lipwire_draining": f"0+0{X}",
    'lipwire_overload_sessions{rung="full"}': f"2+0{X}",
    'lipwire_overload_sessions{rung="half"}': f"0+0{X}",
    'lipwire_picture_delay_seconds_bucket{le="0.06"}': f"0+2900{X}",
    'lipwire_picture_delay_seconds_bucket{le="0.25"}': f"0+3000{X}",
    'lipwire_picture_delay_seconds_bucket{le="+Inf"}': f"0+3000{X}",
    'lipwire_loop_lag_seconds_bucket{le="0.005"}': f"0+5990{X}",
    'lipwire_loop_lag_seconds_bucket{le="0.1"}': f"0+6000{X}",
    'lipwire_loop_lag_seconds_bucket{le="+Inf"}': f"0+6000{X}",
    'lipwire_device_live{device="cuda:0"}': f"1+0{X}",
    'lipwire_frames_total{outcome="generated"}': f"0+3000{X}",
    'lipwire_frames_total{outcome="fault"}': f"0+0{X}",
    'lipwire_http_request_seconds_count{method="POST", route="/whip", status="201"}': f"0+2{X}",
    'lipwire_http_request_seconds_count{method="POST", route="/whip", status="500"}': f"0+0{X}",
    'lipwire_links_ended_total{purpose="publish", reason="closed"}': f"0+2{X}",
    'lipwire_links_ended_total{purpose="publish", reason="lost"}': f"0+0{X}",
    'lipwire_links_ended_total{purpose="watch", reason="unconnected"}': f"0+0{X}",
    'lipwire_publisher_packets_total{fate="lost"}': f"0+6{X}",
    "lipwire_viewer_loss_ratio": f"0.01+0{X}",
    "process_open_fds": f"100+0{X}",
    "process_max_fds": f"1024+0{X}",
}
# What is otherwise in each incident; the first that differs is what the alert is about.
INCIDENTS = {
    "LipwireDown": {"up": f"0+0{X}"},
    "LipwireNoRoom": {"lipwire_sessions": f"8+0{X}"},
    "LipwireOverloaded": {'lipwire_overload_sessions{rung="half"}': f"1+0{X}"},
    "LipwireSlowPictures": {'lipwire_picture_delay_seconds_bucket{le="0.06"}': f"0+1500{X}"},
    "LipwireLoopLags": {'lipwire_loop_lag_seconds_bucket{le="0.005"}': f"0+5000{X}"},
    "LipwireDeviceOut": {'lipwire_device_live{device="cuda:0"}': f"0+0{X}"},
    "LipwireModelFaults": {'lipwire_frames_total{outcome="fault"}': f"0+60{X}"},
    "LipwireErrors": {
        'lipwire_http_request_seconds_count{method="POST", route="/whip", status="500"}': f"0+1{X}"
    },
    "LipwireCannotConnect": {
        'lipwire_links_ended_total{purpose="watch", reason="unconnected"}': f"0+1{X}"
    },
    "LipwirePublishersLost": {
        'lipwire_links_ended_total{purpose="publish", reason="lost"}': f"0+1{X}"
    },
    "LipwirePublisherLoss": {'lipwire_publisher_packets_total{fate="lost"}': f"0+600{X}"},
    "LipwireViewerLoss": {"lipwire_viewer_loss_ratio": f"0.2+0{X}"},
    "LipwireFiles": {"process_open_fds": f"1000+0{X}"},
    "LipwireDrainsLong": {"lipwire_draining": f"1+0{X}"},
}
# A server that drains has no places: nobody else is there in that incident.
ALSO = {"LipwireDrainsLong": {"LipwireNoRoom"}}


def expressions() -> list[str]:
    """Of the dashboard, as Grafana asks Prometheus."""
    targets = [t for panel in json.loads(DASHBOARD.read_text())["panels"] for t in panel["targets"]]
    filled = [
        t["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*") for t in targets
    ]
    assert len(filled) > 20
    return filled


def judged(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def series(values: dict[str, str]) -> list[dict[str, str]]:
    """As Prometheus stores them, with the labels that scraping adds."""
    place = 'job="lipwire", instance="a:8080"'
    named = {
        name[:-1] + f", {place}}}" if name.endswith("}") else f"{name}{{{place}}}": value
        for name, value in values.items()
    }
    return [{"series": name, "values": value} for name, value in named.items()]


def test_every_metric_and_label_that_they_name_exists() -> None:
    """The snapshot is held against /metrics by test_public_api."""
    snapshot = (REPO / "tests/data/snapshots/metrics.txt").read_text()
    known: dict[str, set[str]] = {"up": set()}
    for line in snapshot.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.partition("{")
            known.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    for text in [*expressions(), *(rule["expr"] for rule in RULES)]:
        selectors = re.findall(
            r"\b((?:lipwire|process|up)\w*)\b(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', text)
        )
        assert selectors, text
        for name, labels in selectors:
            assert name in known, name
            asked = set(re.findall(r"(\w+)\s*=", labels)) - {"job", "instance"}
            assert asked <= known[name], (name, asked)
    for name in INCIDENTS.keys() ^ {rule["alert"] for rule in RULES}:
        pytest.fail(f"{name} has no rule or no incident")


def test_the_run_book_knows_every_alert() -> None:
    text = (REPO / "docs" / "operate.md").read_text()
    assert {rule["alert"] for rule in RULES} == set(re.findall(r"`(Lipwire\w+)`", text))


def test_every_alert_fires_on_its_incident_and_on_no_other(promtool: str, tmp_path: Path) -> None:
    judged([promtool, "check", "rules", ALERTS])
    tests = []
    for incident, changes in [("health", {}), *INCIDENTS.items()]:
        assert changes.keys() <= HEALTHY.keys()
        firing = sorted({incident} & INCIDENTS.keys() | ALSO.get(incident, set()))
        tests.append(
            {
                "name": incident,
                "interval": "1m",
                "input_series": series(HEALTHY | changes),
                "promql_expr_test": [
                    {
                        "expr": 'count(ALERTS{alertstate="firing"}) by (alertname)',
                        "eval_time": "8h" if incident == "LipwireDrainsLong" else "1h",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing
                        ],
                    }
                ],
            }
        )
    file = tmp_path / "incidents.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    judged([promtool, "test", "rules", file])


def test_prometheus_takes_what_the_dashboard_asks(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    judged([promtool, "check", "rules", file])
