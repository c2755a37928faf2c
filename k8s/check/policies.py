"""What every rendered variant must hold. A policy is a function of the objects that yields violations.

`POLICIES` is the list; test_policies.py breaks each of them once and sees it refused.
"""

import math
import re

from manifests import SERVICES, containers, find, name_of, of_kind, setting, workloads

# How much longer than everything that a stop waits for a pod may take to end: the flush of telemetry.
GRACE_MARGIN_S = 5
# Store connections that are kept for people and tools.
CONNECTIONS_SPARE = 20
# An image's tag that says nothing.
LATEST = re.compile(r"(^[^:@]+$)|(:latest$)")


def is_server(thing):
    return thing["kind"] in ("Deployment", "StatefulSet")


def every_container_has_requests_and_limits(things):
    for thing, template in workloads(things):
        for container in containers(template):
            resources = container.get("resources", {})
            for kind in ("requests", "limits"):
                for what in ("cpu", "memory"):
                    if what not in resources.get(kind, {}):
                        yield f"{name_of(thing)}: {container['name']} has no {kind}.{what}"


def every_server_has_three_probes(things):
    for thing, template in workloads(things):
        if not is_server(thing):
            continue
        for container in containers(template):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{name_of(thing)}: {container['name']} has no {probe}"


def readiness_and_liveness_ask_different_questions(things):
    for thing, template in workloads(things):
        if thing["kind"] != "Deployment":
            continue
        for container in containers(template):
            paths = {
                probe: container.get(probe, {}).get("httpGet", {}).get("path")
                for probe in ("readinessProbe", "livenessProbe")
            }
            if paths != {"readinessProbe": "/readyz", "livenessProbe": "/healthz"}:
                yield f"{name_of(thing)}: a store that is away must not restart pods: {paths}"


def nobody_is_root_or_has_privileges(things):
    for thing, template in workloads(things):
        pod = template["spec"].get("securityContext", {})
        if not pod.get("runAsNonRoot") or not pod.get("runAsUser", 0) > 0:
            yield f"{name_of(thing)}: runs as root"
        if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name_of(thing)}: no seccomp profile"
        spec = template["spec"]
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name_of(thing)}: shares the host's namespaces"
        if any("hostPath" in volume for volume in spec.get("volumes", [])):
            yield f"{name_of(thing)}: mounts the host's files"
        for container in containers(template):
            security = container.get("securityContext", {})
            if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
                yield f"{name_of(thing)}: {container['name']} may gain privileges"
            if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get("add"):
                yield f"{name_of(thing)}: {container['name']} keeps capabilities"


def root_filesystems_are_read_only(things):
    for thing, template in workloads(things):
        for container in containers(template):
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
                yield f"{name_of(thing)}: {container['name']} can write to its own image"


def no_service_links(things):
    for thing, template in workloads(things):
        if template["spec"].get("enableServiceLinks") is not False:
            yield f"{name_of(thing)}: variables of Services would look like settings"


