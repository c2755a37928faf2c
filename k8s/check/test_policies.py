"""Every variant validates and holds every policy; and every policy notices when it is broken."""

import inspect
import subprocess
import tempfile
import unittest

import kubernetes_validate
import yaml
from manifests import K8S, ROOT, SERVICES, VARIANTS, containers, deep_copy, find, kustomize, of_kind, template_of
from policies import POLICIES

KUBERNETES = "1.36"
# Kinds that Kubernetes itself does not know; policies look at them by their own rules, and here at their shape.
OTHERS = {
    "gateway.networking.k8s.io/v1": {"HTTPRoute": ("parentRefs", "hostnames", "rules")},
    "keda.sh/v1alpha1": {
        "ScaledObject": (
            "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "fallback", "advanced", "triggers",
        )
    },
    "networking.istio.io/v1": {
        "DestinationRule": ("host", "trafficPolicy", "subsets"),
        "VirtualService": ("hosts", "http"),
    },
    "security.istio.io/v1": {"PeerAuthentication": ("mtls", "selector", "portLevelMtls")},
}


def validate(thing):
    """Raises if the API server would refuse the object."""
    fields = OTHERS.get(thing["apiVersion"], {}).get(thing["kind"])
    if fields is None:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    elif not set(thing["spec"]) <= set(fields):
        raise ValueError(f"{thing['kind']}: unknown fields {set(thing['spec']) - set(fields)}")


class Rendered(unittest.TestCase):
    """All variants, rendered once."""

    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as scratch:
            cls.variants = {name: kustomize(*what, scratch=scratch) for name, what in VARIANTS.items()}

    def each(self):
        for name, things in self.variants.items():
            with self.subTest(variant=name):
                yield things


