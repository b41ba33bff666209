"""The manifests of deploy/kubernetes: Kubernetes takes them, and their parts fit each other."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lipwire.server.cluster.app import read_range
from lipwire.server.config import ServerConfig, load_config

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "deploy" / "kubernetes"
VARIANTS = sorted(path.parent.name for path in FOLDER.glob("*/kustomization.yaml"))
# Kinds of operators, whose schemas are not Kubernetes'.
OTHERS = {"monitoring.coreos.com/v1 ServiceMonitor", "ray.io/v1 RayService"}
Document = dict[str, Any]


def documents(file: Path) -> list[Document]:
    return list(yaml.safe_load_all(file.read_text()))


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as our patches need one: lists of named things by their names."""
    if isinstance(base, dict) and isinstance(patch, dict):
        changed = {key: merged(base[key], value) for key, value in patch.items() if key in base}
        return {**base, **patch, **changed}
    if isinstance(base, list) and isinstance(patch, list) and "name" in patch[0]:
        named = {each["name"]: each for each in base}
        for each in patch:
            named[each["name"]] = merged(named.get(each["name"], {}), each)
        return list(named.values())
    return patch


def built(variant: str) -> dict[str, Document]:
    """What a variant applies, by kind and name."""
    folder = FOLDER / variant
    (plan,) = documents(folder / "kustomization.yaml")
    assert plan.keys() <= {
        "apiVersion",
        "kind",
        "namespace",
        "resources",
        "patches",
        "images",
        "configMapGenerator",
    }
    found: dict[str, Document] = {}
    for name in plan["resources"]:
        if (folder / name).is_dir():
            found |= built((folder / name).resolve().name)
        else:
            for one in documents(folder / name):
                found[f"{one['kind']} {one['metadata']['name']}"] = one
    for patch in plan.get("patches", ()):
        for one in documents(folder / patch["path"]):
            name = f"{one['kind']} {one['metadata']['name']}"
            found[name] = merged(found[name], one)
    return found


def pod_specs(one: Document) -> list[Document]:
    """What it makes pods of."""
    if one["kind"] == "RayService":
        cluster = one["spec"]["rayClusterConfig"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return [group["template"]["spec"] for group in groups]
    template = one.get("spec", {}).get("template")
    return [template["spec"]] if template else []


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_takes_every_document(variant: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    found = built(variant)
    assert found
    for one in found.values():
        if f"{one['apiVersion']} {one['kind']}" not in OTHERS:
            validate(one, "1.37", strict=True)
        for number, spec in enumerate(pod_specs(one)):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}}
            validate({**pod, "spec": spec}, "1.37", strict=True)
            if not spec.get("hostNetwork"):
                continue
            # No name of the cluster is found on a host's network without it.
            assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"


def test_a_misspelt_field_is_refused() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    servers = built("gpu")["StatefulSet lipwire"]
    servers["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(kubernetes.ValidationError, match="hostNetwrok"):
        kubernetes.validate(servers, "1.37", strict=True)


def test_every_file_is_applied_by_somebody() -> None:
    used = set()
    for variant in VARIANTS:
        folder = FOLDER / variant
        (plan,) = documents(folder / "kustomization.yaml")
        names = [*plan["resources"], *(patch["path"] for patch in plan.get("patches", ()))]
        names += [file for made in plan.get("configMapGenerator", ()) for file in made["files"]]
        used |= {(folder / name).resolve() for name in (*names, "kustomization.yaml")}
    assert {path for path in FOLDER.rglob("*") if path.is_file()} == {
        p for p in used if p.is_file()
    }


@pytest.mark.parametrize("variant", ["base", "gpu"])
def test_the_parts_fit_each_other(variant: str) -> None:
    found = built(variant)
    servers, scaler = found["StatefulSet lipwire"], found["HorizontalPodAutoscaler lipwire"]
    pod = servers["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    fields = ServerConfig.model_fields.keys()
    beside = {"LIPWIRE_CACHE", "LIPWIRE_HOME"}  # read by the engine and what signs
    assert {name.removeprefix("LIPWIRE_").lower() for name in given.keys() - beside} <= fields
    settings = ServerConfig(
        **{
            name.removeprefix("LIPWIRE_").lower(): value
            for name, value in given.items()
            if value is not None and name not in beside
        }
    )
    settings.check()
    # It ends by itself before it is killed.
    assert settings.drain_s + 15 < pod["spec"]["terminationGracePeriodSeconds"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "agent": settings.agent_port}
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "lipwire_sessions"
    assert 0 < int(metric["pods"]["target"]["averageValue"]) < settings.max_sessions
    for name in ("PodDisruptionBudget lipwire", "Service lipwire", "ServiceMonitor lipwire"):
        selector = found[name]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels, name
    # Every pod that there may be has its line in the proxy.
    proxy = (FOLDER / "base" / "haproxy.cfg").read_text()
    service = servers["spec"]["serviceName"]
    pods = [f"lipwire-{n} lipwire-{n}.{service}:8080" for n in range(scaler["spec"]["maxReplicas"])]
    assert re.findall(r"^    server (\S+ \S+)", proxy, re.MULTILINE) == [*pods, *pods]


def test_ray_is_given_what_our_application_takes() -> None:
    service = built("ray")["RayService lipwire"]["spec"]
    (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    args = application["args"]
    assert read_range(args["nodes"]) == (1, 8)
    settings = load_config(**{k: v for k, v in args.items() if k not in ("nodes", "cpus")})
    (workers,) = service["rayClusterConfig"]["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    assert settings.drain_s < pod["terminationGracePeriodSeconds"]
    # One node of ours fills a host of theirs, and there are as many hosts.
    assert int(pod["containers"][0]["resources"]["limits"]["cpu"]) == args["cpus"]
    assert workers["maxReplicas"] == read_range(args["nodes"])[1]


def test_the_proxy_has_the_rules_of_the_tested_one(haproxy: str) -> None:
    def rules(file: Path) -> list[str]:
        lines = [line.strip() for line in file.read_text().splitlines()]
        lines = [line for line in lines if line and line[0] != "#"]
        own = ("server ", "resolvers ", "parse-resolv-conf", "hold ")
        lines = [line.replace(" resolvers cluster init-addr none", "") for line in lines]
        return [line for line in lines if line != "default-server" and not line.startswith(own)]

    theirs = FOLDER / "base" / "haproxy.cfg"
    assert rules(theirs) == rules(REPO / "deploy" / "haproxy.cfg")
    done = subprocess.run(
        [haproxy, "-c", "-f", theirs], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
