//! What deploy/observe relies on is there: metrics, recording rules, runbooks, dashboards.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

const SERVICES: [&str; 4] = ["gateway", "stock-service", "order-service", "notify-service"];
/// Words of PromQL, labels, and what Prometheus makes itself.
const KNOWN: [&str; 3] = ["up", "ALERTS", "le"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Every name that a query may use: what services list, the series of histograms, recording rules.
fn exposed() -> HashSet<String> {
    let mut names: HashSet<String> = KNOWN.iter().map(|name| (*name).to_owned()).collect();
    for service in SERVICES {
        let text = read(&format!("{service}/README.md"));
        let table = text.split_once("| metric | kind | labels | meaning |").expect("a list of metrics").1;
        for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
            let mut cells = row.split('|').map(str::trim);
            let name = cells.nth(1).unwrap().trim_matches('`').to_owned();
            if cells.next() == Some("histogram") {
                names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
            } else {
                names.insert(name);
            }
        }
    }
    let rules = read("deploy/observe/rules/recording.yml");
    names.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned));
    names
}

/// The names of metrics in a query: words with `_` or `:` that are no labels, functions, values or words of the language.
fn used(query: &str) -> Vec<String> {
    let mut text = String::new();
    let (mut depth, mut quoted) = (0, false);
    for char in query.chars() {
        match char {
            '"' => quoted = !quoted,
            '{' if !quoted => depth += 1,
            '}' if !quoted => depth -= 1,
            _ if quoted || depth > 0 => {}
            other => text.push(other),
        }
    }
    // Labels of aggregations.
    for word in ["by (", "by(", "without ("] {
        while let Some(start) = text.find(word) {
            let end = text[start..].find(')').map_or(text.len(), |end| start + end + 1);
            text.replace_range(start..end, " ");
        }
    }
    let word = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    let mut names = Vec::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(word) {
        let end = rest[start..].find(|char| !word(char)).map_or(rest.len(), |end| start + end);
        let (name, after) = (&rest[start..end], &rest[end..]);
        let function = after.starts_with('(');
        if !function && name.contains(['_', ':']) && name.starts_with(|char: char| char.is_ascii_alphabetic())
        {
            names.push(name.to_owned());
        }
        rest = after;
    }
    names.retain(|name| !name.ends_with(':') && !name.starts_with(char::is_numeric));
    names
}

fn queries_of_rules() -> Vec<String> {
    let mut queries = Vec::new();
    for path in files("deploy/observe/rules") {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(first) = line.trim().strip_prefix("expr: ") else { continue };
            let indent = line.len() - line.trim_start().len();
            let more =
                lines[index + 1..].iter().take_while(|line| line.len() - line.trim_start().len() > indent);
            let mut query = if first == "|" { String::new() } else { first.to_owned() };
            if first == "|" {
                more.for_each(|line| query.push_str(line.trim()));
            }
            queries.push(query);
        }
    }
    queries
}

#[test]
fn every_metric_in_rules_and_dashboards_is_exposed() {
    let exposed = exposed();
    let mut queries = queries_of_rules();
    assert!(queries.len() > 30, "rules are read");
    for path in files("deploy/observe/dashboards") {
        let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let panels = dashboard["panels"].as_array().expect("panels");
        assert!(panels.len() >= 6 && dashboard["title"].is_string() && dashboard["uid"].is_string());
        let ids: HashSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len(), "panels of {} have ids of their own", path.display());
        let targets =
            panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
        queries.extend(targets.map(|target| target["expr"].as_str().expect("a query").to_owned()));
    }
    for query in queries {
        let names = used(&query);
        assert!(
            !names.is_empty() || query.contains("up{") || query.contains("ALERTS"),
            "no metric in {query}"
        );
        for name in names {
            assert!(exposed.contains(&name), "{name} is exposed by nobody: {query}");
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let rules = read("deploy/observe/rules/alerts.yml");
    let alerts: HashSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20);
    let index = read("docs/runbooks/README.md");
    for alert in &alerts {
        assert!(rules.contains(&format!("runbook: docs/runbooks/{alert}.md")), "{alert} names its runbook");
        let page = read(&format!("docs/runbooks/{alert}.md"));
        for section in ["## What it means", "## What users see", "## Look", "## Do"] {
            assert!(page.contains(section), "{alert}: {section}");
        }
        assert!(index.contains(&format!("({alert}.md)")), "{alert} is in the index");
    }
    for page in files("docs/runbooks") {
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(name == "README" || alerts.contains(name.as_str()), "{name} is no alert any more");
    }
}

/// What a service counts is in the table of its metrics: the names in the source and in the list are the same.
#[test]
fn every_metric_in_the_source_is_in_the_list_of_its_service() {
    let listed = exposed();
    let mut missing = Vec::new();
    for crate_name in SERVICES.iter().chain(&["common"]) {
        let mut folders = vec![root().join(crate_name).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
                    for found in text.split(call).skip(1) {
                        let name = found.split('"').next().unwrap();
                        if !listed.contains(name) && !listed.contains(&format!("{name}_count")) {
                            missing.push(format!("{name} in {}", path.display()));
                        }
                    }
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn names_of_metrics_are_found_in_queries() {
    let query = r#"histogram_quantile(0.99, sum by (le, service) (rate(a_seconds_bucket{b_c="d_e"}[1m]))) > x:y:z / 2"#;
    assert_eq!(used(query), ["a_seconds_bucket", "x:y:z"]);
}
