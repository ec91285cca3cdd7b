"""The Kubernetes manifests: by Kubernetes' own schemas, and whether what they say of the program is true."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import redis
import yaml

import etl
from etl import urls
from etl.app import monitor
from etl.app.threads import SHUTDOWN_SECONDS
from etl.keys import SPOOL
from etl.lab.servers.private import PrivateRedis
from etl.settings import Settings, load
from tests.command_line import in_shell, understood

FOLDER = Path(__file__).parents[2] / "ops/kubernetes"
KUBERNETES = kubernetes_validate.latest_version()
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
SECRETS = (FOLDER / "secret.example.yaml").read_text()

# What KEDA has no schema of for us, by its documentation and by what its scaler for Redis reads; only fields we use.
_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "integer", "minimum": 1}


def _fields(**fields: object) -> dict[str, Any]:
    """An object that has these, all of them, and no others."""
    return {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}


def _list_of(item: object) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


_TRIGGER = _fields(
    type={"const": "redis"},
    metadata=_fields(listName=_TEXT, listLength={"type": "string", "pattern": "^[1-9][0-9]*$"}),
    authenticationRef=_fields(name=_TEXT),
)
KEDA = {
    "ScaledObject": _fields(
        scaleTargetRef=_fields(name=_TEXT),
        minReplicaCount=_NUMBER,
        maxReplicaCount=_NUMBER,
        pollingInterval=_NUMBER,
        triggers=_list_of(_TRIGGER),
    ),
    "TriggerAuthentication": _fields(
        secretTargetRef=_list_of(
            _fields(parameter={"enum": ["address", "username", "password", "tls"]}, name=_TEXT, key=_TEXT)
        )
    ),
}


def documents(*names: str) -> list[dict[str, Any]]:
    return [document for name in names for document in yaml.safe_load_all((FOLDER / name).read_text())]


APPLIED = documents(*KUSTOMIZATION["resources"])
ALL = [*APPLIED, *documents("secret.example.yaml")]


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = (document for document in ALL if named(document) == f"{kind} {name}")
    return found


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    pod: dict[str, Any] | None = spec.get("template")
    return pod


PODS = {named(document): pod for document in APPLIED if (pod := pod_of(document))}


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each with the specification of its pod."""
    for pod in PODS.values():
        for container in pod["spec"]["containers"]:
            yield pod["spec"], container


# -- well formed


@pytest.mark.parametrize("document", ALL, ids=named)
def test_a_manifest_is_what_its_schema_says(document: dict[str, Any]) -> None:
    if document["apiVersion"] == "keda.sh/v1alpha1":
        jsonschema.validate(document["spec"], KEDA[document["kind"]])
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert "namespace" not in document["metadata"]


def test_given_a_misspelt_field_then_the_schema_refuses_it() -> None:
    job, scaled = (
        document for document in APPLIED if named(document) in ("Job etl-migrate", "ScaledObject etl-loader")
    )
    job = yaml.safe_load(yaml.safe_dump(job))
    job["spec"]["template"]["spec"]["containers"][0]["arguments"] = ["db", "upgrade"]

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**scaled["spec"], "minReplicas": 1}, KEDA["ScaledObject"])


def test_every_file_is_applied_but_the_secrets() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"secret.yaml"}

    assert files - {*KUSTOMIZATION["resources"]} == {"kustomization.yaml", "secret.example.yaml"}


