"""docs/metrics.md, the code, the dashboards and the alert rules say the same of every metric."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.repo.observed import (
    MONITORING,
    ROOT,
    alerts,
    dashboards,
    exposed,
    metrics_of,
    queries,
    readers,
)
from tests.tools import needs

ROW = re.compile(r"^\| `(millrace_\w+)` \| (\w+) \| (\w*) \| ([^|]*) \| [^|]+ \| ([^|]*) \|$", re.MULTILINE)
PAGE = (ROOT / "docs/metrics.md").read_text()
# Prometheus adds these where it scrapes; with the ones of process_* and build info they are all there is.
SCRAPED = {"namespace", "instance", "job", "le"}


def documented() -> list[tuple[str, str, str, tuple[str, ...], str]]:
    """(process, name, type, labels, read by) of each row."""
    rows = []
    for process, section in zip(
        ("api", "worker", "jobs"), re.split(r"^## ", PAGE, flags=re.M)[1:4], strict=True
    ):
        for name, kind, _, labels, who in ROW.findall(section):
            rows.append((process, name, kind, tuple(re.findall(r"`(\w+)`", labels)), who.strip()))
    return rows


def test_the_page_lists_every_metric_with_its_type_and_labels_and_no_other() -> None:
    declared = {(one.process, one.name, one.kind, one.labels) for one in exposed()}
    assert {row[:4] for row in documented()} == declared


@pytest.mark.parametrize("row", documented(), ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_page_says_who_reads_a_metric_and_somebody_does(row: tuple[str, str, str, object, str]) -> None:
    assert row[4] == ", ".join(readers(row[1]))
    assert row[4], "it is never read: a dashboard should, or it should go"


def test_names_end_in_their_base_unit() -> None:
    for name, _, unit, _, _ in ROW.findall(PAGE):
        stem = name.removesuffix("_total")
        assert not re.search(r"_(ms|millis|milliseconds|kb|mb|percent)$", stem)
        assert stem.endswith(("_seconds", "_bytes")) == (unit in ("seconds", "bytes")), name


@pytest.mark.parametrize("title", dashboards())
def test_every_query_of_a_dashboard_names_metrics_and_labels_that_exist(title: str) -> None:
    names = {one.name for one in exposed()}
    labels = {label for one in exposed() for label in one.labels} | SCRAPED | {"version", "revision"}
    for query in queries(dashboards()[title]):
        assert metrics_of(query) <= names or "process_" in query, query
        used = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
        used += [
            label
            for group in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", query)
            for label in group.split(", ")
            if label
        ]
        assert set(used) <= labels, query


@pytest.mark.parametrize("title", dashboards())
def test_dashboards_have_what_grafana_needs(title: str) -> None:
    dashboard = dashboards()[title]
    assert dashboard["uid"] == f"millrace-{title.lower()}"
    assert "millrace" in dashboard["tags"]
    assert dashboard["schemaVersion"] >= 39
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, (
            "a uid is of one Grafana"
        )
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))
        assert all('namespace=~"$namespace"' in target["expr"] for target in panel["targets"])


def test_every_alert_names_metrics_that_exist_and_a_section_that_says_what_to_do() -> None:
    names = {one.name for one in exposed()}
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.M)
    assert sections == list(dict.fromkeys(sections))
    assert set(sections) == set(alerts())
    for name, rule in alerts().items():
        assert metrics_of(rule["expr"]) <= names, name
        page, _, section = rule["annotations"]["runbook_url"].partition("#")
        assert (page.startswith("https://"), page.endswith("/docs/operations.md")) == (True, True)
        assert section == name.lower()
        assert "humanize }}" not in rule["annotations"]["summary"] or name != "MillraceDrift", (
            "0.321 was 321m"
        )
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    promtool = needs("promtool")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]))
    done = subprocess.run(
        [promtool, "check", "rules", str(rules)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("title", dashboards())
def test_prometheus_can_parse_every_query(title: str, tmp_path: Path) -> None:
    """As recording rules, since promtool parses nothing else."""
    promtool = needs("promtool")
    found = [query.replace("$__rate_interval", "1m") for query in queries(dashboards()[title])]
    group = {
        "name": "queries",
        "rules": [{"record": f"q:{at}", "expr": query} for at, query in enumerate(found)],
    }
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [group]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(rules)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration_for_one_machine(tmp_path: Path) -> None:
    promtool = needs("promtool")
    shutil.copy(ROOT / "packaging/prometheus/prometheus.yml", tmp_path)
    rules = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]
    (tmp_path / "millrace.rules.yml").write_text(yaml.safe_dump(rules))
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_alert(folder: Path, name: str, fires: bool, series: dict[str, str]) -> None:
    """Fails unless the alert fires 20 minutes into `series` (in promtool's notation), or does not."""
    promtool = needs("promtool")
    (folder / "rules.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"])
    )
    firing = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)'
    samples = [{"labels": "{}", "value": int(fires)}]
    test = {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": "20m", "exp_samples": samples}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("depth", "workers", "fires"), [(50_000, 2, True), (4_000, 2, False), (0, 0, False)])
def test_the_depth_alert_fires_when_work_grows_beyond_half_a_budget(
    tmp_path: Path, depth: int, workers: int, fires: bool
) -> None:
    """Two workers of 2500 tokens/s each do 25 000 tokens in half the default budget."""
    series = {
        'millrace_queue_cost_tokens{lane="interactive"}': f"{depth}+{10 if depth else 0}x30",
        "millrace_workers_rate_tokens": f"{2500 * workers}x30",
        "millrace_workers": f"{workers}x30",
    }
    assert_alert(tmp_path, "MillraceDepthGrowing", fires, series)


@pytest.mark.parametrize(
    ("route", "fires"),
    [
        ("/predict", True),
        ("/models/{name:path}/predict", True),
        ("/v1/models/{model}:predict", True),
        ("/v2/models/{model}/infer", True),
        ("/jobs/{job_id}", True),
        ("/", True),
        ("/readyz", False),
        ("/metrics", False),
        ("/stats", False),
        ("/v2/health/ready", False),
        ("/v2/models/{model}/ready", False),
        ("/v1/models/{model}", False),
        ("/console", False),
        ("/admin/models", False),
        ("/static/{name:path}", False),
        ("/docs", False),
        ("other", False),
    ],
)
def test_probes_that_answered_503_during_a_start_were_an_alert(
    tmp_path: Path, route: str, fires: bool
) -> None:
    """And a hundred good answers to probes do not hide one error of a user."""
    series = {
        f'millrace_requests_total{{route="{route}", status="503"}}': "0+2x30",
        'millrace_requests_total{route="/predict", status="200"}': "0+10x30",
        'millrace_requests_total{route="/readyz", status="200"}': "0+1000x30",
    }
    assert_alert(tmp_path, "MillraceErrors", fires, series)


@pytest.mark.parametrize(("reference", "fires"), [("own", True), ("shipped", False)])
def test_a_user_s_first_texts_were_drift_from_the_texts_of_the_default_model(
    tmp_path: Path, reference: str, fires: bool
) -> None:
    labels = f'revision="a", feature="tokens", reference="{reference}"'
    assert_alert(tmp_path, "MillraceDrift", fires, {f"millrace_drift_psi{{{labels}}}": "0.321x30"})


@pytest.mark.parametrize(("refused", "fires"), [("0x10 1x20", True), ("0x30", False), ("5x30", False)])
def test_one_refused_item_in_the_queue_of_jobs_is_an_alert(tmp_path: Path, refused: str, fires: bool) -> None:
    """Those of earlier days are not."""
    assert_alert(tmp_path, "MillraceJobsRefused", fires, {"millrace_jobs_refused_total": refused})