class Manifests(Rendered):
    def test_every_object_is_one_that_the_api_server_takes(self):
        for things in self.each():
            for thing in things:
                validate(thing)

    def test_an_object_with_a_misspelt_field_is_refused(self):
        thing = deep_copy(find(self.variants["base"], "Deployment", "gateway"))
        thing["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
        with self.assertRaises(Exception):
            validate(thing)
        route = deep_copy(find(self.variants["prod"], "HTTPRoute", "gateway"))
        route["spec"]["rule"] = []
        with self.assertRaises(ValueError):
            validate(route)

    def test_every_variant_holds_every_policy(self):
        for things in self.each():
            for policy in POLICIES:
                self.assertEqual(list(policy(things)), [], policy.__name__)

    def test_the_stores_files_are_those_that_everybody_else_uses(self):
        for copy, original in {
            "redis": "deploy/compose/redis",
            "redis.sh": "deploy/local/redis.sh",
            "redis.acl": "deploy/stores/redis.acl",
            "rabbitmq": "deploy/compose/rabbitmq",
            "rabbitmq.sh": "deploy/local/rabbitmq.sh",
            "rabbitmq-permissions": "deploy/stores/rabbitmq-permissions",
            "postgres-init": "deploy/compose/postgres.sh",
            "postgres.sql": "deploy/stores/postgres.sql",
        }.items():
            with self.subTest(file=copy):
                ours = (K8S / "components/stores/files" / copy).read_text()
                self.assertEqual(ours, (ROOT / original).read_text(), f"{original} was changed: run k8s/copy-store-files")

    def test_make_secrets_makes_every_secret_that_is_referred_to(self):
        printed = subprocess.run(
            [K8S / "make-secrets", "stampede-dev"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
        secrets = {secret["metadata"]["name"]: secret for secret in yaml.safe_load_all(printed) if secret}
        for secret in secrets.values():
            validate(secret)
        for thing in self.variants["dev"]:
            template = template_of(thing)
            for container in containers(template) if template else []:
                for source in container.get("envFrom", []):
                    name = source.get("secretRef", {}).get("name")
                    self.assertTrue(name is None or name in secrets, f"{name} is not made")
                for entry in container.get("env", []):
                    reference = entry.get("valueFrom", {}).get("secretKeyRef")
                    if reference:
                        self.assertIn(reference["key"], secrets[reference["name"]]["stringData"])


# Each policy with a variant and a mistake in it.
def container_of(things, kind, name):
    return containers(template_of(find(things, kind, name)))[0]


def pod_of(things, kind, name):
    return template_of(find(things, kind, name))["spec"]


def spec_of(things, kind, name):
    return find(things, kind, name)["spec"]


MISTAKES = {
    "every_container_has_requests_and_limits": (
        "base", lambda t: container_of(t, "CronJob", "prescale")["resources"]["limits"].pop("memory")),
    "every_server_has_three_probes": (
        "dev", lambda t: container_of(t, "StatefulSet", "redis").pop("startupProbe")),
    "readiness_and_liveness_ask_different_questions": (
        "base", lambda t: container_of(t, "Deployment", "gateway")["livenessProbe"]["httpGet"].update(path="/readyz")),
    "nobody_is_root_or_has_privileges": (
        "base", lambda t: container_of(t, "Deployment", "gateway")["securityContext"]["capabilities"].update(
            add=["NET_ADMIN"])),
    "root_filesystems_are_read_only": (
        "base", lambda t: container_of(t, "Job", "order-service-migrate")["securityContext"].update(
            readOnlyRootFilesystem=False)),
    "no_service_links": ("base", lambda t: pod_of(t, "Deployment", "stock-service").pop("enableServiceLinks")),
    "only_prescale_has_a_token": (
        "base", lambda t: pod_of(t, "Deployment", "gateway").update(automountServiceAccountToken=True)),
    "rights_are_named": ("base", lambda t: find(t, "Role", "prescale")["rules"][0].pop("resourceNames")),
    "images_are_pinned_where_it_counts": (
        "prod", lambda t: container_of(t, "Deployment", "gateway").update(image="registry.example.com:5000/gateway")),
    "a_stop_waits_for_the_drain": (
        "base", lambda t: find(t, "ConfigMap", "gateway-settings")["data"].update(GATEWAY__DRAIN__TIMEOUT_MS="26000")),
    "servers_are_spread": (
        "base", lambda t: pod_of(t, "Deployment", "gateway")["topologySpreadConstraints"].pop()),
    "every_service_has_everything": ("base", lambda t: t.remove(find(t, "Job", "order-service-migrate"))),
    "services_select_servers_only": (
        "base", lambda t: spec_of(t, "Service", "order-service")["selector"].pop("app.kubernetes.io/component")),
    "ports_that_are_named_exist": (
        "base", lambda t: spec_of(t, "Service", "gateway")["ports"][0].update(targetPort="web")),
    "only_the_gateway_is_public": (
        "prod", lambda t: spec_of(t, "HTTPRoute", "gateway")["rules"][0]["backendRefs"][0].update(port=9080)),
    "the_network_is_closed_by_default": ("base", lambda t: t.remove(find(t, "NetworkPolicy", "notify-service"))),
    "no_secret_is_committed": (
        "base", lambda t: find(t, "ConfigMap", "gateway-settings")["data"].update(GATEWAY__INTERNAL__TOKEN="x")),
    "owners_credentials_are_for_migrations_alone": (
        "base", lambda t: container_of(t, "Deployment", "order-service")["envFrom"].append(
            {"secretRef": {"name": "order-service-migration"}})),
    "settings_exist": (
        "base", lambda t: find(t, "ConfigMap", "gateway-settings")["data"].update(GATEWAY__HTTP__WORKER="2")),
    "autoscaling_is_quick_up_and_slow_down": (
        "keda", lambda t: find(t, "ScaledObject", "gateway")["metadata"]["annotations"].update(
            {"stampede.dev/min-replicas-on-sale": "31"})),
    "prescale_may_set_what_it_is_told_to": (
        "keda", lambda t: find(t, "Role", "prescale")["rules"][0].update(resources=["horizontalpodautoscalers"])),
    "connections_fit_the_database": (
        "dev", lambda t: spec_of(t, "HorizontalPodAutoscaler", "order-service").update(maxReplicas=60)),
    "stores_keep_what_they_confirm": (
        "dev", lambda t: container_of(t, "StatefulSet", "postgres")["args"].remove("-cfsync=on")),
    "the_mesh_never_repeats_a_request": (
        "istio", lambda t: spec_of(t, "VirtualService", "stock-service")["http"][0].pop("retries")),
    "routes_lead_to_subsets_that_exist": (
        "istio", lambda t: spec_of(t, "DestinationRule", "gateway")["subsets"].pop()),
}


class Policies(Rendered):
    def test_every_policy_notices_when_it_is_broken(self):
        for policy in POLICIES:
            with self.subTest(policy=policy.__name__):
                variant, mistake = MISTAKES[policy.__name__]
                things = deep_copy(self.variants[variant])
                mistake(things)
                self.assertNotEqual(list(policy(things)), [])

    def test_every_policy_is_listed(self):
        module = inspect.getmodule(POLICIES[0])
        functions = {name for name, one in vars(module).items() if inspect.isgeneratorfunction(one)}
        self.assertEqual(functions, {policy.__name__ for policy in POLICIES})
        self.assertEqual(functions, set(MISTAKES))


class Canary(Rendered):
    def test_a_tenth_of_the_traffic_goes_to_canaries(self):
        for service in SERVICES:
            [http] = spec_of(self.variants["istio with canaries"], "VirtualService", service)["http"]
            weights = {entry["destination"]["subset"]: entry["weight"] for entry in http["route"]}
            self.assertEqual(weights, {"stable": 90, "canary": 10})

    def test_a_canary_is_one_more_deployment_that_the_service_selects(self):
        for service in SERVICES:
            things = self.variants[f"canary of {service}"]
            self.assertEqual({thing["kind"] for thing in things}, {"ConfigMap", "Deployment"})
            [canary] = of_kind(things, "Deployment")
            stable = find(self.variants["base"], "Deployment", service)
            selector = canary["spec"]["selector"]["matchLabels"]
            self.assertNotEqual(selector, stable["spec"]["selector"]["matchLabels"])
            labels = template_of(canary)["metadata"]["labels"]
            self.assertLessEqual(selector.items(), labels.items())
            wanted = spec_of(self.variants["base"], "Service", service)["selector"]
            self.assertLessEqual(wanted.items(), labels.items())


if __name__ == "__main__":
    unittest.main()
