"""What we ship for Prometheus and Grafana: that it is valid, that it asks for what there is, and that alerts fire."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from etl.cli import registered
from etl.metrics import ASKED, COUNTED, TIMED, TOLD
from tests.compose import CHECKOUT
from tests.tools import tool

PROMETHEUS = CHECKOUT / "ops/prometheus"
GRAFANA = CHECKOUT / "ops/grafana"
DASHBOARD = GRAFANA / "dashboards/etl.json"
SERIES = {metric.name for metric in (*COUNTED, *ASKED, *TOLD)} | {
    f"{metric.name}_{suffix}" for metric in TIMED for suffix in ("bucket", "count", "sum")
}
LABELS = {label for metric in (*COUNTED, *TIMED, *ASKED, *TOLD) for label in metric.labels} | {"le", "job", "instance"}


def promtool(*arguments: str | Path) -> None:
    result = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def asked_by_the_dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def assert_only_what_there_is(expression: str) -> None:
    assert set(re.findall(r"\betl_\w+", expression)) <= SERIES, expression
    grouped = ",".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", expression))
    assert {label.strip() for label in grouped.split(",") if label} <= LABELS, expression


def test_the_configuration_and_its_rules_are_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_is_quiet_when_all_is_well() -> None:
    promtool("test", "rules", PROMETHEUS / "alerts_test.yml")
    # promtool doesn't miss an alert that nobody tries.
    samples = [
        sample["labels"]
        for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
        for expected in test["promql_expr_test"]
        for sample in expected.get("exp_samples", ())
    ]
    fired = {match[1] for labels in samples if (match := re.search('alertname="(.*?)", alertstate="firing"', labels))}
    assert fired == {rule["alert"] for rule in alerts()}


def test_a_planted_fault_in_a_rule_is_found(tmp_path: Path) -> None:
    """The tests of the alerts aren't green whatever the rules say."""
    rules = (PROMETHEUS / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(rules.replace("etl_redis_up == 0", "etl_redis_up == 2"))
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())
    of_redis = [test for test in tests["tests"] if test["name"].startswith("Redis")]
    (tmp_path / "alerts_test.yml").write_text(json.dumps({**tests, "tests": of_redis}))
    with pytest.raises(AssertionError, match="EtlRedisDown"):
        promtool("test", "rules", tmp_path / "alerts_test.yml")


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_what_to_type(rule: dict[str, Any]) -> None:
    assert_only_what_there_is(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    commands = re.findall(r"`etl ([^`]+)`", rule["annotations"]["description"])
    assert commands
    for command in commands:
        words = [word for word in command.split() if re.fullmatch("[a-z]+", word)]
        found: Any = typer.main.get_command(registered())
        for word in words[:2]:
            found = found.commands[word] if hasattr(found, "commands") else found
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in command.split() if word.startswith("--")} <= options, command


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    expressions = asked_by_the_dashboard()
    assert len(expressions) > 10
    for expression in expressions:
        assert_only_what_there_is(expression)
    shown = {name for expression in expressions for name in re.findall(r"\betl_\w+", expression)}
    names = {re.sub("_bucket$", "", name) for name in shown}
    assert names == {metric.name for metric in (*COUNTED, *TIMED, *ASKED)}, "a metric that the dashboard doesn't show"
    # What Grafana puts in for its variable is a duration.
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions)
    ]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.json")


def test_grafana_finds_each_dashboard_and_its_source() -> None:
    sources = [
        source
        for file in sorted((GRAFANA / "provisioning/datasources").iterdir())
        for source in yaml.safe_load(file.read_text())["datasources"]
    ]
    assert [source["uid"] for source in sources if source.get("isDefault")] == ["prometheus"]
    used, ids = set(), []
    for file in sorted((GRAFANA / "dashboards").iterdir()):
        dashboard = json.loads(file.read_text())
        ids.append(dashboard["uid"])
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in dashboard["panels"]:
            used |= {(each["datasource"]["type"], each["datasource"]["uid"]) for each in (panel, *panel["targets"])}
    assert len(set(ids)) == len(ids) >= 2
    assert used == {(source["type"], source["uid"]) for source in sources}