def only_prescale_has_a_token(things):
    for thing, template in workloads(things):
        mounted = template["spec"].get("automountServiceAccountToken")
        wanted = template["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "prescale"
        if mounted is not wanted:
            yield f"{name_of(thing)}: automountServiceAccountToken is {mounted}"
    for account in of_kind(things, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(account)}: mounts its token anywhere"


def rights_are_named(things):
    if of_kind(things, "ClusterRole", "ClusterRoleBinding"):
        yield "rights beyond the namespace"
    for role in of_kind(things, "Role"):
        for rule in role["rules"]:
            if not rule.get("resourceNames") or not set(rule["verbs"]) <= {"get", "patch"}:
                yield f"{name_of(role)}: more than reading and changing named objects: {rule}"
            if any("*" in rule.get(key, []) for key in ("apiGroups", "resources", "resourceNames", "verbs")):
                yield f"{name_of(role)}: a wildcard"


def images_are_pinned_where_it_counts(things):
    namespaces = [thing["metadata"]["name"] for thing in of_kind(things, "Namespace")]
    if "stampede" not in namespaces:
        return
    for thing, template in workloads(things):
        for container in containers(template):
            if LATEST.search(container["image"].rpartition("/")[2]):
                yield f"{name_of(thing)}: {container['image']} is whatever was pushed last"


def a_stop_waits_for_the_drain(things):
    for thing, template in workloads(things):
        service = template["metadata"].get("labels", {}).get("app.kubernetes.io/name")
        if thing["kind"] != "Deployment" or service not in SERVICES:
            continue
        pre_stop = containers(template)[0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if pre_stop < 3:
            yield f"{name_of(thing)}: SIGTERM comes before the endpoints know"
        drain_ms = sum(int(setting(things, service, f"drain.{key}")) for key in ("ready_delay_ms", "timeout_ms"))
        needed = pre_stop + math.ceil(drain_ms / 1000) + GRACE_MARGIN_S
        grace = template["spec"].get("terminationGracePeriodSeconds", 30)
        if grace < needed:
            yield f"{name_of(thing)}: killed after {grace} s, but a stop may take {needed} s"


def servers_are_spread(things):
    for thing, template in workloads(things):
        if thing["kind"] != "Deployment":
            continue
        keys = {entry["topologyKey"] for entry in template["spec"].get("topologySpreadConstraints", [])}
        if keys != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{name_of(thing)}: all its pods may be in one place"


def every_service_has_everything(things):
    for service in SERVICES:
        deployment = find(things, "Deployment", service)
        if not deployment or find(things, "Deployment", f"{service}-canary"):
            continue
        for kind in ("Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"):
            if not find(things, kind, service):
                yield f"{service} has no {kind}"
        if not find(things, "HorizontalPodAutoscaler", service) and not find(things, "ScaledObject", service):
            yield f"{service} is not scaled"
        if setting_is_false(things, service) and not find(things, "Job", f"{service}-migrate"):
            yield f"{service} waits for a migration that nobody makes"


def setting_is_false(things, service):
    config = find(things, "ConfigMap", f"{service}-settings")
    return any(key.endswith("MIGRATE_AT_START") and value == "false" for key, value in config["data"].items())


def services_select_servers_only(things):
    """A pod of a job has no probes: a Service that selected it would send it requests."""
    templates = [(thing, template["metadata"].get("labels", {})) for thing, template in workloads(things)]
    for service in of_kind(things, "Service"):
        selector = service["spec"]["selector"].items()
        selected = [thing for thing, labels in templates if selector <= labels.items()]
        if not selected:
            yield f"{name_of(service)} selects nothing"
        for thing in selected:
            if not is_server(thing):
                yield f"{name_of(service)} selects pods of {name_of(thing)}"


def ports_that_are_named_exist(things):
    for service in of_kind(things, "Service"):
        for thing, template in workloads(things):
            if not service["spec"]["selector"].items() <= template["metadata"].get("labels", {}).items():
                continue
            names = {port["name"] for container in containers(template) for port in container.get("ports", [])}
            for port in service["spec"]["ports"]:
                if port["targetPort"] not in names:
                    yield f"{name_of(service)}: {name_of(thing)} has no port {port['targetPort']}"


def only_the_gateway_is_public(things):
    for service in of_kind(things, "Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(service)} is reached from outside"
    for route in of_kind(things, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                if (backend["name"], backend["port"]) != ("gateway", 8080):
                    yield f"{name_of(route)} leads to {backend['name']}:{backend['port']}"
    for ingress in of_kind(things, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if (backend["name"], backend["port"].get("name")) != ("gateway", "http"):
                    yield f"{name_of(ingress)} leads to {backend}"


def the_network_is_closed_by_default(things):
    if not of_kind(things, "Service"):
        return  # A canary: the stable version's policies count for it.
    policies = of_kind(things, "NetworkPolicy")
    if not any(not policy["spec"]["podSelector"] and "ingress" not in policy["spec"] for policy in policies):
        yield "no policy that closes the network by default"
    for thing, template in workloads(things):
        labels = template["metadata"].get("labels", {}).items()
        own = [policy for policy in policies if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels]
        if len([policy for policy in own if policy["spec"]["podSelector"]]) == 0:
            yield f"{name_of(thing)}: no network policy of its own"
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"{name_of(policy)} lets everybody in"


def no_secret_is_committed(things):
    for secret in of_kind(things, "Secret"):
        yield f"{name_of(secret)}: secrets are made where they are used"
    for config in of_kind(things, "ConfigMap"):
        for key, value in config["data"].items():
            secret_key = re.search(r"(PASSWORD|SECRET|TOKEN|(DATABASE|AMQP|REDIS)__(MIGRATION_)?URL)$", key)
            if secret_key and value:
                yield f"{name_of(config)}: {key} is a secret"


def owners_credentials_are_for_migrations_alone(things):
    for thing, template in workloads(things):
        for container in containers(template):
            references = {source.get("secretRef", {}).get("name", "") for source in container.get("envFrom", [])}
            if any(name.endswith("-migration") for name in references) != (container.get("args") == ["migrate"]):
                yield f"{name_of(thing)}: {sorted(references)} for {container.get('args')}"


def settings_exist(things):
    """A key that a service does not know stops it; better here than there."""
    for service in SERVICES:
        config = find(things, "ConfigMap", f"{service}-settings")
        for key in config["data"] if config else []:
            path = key.split("__")[1:]
            try:
                setting([], service, ".".join(path).lower())
            except KeyError:
                yield f"{name_of(config)}: {service} has no setting {key}"


def autoscaling_is_quick_up_and_slow_down(things):
    for scaler in of_kind(things, "HorizontalPodAutoscaler", "ScaledObject"):
        spec = scaler["spec"]
        if scaler["kind"] == "ScaledObject":
            least, most = spec["minReplicaCount"], spec["maxReplicaCount"]
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        else:
            least, most, behavior = spec["minReplicas"], spec["maxReplicas"], spec["behavior"]
        if not 1 <= least <= most:
            yield f"{name_of(scaler)}: from {least} to {most}"
        if behavior["scaleUp"]["stabilizationWindowSeconds"] != 0:
            yield f"{name_of(scaler)}: waits before it scales up"
        if behavior["scaleDown"]["stabilizationWindowSeconds"] < 300:
            yield f"{name_of(scaler)}: goes down between two waves"
        annotations = scaler["metadata"].get("annotations", {})
        figures = [annotations.get(f"stampede.dev/min-replicas{end}") for end in ("", "-on-sale")]
        if None in figures or not least == int(figures[0]) <= int(figures[1]) <= most:
            yield f"{name_of(scaler)}: prescale would set {figures} within {least} and {most}"


def prescale_may_set_what_it_is_told_to(things):
    job = find(things, "CronJob", "prescale")
    if not job:
        return
    [container] = containers(job["spec"]["jobTemplate"]["spec"]["template"])
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    kind = {"horizontal-pod-autoscalers": "HorizontalPodAutoscaler", "scaled-objects": "ScaledObject"}[
        env["PRESCALE_OBJECTS"]
    ]
    [rule] = find(things, "Role", "prescale")["rules"]
    names = env["PRESCALE_NAMES"].split(",")
    if sorted(names) != sorted(rule["resourceNames"]) or rule["resources"] != [kind.lower() + "s"]:
        yield f"prescale is told {kind} {names}, and may {rule}"
    for name in names:
        if not find(things, kind, name):
            yield f"there is no {kind} {name} for prescale"


def connections_fit_the_database(things):
    postgres = find(things, "StatefulSet", "postgres")
    if not postgres:
        return
    arguments = containers(postgres["spec"]["template"])[0]["args"]
    [most] = [int(arg.partition("=")[2]) for arg in arguments if arg.startswith("-cmax_connections=")]
    needed = CONNECTIONS_SPARE
    for service, keys in (
        ("order-service", ("database.pool_size", "database.background_pool_size")),
        ("notify-service", ("database.pool_max",)),
    ):
        # One more than the most, for a release's surge.
        replicas = find(things, "HorizontalPodAutoscaler", service)["spec"]["maxReplicas"]
        replicas = math.ceil(replicas * 1.25)
        needed += replicas * sum(int(setting(things, service, key)) for key in keys)
    if needed > most:
        yield f"Postgres takes {most} connections, the services may open {needed}"


def stores_keep_what_they_confirm(things):
    postgres = find(things, "StatefulSet", "postgres")
    if postgres:
        arguments = containers(postgres["spec"]["template"])[0]["args"]
        for wanted in ("-cfsync=on", "-csynchronous_commit=on", "-cfull_page_writes=on"):
            if wanted not in arguments:
                yield f"StatefulSet/postgres without {wanted}"
    files = find(things, "ConfigMap", "stampede-stores")
    if files:
        for wanted in ("maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec"):
            if wanted not in files["data"]["redis"]:
                yield f"Redis without {wanted}"
    for store in of_kind(things, "StatefulSet"):
        if not store["spec"].get("volumeClaimTemplates"):
            yield f"{name_of(store)} has no volume"


def the_mesh_never_repeats_a_request(things):
    for route in of_kind(things, "VirtualService"):
        for http in route["spec"]["http"]:
            if http.get("retries", {}).get("attempts") != 0:
                yield f"{name_of(route)}: Envoy repeats by default, orders too"
            if http.get("timeout") != "0s":
                yield f"{name_of(route)}: cuts event streams"
            if sum(entry["weight"] for entry in http["route"]) != 100:
                yield f"{name_of(route)}: weights do not add up"


def routes_lead_to_subsets_that_exist(things):
    rules = {rule["spec"]["host"]: rule for rule in of_kind(things, "DestinationRule")}
    for route in of_kind(things, "VirtualService"):
        for http in route["spec"]["http"]:
            for entry in http["route"]:
                host, subset = entry["destination"]["host"], entry["destination"]["subset"]
                subsets = {one["name"] for one in rules.get(host, {"spec": {"subsets": []}})["spec"]["subsets"]}
                if subset not in subsets or not find(things, "Service", host):
                    yield f"{name_of(route)}: no subset {subset} of {host}"
    for host, rule in rules.items():
        if rule["spec"]["trafficPolicy"]["tls"]["mode"] != "ISTIO_MUTUAL":
            yield f"{name_of(rule)}: {host} without mutual TLS"
        if not rule["spec"]["trafficPolicy"].get("outlierDetection", {}).get("maxEjectionPercent", 100) < 100:
            yield f"{name_of(rule)}: may eject every instance"
    if rules and not any(
        policy["spec"]["mtls"]["mode"] == "STRICT" and "selector" not in policy["spec"]
        for policy in of_kind(things, "PeerAuthentication")
    ):
        yield "the mesh takes connections without a certificate"


POLICIES = [
    every_container_has_requests_and_limits,
    every_server_has_three_probes,
    readiness_and_liveness_ask_different_questions,
    nobody_is_root_or_has_privileges,
    root_filesystems_are_read_only,
    no_service_links,
    only_prescale_has_a_token,
    rights_are_named,
    images_are_pinned_where_it_counts,
    a_stop_waits_for_the_drain,
    servers_are_spread,
    every_service_has_everything,
    services_select_servers_only,
    ports_that_are_named_exist,
    only_the_gateway_is_public,
    the_network_is_closed_by_default,
    no_secret_is_committed,
    owners_credentials_are_for_migrations_alone,
    settings_exist,
    autoscaling_is_quick_up_and_slow_down,
    prescale_may_set_what_it_is_told_to,
    connections_fit_the_database,
    stores_keep_what_they_confirm,
    the_mesh_never_repeats_a_request,
    routes_lead_to_subsets_that_exist,
]
