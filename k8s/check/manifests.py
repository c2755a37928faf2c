"""Rendering the manifests as `kubectl apply -k` would, and looking things up in them."""

import copy
import shutil
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
SERVICES = ("gateway", "stock-service", "order-service", "notify-service")

# Everything that is rendered: a name, a kustomization, and components that are added to it.
VARIANTS = {
    "base": ("base", ()),
    "dev": ("overlays/dev", ()),
    "prod": ("overlays/prod", ()),
    "keda": ("base", ("keda", "ingress")),
    "istio": ("overlays/prod", ("istio",)),
    "istio with canaries": ("overlays/prod", ("istio", "istio-canary")),
    **{f"canary of {service}": (f"canary/{service}", ()) for service in SERVICES},
}


def kustomize(folder, components=(), scratch=None):
    """The objects that a kustomization makes, with components on top of its own."""
    target = K8S / folder
    if components:
        target = Path(scratch) / "with-components"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        copy_of = Path(scratch) / "k8s"
        if not copy_of.exists():
            shutil.copytree(K8S, copy_of, ignore=shutil.ignore_patterns("prescale/src", "check"))
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"../k8s/{folder}"],
            "components": [f"../k8s/components/{name}" for name in components],
        }
        (target / "kustomization.yaml").write_text(yaml.safe_dump(content))
    command = [shutil.which("kubectl") or "kubectl", "kustomize", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"kubectl kustomize {folder} {components}: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def name_of(thing):
    """An object, for messages: Kind/name."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(things, *kinds):
    return [thing for thing in things if thing["kind"] in kinds]


def find(things, kind, name):
    """The object of this kind and name; generated names are found without their hash."""
    for thing in of_kind(things, kind):
        if thing["metadata"]["name"] == name or thing["metadata"]["name"].rpartition("-")[0] == name:
            return thing
    return None


def template_of(thing):
    """The template of the pods that an object makes, or None."""
    if thing["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        return thing["spec"]["template"]
    if thing["kind"] == "CronJob":
        return thing["spec"]["jobTemplate"]["spec"]["template"]
    return None


def workloads(things):
    """(object, template) of everything that makes pods."""
    return [(thing, template_of(thing)) for thing in things if template_of(thing)]


def containers(template):
    spec = template["spec"]
    return spec.get("initContainers", []) + spec["containers"]


def setting(things, service, key):
    """The effective value of a setting such as drain.timeout_ms: of the ConfigMap, or the service's default."""
    name = service.upper().replace("-", "_") + "__" + key.upper().replace(".", "__")
    config = find(things, "ConfigMap", f"{service}-settings")
    if config and name in config["data"]:
        return config["data"][name]
    value = tomllib.loads((ROOT / service / "config/default.toml").read_text())
    for part in key.split("."):
        value = value[part]
    return value


def deep_copy(things):
    return copy.deepcopy(things)