def test_what_a_manifest_names_is_there() -> None:
    there = {named(document) for document in ALL} | {
        f"ConfigMap {each['name']}" for each in KUSTOMIZATION["configMapGenerator"]
    }

    for pod, container in containers():
        for source in container["envFrom"]:
            assert f"Secret {source['secretRef']['name']}" in there
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert f"ConfigMap {volume['configMap']['name']}" in there
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == {
            volume["name"] for volume in pod.get("volumes", [])
        }
    scaled = one("ScaledObject", "etl-loader")["spec"]
    assert f"Deployment {scaled['scaleTargetRef']['name']}" in there
    for trigger in scaled["triggers"]:
        for reference in one("TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]["secretTargetRef"]:
            assert reference["key"] in one("Secret", reference["name"])["stringData"]


def test_selectors_find_the_pods_they_are_for() -> None:
    labels = {name: pod["metadata"]["labels"].items() for name, pod in PODS.items()}

    def selected(kind: str, name: str, selector: str = "selector") -> set[str]:
        wanted = one(kind, name)["spec"][selector]["matchLabels"].items()
        return {pod for pod, its in labels.items() if wanted <= its}

    assert selected("Deployment", "etl-loader") == {"Deployment etl-loader"}
    assert selected("PodDisruptionBudget", "etl-loader") == {"Deployment etl-loader"}
    assert selected("NetworkPolicy", "etl", "podSelector") == labels.keys()
    assert selected("NetworkPolicy", "etl-wall", "podSelector") == {"Deployment etl-wall"}
    wanted = one("Service", "etl-wall")["spec"]["selector"].items()
    assert {pod for pod, its in labels.items() if wanted <= its} == {"Deployment etl-wall"}


# -- true of the program


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_a_command_that_there_is(name: str) -> None:
    (container,) = PODS[name]["spec"]["containers"]

    if "command" in container:
        assert container["command"] == ["/bin/sh", "-c"]
        assert understood(in_shell(container["args"][0]))
    else:
        understood(container["args"])


def test_the_loaders_leave_the_clock_to_the_cronjobs() -> None:
    (container,) = PODS["Deployment etl-loader"]["spec"]["containers"]
    options = understood(container["args"])
    assert (options["follow"], options["listen"], options["schedule"]) == (True, True, False)

    for document in APPLIED:
        if document["kind"] == "CronJob":
            assert (document["spec"]["timeZone"], document["spec"]["concurrencyPolicy"]) == ("Etc/UTC", "Forbid")


def test_the_settings_are_understood_and_hold_no_secret() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    (file,) = generated["files"]
    for _, container in containers():
        environment = {each["name"]: each["value"] for each in container.get("env", [])}
        for source in container["envFrom"]:
            environment |= one("Secret", source["secretRef"]["name"])["stringData"]
        if config := environment.pop("ETL_CONFIG", None):
            (mount,) = (each for each in container["volumeMounts"] if each["name"] == "config")
            assert config == f"{mount['mountPath']}/{file}"
            load(FOLDER / file, environment)  # raises if anything is unknown or wrong
        else:
            load(None, environment)

    settings = load(FOLDER / file, {})
    unchanged = Settings()
    assert (settings.redis_url, settings.database_url) == (unchanged.redis_url, unchanged.database_url)


def test_given_a_forget_key_then_the_loaders_have_it() -> None:
    filled = SECRETS.replace("# ETL_FORGET_KEY: SECRET", f"ETL_FORGET_KEY: {'k' * 32}")
    (secret,) = (each for each in yaml.safe_load_all(filled) if "ETL_FORGET_KEY" in each["stringData"])
    assert load(FOLDER / "etl.toml", secret["stringData"]).forget_key
    (container,) = PODS["Deployment etl-loader"]["spec"]["containers"]
    assert {"secretRef": {"name": secret["metadata"]["name"]}} in container["envFrom"]


def test_probes_and_scrapers_ask_where_the_program_serves() -> None:
    pod = PODS["Deployment etl-loader"]
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    address = load(FOLDER / "etl.toml", {}).http_address
    annotations = {name.rpartition("/")[2]: value for name, value in pod["metadata"]["annotations"].items()}
    ingress = one("NetworkPolicy", "etl")["spec"]["ingress"]

    assert address == ("0.0.0.0", port["containerPort"])
    assert annotations == {"scrape": "true", "port": str(port["containerPort"]), "path": "/metrics"}
    assert [each["ports"] for each in ingress] == [[{"port": port["name"]}]]
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert f'"{path}"' in Path(monitor.__file__).read_text()


def test_the_wall_is_asked_where_it_serves_and_by_a_name_of_its_own() -> None:
    (container,) = PODS["Deployment etl-wall"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"] if each["name"] != "ETL_CONFIG"}
    settings = load(FOLDER / "etl.toml", environment)
    (port,) = container["ports"]
    assert settings.web_address == ("0.0.0.0", port["containerPort"])
    assert [each["targetPort"] for each in one("Service", "etl-wall")["spec"]["ports"]] == [port["name"]]
    (rule,) = one("NetworkPolicy", "etl-wall")["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["name"]}]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        (header,) = asked["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in settings.web_names
        assert (files("etl.reporting.web") / asked["path"].strip("/")).is_file()


def test_given_a_token_then_the_wall_has_it_and_no_more_than_it_needs() -> None:
    filled = SECRETS.replace("# ETL_WEB_TOKEN: SECRET", f"ETL_WEB_TOKEN: {'k' * 16}")
    (secret,) = (each for each in yaml.safe_load_all(filled) if "ETL_WEB_TOKEN" in each["stringData"])
    assert load(FOLDER / "etl.toml", secret["stringData"]).web_token
    (container,) = PODS["Deployment etl-wall"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert "://etl_reporting:" in secret["stringData"]["ETL_DATABASE_URL"]


def test_given_a_stop_then_there_is_time_to_give_claims_back() -> None:
    assert PODS["Deployment etl-loader"]["spec"]["terminationGracePeriodSeconds"] > SHUTDOWN_SECONDS + 3


def test_every_list_that_is_loaded_is_scaled_by() -> None:
    scaled = one("ScaledObject", "etl-loader")["spec"]
    lists = [source.key for source in load(FOLDER / "etl.toml", {}).sources]

    assert [trigger["metadata"]["listName"] for trigger in scaled["triggers"]] == [*lists, SPOOL]
    assert "replicas" not in one("Deployment", "etl-loader")["spec"]  # or each apply would undo what KEDA does


def test_given_the_scalers_acl_line_then_it_can_ask_what_keda_asks_only(tmp_path: Path) -> None:
    line = re.findall("^# +(user scaler on .*)$", SECRETS, re.MULTILINE)[0]
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* &* +@all\n{line.replace(' on ', ' on >secret ')}\n")
    # As KEDA does: the type first, as the length is asked for by another command for each type.
    ask = "local kind = redis.call('type', KEYS[1]).ok; if kind then return redis.call('llen', KEYS[1]) end"
    with (
        PrivateRedis(tmp_path / "redis", {"aclfile": str(tmp_path / "users.acl")}) as server,
        redis.Redis(port=server.port) as anybody,
        redis.Redis(port=server.port, username="scaler", password="secret", protocol=2) as scaler,
    ):
        assert scaler.ping()
        for number, trigger in enumerate(one("ScaledObject", "etl-loader")["spec"]["triggers"]):
            key = trigger["metadata"]["listName"]
            for each in range(number + 1):
                anybody.lpush(key, each)
            assert scaler.eval(ask, 1, key) == number + 1
            for refused in (
                ["LPOP", key],
                ["LRANGE", key, "0", "-1"],
                ["LPUSH", key, "1"],
                ["EVAL", "redis.call('del', KEYS[1])", "1", key],
            ):
                with pytest.raises(redis.exceptions.ResponseError, match="permission"):
                    scaler.execute_command(*refused)
        with pytest.raises(redis.exceptions.NoPermissionError):
            scaler.eval(ask, 1, "another:list")


# -- safe


def test_only_who_collects_metrics_gets_in_and_only_to_stores_it_gets_out() -> None:
    policy = one("NetworkPolicy", "etl")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["ingress"]:
        assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    out = {each["port"] for rule in policy["egress"] for each in rule["ports"]}
    assert all(rule.get("ports") for rule in policy["egress"]), "a rule without ports is one without limits"

    # Where the settings lead: the stores of the example, the bucket, and names.
    secret = one("Secret", "etl")["stringData"]
    redis_url, database_url = (urls.split(secret[name]) for name in ("ETL_REDIS_URL", "ETL_DATABASE_URL"))
    assert {host.port or 6379 for host in redis_url.hosts} | {host.port or 5432 for host in database_url.hosts} <= out
    assert load(FOLDER / "etl.toml", {}).export_url.startswith("s3://")
    assert {53, 443} <= out


def test_every_container_runs_without_rights_of_its_own() -> None:
    images = {container["image"] for _, container in containers()}
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [*images]
    assert KUSTOMIZATION["images"][0]["newTag"] == etl.__version__

    for pod, container in containers():
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # their variables would be unknown settings
        assert container["resources"]["limits"]["memory"]
    assert "--uid 10001" in (FOLDER.parent / "Dockerfile").read_text()


def test_only_the_migration_has_the_owners_password_no_example_does() -> None:
    with_owner = {name for name, pod in PODS.items() if "etl-migrate" in str(pod["spec"]["containers"][0]["envFrom"])}
    assert with_owner == {"Job etl-migrate"}
    assert "etl_owner" not in str(one("Secret", "etl")["stringData"])
    for document in ALL:
        for key, value in document.get("stringData", {}).items():
            if "URL" in key:
                assert re.search("://[^:]+:PASSWORD@", value)
