"""The metric path of the autoscalers, on a Prometheus that runs: the query that the adapter would make of its rule, its value,
and the replicas that the autoscaler would make of that.

    backlog.py <Prometheus' URL> <service> <replicas now> [--above <value> | --at-most <value>] [--within <seconds>]
               [--exporter <URL of a replica's /metrics>]

With --above or --at-most it waits until the value is so, and fails if it never is. Of the exporter it shows what it says itself.
"""

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request

import yaml
from manifests import K8S, find, kustomize
from scaling import EXTERNAL, RESOURCE, desired, next_step

# What the adapter puts in for <<.LabelMatchers>>: the namespace of the autoscaler that asks.
NAMESPACE = "stampede"
POLL_S = 1
# CPU at its target proposes no change: what follows is the backlog's doing.
CALM_CPU = 60


def adapter_rule(metric):
    """The rule by which prometheus-adapter serves an external metric."""
    rules = yaml.safe_load((K8S / "components/prometheus-adapter/rules.yaml").read_text())["externalRules"]
    [rule] = [rule for rule in rules if rule["name"]["as"] == metric]
    return rule


def adapter_query(metric):
    """The query that the adapter makes of its rule."""
    return re.sub("<<.LabelMatchers>>", f'namespace="{NAMESPACE}"', adapter_rule(metric)["metricsQuery"])


def exported(url, series):
    """The samples of a series that a replica shows, without those that are zero."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith(series.rstrip("}")) and not line.endswith(" 0")]


def ask(prometheus, query):
    """The value of a query with one result; None while there is none."""
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            result = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(result[0]["value"][1]) if result else None


def verdict(autoscaler, replicas, value):
    """What the autoscaler makes of a backlog, in words."""
    wanted = desired(autoscaler, replicas, {EXTERNAL: value, RESOURCE: CALM_CPU})
    step = next_step(autoscaler, replicas, wanted)
    [external] = [one["external"] for one in autoscaler["spec"]["metrics"] if one["type"] == EXTERNAL]
    target = external["target"]["averageValue"]
    return f"{value:g} waiting, {target} for each replica: {replicas} replicas become {wanted}, {step} of them at once"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("prometheus")
    parser.add_argument("service")
    parser.add_argument("replicas", type=int)
    parser.add_argument("--above", type=float)
    parser.add_argument("--at-most", type=float)
    parser.add_argument("--within", type=int, default=60)
    parser.add_argument("--exporter")
    arguments = parser.parse_args()

    autoscaler = find(kustomize("overlays/prod"), "HorizontalPodAutoscaler", arguments.service)
    [metric] = [one["external"]["metric"]["name"] for one in autoscaler["spec"]["metrics"] if one["type"] == EXTERNAL]
    query = adapter_query(metric)
    deadline = time.monotonic() + arguments.within
    while True:
        value = ask(arguments.prometheus, query)
        high_enough = value is not None and (arguments.above is None or value > arguments.above)
        low_enough = value is not None and (arguments.at_most is None or value <= arguments.at_most)
        if high_enough and low_enough:
            break
        if time.monotonic() > deadline:
            sys.exit(f"{arguments.service}: {query} = {value} after {arguments.within} s")
        time.sleep(POLL_S)
    for sample in exported(arguments.exporter, adapter_rule(metric)["seriesQuery"]) if arguments.exporter else ():
        print(f"{arguments.service}: /metrics says {sample}")
    print(f"{arguments.service}: {metric} = {query}")
    print(f"{arguments.service}: {verdict(autoscaler, arguments.replicas, value)}")


if __name__ == "__main__":
    main()
