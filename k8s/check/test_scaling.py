"""The autoscalers of the production overlay, with the figures in their own manifests."""

import re
import tomllib
import unittest

import yaml
from backlog import adapter_query, verdict
from manifests import K8S, ROOT, find, kustomize
from scaling import EXTERNAL, RESOURCE, desired, next_step

CALM_CPU = 60  # On target: proposes no change.


class Arithmetic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        things = kustomize("overlays/prod")
        cls.gateway = find(things, "HorizontalPodAutoscaler", "gateway")
        cls.orders = find(things, "HorizontalPodAutoscaler", "order-service")
        cls.stock = find(things, "HorizontalPodAutoscaler", "stock-service")

    def replicas(self, autoscaler, now, waiting, cpu=CALM_CPU):
        return desired(autoscaler, now, {EXTERNAL: waiting, RESOURCE: cpu})

    def test_from_5_to_30_as_the_design_has_it(self):
        for autoscaler in (self.gateway, self.orders):
            self.assertEqual((autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]), (5, 30))

    def test_a_backlog_asks_for_as_many_as_can_hold_it(self):
        self.assertEqual(self.replicas(self.gateway, 5, 1_200), 15)
        self.assertEqual(self.replicas(self.gateway, 5, 1_201), 16, "rounded up")
        self.assertEqual(self.replicas(self.orders, 5, 170), 9)

    def test_full_queues_of_the_least_number_ask_for_the_most_and_get_it_in_two_steps(self):
        defaults = tomllib.loads((ROOT / "gateway/config/default.toml").read_text())
        waiting = 5 * defaults["admission"]["queue_max"]
        wanted = self.replicas(self.gateway, 5, waiting)
        self.assertEqual(wanted, 30)
        first = next_step(self.gateway, 5, wanted)
        self.assertEqual((first, next_step(self.gateway, first, wanted)), (15, 30))

    def test_within_a_tenth_of_the_target_nothing_changes(self):
        for now, waiting, replicas in ((5, 439, 5), (5, 441, 6), (10, 721, 10), (10, 719, 9)):
            self.assertEqual(self.replicas(self.gateway, now, waiting, cpu=1), replicas, f"{waiting} waiting, {now} now")

    def test_the_larger_of_cpu_and_backlog_counts(self):
        self.assertEqual(self.replicas(self.gateway, 10, 0, cpu=120), 20)
        self.assertEqual(self.replicas(self.gateway, 10, 1_920, cpu=90), 24)

    def test_nothing_waiting_goes_down_to_the_least_number_slowly(self):
        wanted = self.replicas(self.gateway, 30, 0, cpu=2)
        self.assertEqual(wanted, 5)
        self.assertEqual(next_step(self.gateway, 30, wanted), 28)
        self.assertEqual(next_step(self.gateway, 6, wanted), 5)

    def test_without_a_backlog_rule_cpu_alone_decides(self):
        self.assertEqual(desired(self.stock, 3, {RESOURCE: 130}), 7)
        self.assertEqual(desired(self.stock, 3, {RESOURCE: 10_000}), 10)


class MetricPath(unittest.TestCase):
    """From the code's gauge to the adapter's rule to the autoscaler's metric, by name."""

    def test_each_rule_asks_for_a_gauge_that_a_service_sets(self):
        rules = yaml.safe_load((K8S / "components/prometheus-adapter/rules.yaml").read_text())["externalRules"]
        sources = {
            "batcher_queue_depth": (ROOT / "common/src/batcher/queue.rs").read_text(),
            "reservations_waiting": (ROOT / "order-service/src/gauges.rs").read_text(),
        }
        for rule in rules:
            gauge = re.match(r"\w+", rule["seriesQuery"]).group()
            self.assertIn(f'gauge!("{gauge}"', sources[gauge])
            self.assertIn(gauge, rule["metricsQuery"])
        self.assertIn('name: "admission"', (ROOT / "gateway/src/admission.rs").read_text())

    def test_the_adapter_asks_for_its_namespace_alone(self):
        self.assertEqual(
            adapter_query("stampede_reservations_waiting"),
            'sum(max by (partition) (reservations_waiting{namespace="stampede"}))',
        )
        self.assertEqual(
            adapter_query("stampede_admission_waiting"),
            'sum(batcher_queue_depth{name="admission",namespace="stampede"})',
        )

    def test_a_measured_backlog_is_told_in_replicas(self):
        orders = find(kustomize("overlays/prod"), "HorizontalPodAutoscaler", "order-service")
        told = verdict(orders, 5, 321.0)
        self.assertEqual(told, "321 waiting, 20 for each replica: 5 replicas become 17, 15 of them at once")

    def test_each_external_metric_is_served_by_a_rule_and_keda_asks_the_same(self):
        rules = yaml.safe_load((K8S / "components/prometheus-adapter/rules.yaml").read_text())["externalRules"]
        queries = {
            rule["name"]["as"]: re.sub(r",?<<.LabelMatchers>>", "", rule["metricsQuery"]).replace("{}", "") for rule in rules
        }
        scaled = yaml.safe_load_all((K8S / "components/keda/scaledobjects.yaml").read_text())
        keda = {one["metadata"]["name"]: one["spec"]["triggers"][0]["metadata"] for one in scaled}
        for service in ("gateway", "order-service"):
            autoscaler = find(kustomize("overlays/prod"), "HorizontalPodAutoscaler", service)
            [external] = [one["external"] for one in autoscaler["spec"]["metrics"] if one["type"] == EXTERNAL]
            self.assertEqual(queries[external["metric"]["name"]], keda[service]["query"])
            self.assertEqual(external["target"]["averageValue"], keda[service]["threshold"])


if __name__ == "__main__":
    unittest.main()
