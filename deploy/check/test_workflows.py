"""The workflows: pinned, gated, and complete; and what they call by name."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "stock-service", "order-service", "notify-service")
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}


def on(workflow):
    return workflow.get("on", workflow.get(True))  # YAML 1.1 reads `on` as true.


def loose(workflow):
    """What is not pinned, not limited, or may too much."""
    if "permissions" not in workflow:
        yield "no permissions"
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            yield f"{name} has no time limit"
        for step in job["steps"]:
            if "uses" in step and not re.search(r"@[0-9a-f]{40}$", step["uses"]):
                yield f"{name} uses {step['uses']}, which may change"


def ungated(workflow):
    """Jobs whose failure the one required check does not see."""
    gate = workflow["jobs"]["required"]
    if gate.get("if") != "always()":
        yield "the gate is skipped when a job fails, and skipped counts as passed"
    yield from set(workflow["jobs"]) - {"required"} - set(gate["needs"])


def changed(*files):
    """What deploy/check/changed says of a change of these files."""
    with tempfile.TemporaryDirectory() as folder:
        def git(*arguments):
            command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
            return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

        script = Path(folder) / "deploy/check/changed"
        script.parent.mkdir(parents=True)
        script.write_text((ROOT / "deploy/check/changed").read_text())
        script.chmod(0o755)
        git("init", "-q")
        git("add", "-A")
        git("commit", "-qm", "base")
        base = git("rev-parse", "HEAD")
        for file in files:
            path = Path(folder) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        git("add", "-A")
        git("commit", "-qm", "change", "--allow-empty")
        lines = subprocess.run([script, base], check=True, capture_output=True, text=True).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)


class Workflows(unittest.TestCase):
    def test_everything_is_pinned_and_limited(self):
        for name, workflow in WORKFLOWS.items():
            with self.subTest(workflow=name):
                self.assertEqual(list(loose(workflow)), [])

    def test_what_is_loose_is_noticed(self):
        workflow = {"jobs": {"a": {"steps": [{"uses": "actions/checkout@v4"}]}}}
        self.assertEqual(len(list(loose(workflow))), 3)

    def test_the_one_gate_needs_every_job(self):
        self.assertEqual(list(ungated(WORKFLOWS["ci"])), [])
        broken = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
        broken["jobs"]["required"]["needs"].remove("lint")
        self.assertEqual(list(ungated(broken)), ["lint"])

    def test_a_change_of_one_service_tests_that_service_and_the_system(self):
        for service in SERVICES:
            self.assertEqual(changed(f"{service}/src/a.rs"), {"services": f'["{service}"]', "system": "true"})

    def test_a_change_of_what_is_shared_tests_all_and_one_of_words_nothing(self):
        everything = "[" + ",".join(f'"{service}"' for service in SERVICES) + "]"
        for file in ("common/src/a.rs", "Cargo.lock", "deploy/local/up.sh", ".github/workflows/ci.yml"):
            self.assertEqual(changed(file)["services"], everything, file)
        self.assertEqual(changed("README.md", "docs/A.md"), {"services": "[]", "system": "false"})
        self.assertEqual(changed("e2e/src/a.rs"), {"services": "[]", "system": "true"})

    def test_every_service_has_its_own_release(self):
        tags = on(WORKFLOWS["release"])["push"]["tags"]
        for service in (*SERVICES, "prescale"):
            self.assertIn(f"{service}-v*", tags)


class Releases(unittest.TestCase):
    def release(self, tag):
        return subprocess.run([ROOT / "deploy/check/release", tag], capture_output=True, text=True, check=False)

    def test_the_version_in_each_manifest_is_one_that_can_be_released(self):
        for service in (*SERVICES, "prescale"):
            folder = ROOT / ("k8s/prescale" if service == "prescale" else service)
            version = re.search(r'^version = "(.*)"', (folder / "Cargo.toml").read_text(), flags=re.M).group(1)
            done = self.release(f"{service}-v{version}")
            self.assertEqual(done.stdout, f"service={service}\nversion={version}\n", done.stderr)

    def test_a_tag_that_the_tree_does_not_describe_is_refused(self):
        for tag in ("gateway-v99.0.0", "gateway-1.0.0", "common-v0.0.0", "", "gateway-v0.1.0;true"):
            self.assertNotEqual(self.release(tag).returncode, 0, tag)

    def test_the_image_is_built_of_every_member_that_is_not_left_out(self):
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        members = re.search(r"members = \[(.*?)\]", (ROOT / "Cargo.toml").read_text(), flags=re.S).group(1)
        for member in re.findall(r'"(.*?)"', members):
            top = member.split("/")[0]
            self.assertTrue(top not in ignored or f"!{member}" in ignored, f"{member} is not in the context of the images")


if __name__ == "__main__":
    unittest.main()
