"""What the autoscaler makes of a value: the arithmetic of Kubernetes' controller, for the manifests' own figures.

As in pkg/controller/podautoscaler: each metric proposes a number, the largest counts; within a tenth of the target nothing
changes; then the rates of `behavior` and the bounds apply. As a program, it tells the replicas for a backlog:

    scaling.py <service> <replicas now> <value of the rule> [<CPU in percent of the request>]
"""

import math
import sys

from manifests import find, kustomize

TOLERANCE = 0.1
# Between two looks of the controller; rates are counted over their own periods.
EXTERNAL, RESOURCE = "External", "Resource"


def proposal(metric, replicas, value):
    """Replicas that one metric asks for: `value` is a total (External) or the mean utilisation in percent (Resource)."""
    if metric["type"] == EXTERNAL:
        per_replica = float(metric["external"]["target"]["averageValue"])
        ratio = value / (per_replica * replicas)
        wanted = math.ceil(value / per_replica)
    else:
        ratio = value / metric["resource"]["target"]["averageUtilization"]
        wanted = math.ceil(ratio * replicas)
    return replicas if abs(ratio - 1) <= TOLERANCE else wanted


def desired(autoscaler, replicas, values):
    """Replicas that are wanted in the end; `values` has one value for each metric, by its type."""
    spec = autoscaler["spec"]
    wanted = max(proposal(metric, replicas, values[metric["type"]]) for metric in spec["metrics"])
    return min(max(wanted, spec["minReplicas"]), spec["maxReplicas"])


def next_step(autoscaler, replicas, wanted):
    """How far the rates let it go at once (the first step of a period, with nothing done in it before)."""
    behavior = autoscaler["spec"]["behavior"]
    if wanted >= replicas:
        rules = behavior["scaleUp"]
        limits = [
            math.ceil(replicas * (1 + rule["value"] / 100)) if rule["type"] == "Percent" else replicas + rule["value"]
            for rule in rules["policies"]
        ]
        return min(wanted, max(limits) if rules["selectPolicy"] == "Max" else min(limits))
    rules = behavior["scaleDown"]
    limits = [
        math.floor(replicas * (1 - rule["value"] / 100)) if rule["type"] == "Percent" else replicas - rule["value"]
        for rule in rules["policies"]
    ]
    # The policy that allows the least change is the one that leaves the most.
    return max(wanted, min(limits) if rules["selectPolicy"] == "Max" else max(limits))


def main(service, replicas, value, cpu="60"):
    autoscaler = find(kustomize("overlays/prod"), "HorizontalPodAutoscaler", service)
    replicas = int(replicas)
    wanted = desired(autoscaler, replicas, {EXTERNAL: float(value), RESOURCE: float(cpu)})
    step = next_step(autoscaler, replicas, wanted)
    print(f"{service}: at a backlog of {value} and {cpu} % CPU, {replicas} replicas become {wanted}, {step} of them at once")


if __name__ == "__main__":
    main(*sys.argv[1:])
