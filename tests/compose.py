"""docker-compose.yml as its own tests read it: what compose would do to it, without compose."""

import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, cast

import yaml

CHECKOUT = Path(__file__).parents[1]
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<rest>[^}]*))?\}")


def services(environment: Mapping[str, str], profile: str | None = None) -> dict[str, Any]:
    """Of the file at the top, those of the profile too, their variables filled in, in the order in which they start.
    KeyError: a variable is needed that isn't there."""
    text = (CHECKOUT / "docker-compose.yml").read_text()
    file = yaml.safe_load("\n".join(_filled(line, environment) for line in text.splitlines()))
    found: dict[str, Any] = {
        name: service for name, service in file["services"].items() if profile in service.get("profiles", [profile])
    }
    for service in found.values():
        if "environment" in service:
            service["environment"] = _passed_on(service["environment"], environment)
    order = TopologicalSorter({name: list(service.get("depends_on", ())) for name, service in found.items()})
    return {name: found[name] for name in order.static_order()}


def _passed_on(variables: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """A variable without a value is passed on; and isn't there, if it isn't there."""
    given = {name: environment.get(name) if value is None else value for name, value in variables.items()}
    return {name: value for name, value in given.items() if value is not None}


def _filled(line: str, environment: Mapping[str, str]) -> str:
    if line.lstrip().startswith("#"):
        return line

    def value(match: re.Match[str]) -> str:
        if match["kind"] == "-":
            return environment.get(match["name"]) or match["rest"]
        return environment[match["name"]]

    return _VARIABLE.sub(value, line)


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of ops/Dockerfile with their arguments."""
    text = (CHECKOUT / "ops/Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    return [cast("tuple[str, str]", tuple(line.split(maxsplit=1))) for line in lines if line.strip()]
