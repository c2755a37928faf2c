//! The report as one HTML file that needs nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::chart::{Chart, Line, escape, number};
use crate::depths::UNSETTLED;
use crate::result::{Latency, Report, Second, StepResult};

/// The look of the page; it follows the reader's light or dark scheme.
const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn html(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a text does not fail.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Stampede: load report</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style><main><h1>Load report</h1>"
    );
    tiles(&mut out, report);
    steps(&mut out, &report.steps);
    out.push_str("<section class=\"charts\">");
    for chart in charts(report) {
        out.push_str(&chart.html());
    }
    out.push_str("</section>");
    costs(&mut out, &report.steps);
    out.push_str("<h2>Circumstances</h2><table class=\"plain\">");
    for (what, how) in &report.circumstances {
        let _ = write!(out, "<tr><th>{}</th><td>{}</td></tr>", escape(what), escape(how));
    }
    out.push_str(
        "</table><p>Latency counts from when a request was due by the schedule, not from when it was sent. Vertical \
         lines: a step begins.</p></main></html>\n",
    );
    out
}

fn tiles(out: &mut String, report: &Report) {
    let clean = report.accepted_per_s.is_some();
    let verdict = if clean {
        "Audit clean: every accepted order is in Postgres, and both stores agree about each."
    } else {
        "The audit is not clean: this run has no result."
    };
    let class = if clean { "good" } else { "bad" };
    let _ = write!(out, "<p class=\"verdict {class}\">{verdict}</p><section class=\"tiles\">");
    let grew = report.backlog_grew.map(|grew| if grew { "grew" } else { "steady" }.to_owned());
    let tiles = [
        ("accepted orders a second", report.accepted_per_s.map(number)),
        ("refused a second", report.refused_per_s.map(number)),
        ("p50 of accepted, ms", report.p50_ms.map(number)),
        ("p99 of accepted, ms", report.p99_ms.map(number)),
        ("p99.9 of accepted, ms", report.p999_ms.map(number)),
        ("CPU µs an order, without this tool", report.cpu_us_per_order.map(number)),
        ("all in Postgres after, s", report.all_in_postgres_after_s.map(number)),
        ("backlog", grew),
    ];
    for (what, value) in tiles {
        let value = value.unwrap_or_else(|| "–".to_owned());
        let _ = write!(out, "<div><b>{value}</b><span>{what}</span></div>");
    }
    out.push_str("</section>");
}

fn steps(out: &mut String, steps: &[StepResult]) {
    out.push_str(
        "<h2>Steps</h2><table><tr><th>offered/s<th>held, s<th>accepted/s<th>refused/s<th>p50 ms<th>p99 ms\
         <th>p99.9 ms<th>refused p99 ms<th>not sent<th>failed<th>backlog<th>CPU µs/order<th>sent late, p99 ms</tr>",
    );
    for step in steps {
        let offered = match (step.offered_per_s, step.connections) {
            (Some(rate), _) => number(rate),
            (None, connections) => format!("{} connections", connections.unwrap_or(0)),
        };
        let of = |latency: Option<Latency>, which: fn(Latency) -> f64| {
            latency.map_or_else(|| "–".to_owned(), |latency| number(which(latency)))
        };
        let cells = [
            offered,
            number(step.hold_s),
            number(step.accepted_per_s),
            number(step.refused_per_s),
            of(step.accepted, |latency| latency.p50_ms),
            of(step.accepted, |latency| latency.p99_ms),
            of(step.accepted, |latency| latency.p999_ms),
            of(step.refused, |latency| latency.p99_ms),
            step.beyond_bound.to_string(),
            step.failed_count.to_string(),
            if step.backlog_grew { "grew".to_owned() } else { "steady".to_owned() },
            step.cpu_us_per_order_of_system().map_or_else(|| "–".to_owned(), number),
            of(step.sent_late, |latency| latency.p99_ms),
        ];
        out.push_str("<tr>");
        for cell in cells {
            let _ = write!(out, "<td>{cell}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>");
}

fn costs(out: &mut String, steps: &[StepResult]) {
    let Some(step) = steps.iter().rfind(|step| !step.cpu_us_per_answer.is_empty()) else { return };
    out.push_str(
        "<h2>What the last step cost</h2><table><tr><th>part<th>CPU µs an order<th>CPU µs an answer<th>memory, MiB</tr>",
    );
    for (part, us) in &step.cpu_us_per_answer {
        let order = step.cpu_us_per_order.get(part).map_or_else(|| "–".to_owned(), |us| number(*us));
        let memory = step.memory_mib_max.get(part).map_or_else(|| "–".to_owned(), |mib| number(*mib));
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{order}</td><td>{}</td><td>{memory}</td></tr>",
            escape(part),
            number(*us)
        );
    }
    out.push_str("</table>");
}

/// All charts of a run.
fn charts(report: &Report) -> Vec<Chart> {
    let seconds = &report.seconds;
    let chart = |title: &str, unit: &str, lines: Vec<Line>| Chart {
        title: title.to_owned(),
        unit: unit.to_owned(),
        at_s: seconds.iter().map(|second| second.at_s).collect(),
        marks_s: marks(&report.steps),
        lines,
    };
    let one = |name: &str, value: &dyn Fn(&Second) -> Option<f64>| Line {
        name: name.to_owned(),
        values: seconds.iter().map(value).collect(),
    };
    let latency = |of: fn(&Second) -> Option<Latency>| {
        vec![
            one("p50", &|second| of(second).map(|latency| latency.p50_ms)),
            one("p99", &|second| of(second).map(|latency| latency.p99_ms)),
            one("p99.9", &|second| of(second).map(|latency| latency.p999_ms)),
        ]
    };
    #[expect(clippy::cast_precision_loss, reason = "few requests")]
    let in_flight = one("in flight", &|second| Some(second.in_flight as f64));
    vec![
        chart(
            "Rate",
            "a second",
            vec![
                one("offered", &|second| second.offered_per_s),
                one("sent", &|second| Some(second.sent_per_s)),
                one("accepted", &|second| Some(second.accepted_per_s)),
                one("refused", &|second| Some(second.refused_per_s)),
            ],
        ),
        chart("Answers by code", "a second", named(seconds, |second| &second.answers_per_s)),
        chart("Latency of accepted orders", "ms", latency(|second| second.accepted)),
        chart("Latency of refusals", "ms", latency(|second| second.refused)),
        chart("CPU of each process", "cores", named(seconds, |second| &second.cores)),
        chart("Memory of each process", "MiB", named(seconds, |second| &second.memory_mib)),
        chart("Orders under way", "orders", depths(seconds, |name| name == UNSETTLED)),
        chart("Queues", "messages", depths(seconds, |name| name != UNSETTLED)),
        chart("Requests without an answer yet", "requests", vec![in_flight]),
    ]
}

fn marks(steps: &[StepResult]) -> Vec<f64> {
    let mut at_s = 0.0;
    let mut marks = Vec::new();
    for step in steps {
        at_s += step.hold_s;
        marks.push(at_s);
    }
    marks
}

/// A line for each name that occurs.
fn named(seconds: &[Second], of: fn(&Second) -> &BTreeMap<String, f64>) -> Vec<Line> {
    let names: BTreeSet<&String> = seconds.iter().flat_map(|second| of(second).keys()).collect();
    let line = |name: &String| Line {
        name: name.clone(),
        values: seconds.iter().map(|second| of(second).get(name).copied()).collect(),
    };
    names.into_iter().map(line).collect()
}

fn depths(seconds: &[Second], which: fn(&str) -> bool) -> Vec<Line> {
    let names: BTreeSet<&String> =
        seconds.iter().flat_map(|second| second.depths.keys()).filter(|name| which(name)).collect();
    #[expect(clippy::cast_precision_loss, reason = "depths far below 2^52")]
    let line = |name: &String| Line {
        name: name.clone(),
        values: seconds.iter().map(|second| second.depths.get(name).map(|depth| *depth as f64)).collect(),
    };
    names.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::Mix;

    fn report(clean: bool) -> Report {
        let latency = Latency { p50_ms: 7.0, p99_ms: 21.0, p999_ms: 35.0, max_ms: 50.0 };
        let second = |at_s: u32| Second {
            at_s: f64::from(at_s),
            step: Some(0),
            offered_per_s: Some(1_000.0),
            accepted_per_s: 990.0,
            accepted: Some(latency),
            answers_per_s: BTreeMap::from([("202 accepted".to_owned(), 990.0)]),
            depths: BTreeMap::from([(UNSETTLED.to_owned(), 40), ("outbox rows".to_owned(), 3)]),
            cores: BTreeMap::from([("gateway".to_owned(), 0.4)]),
            memory_mib: BTreeMap::from([("gateway".to_owned(), 31.0)]),
            ..Second::default()
        };
        let step = StepResult {
            offered_per_s: Some(1_000.0),
            connections: None,
            hold_s: 3.0,
            sent: 3_000,
            beyond_bound: 0,
            accepted_per_s: 990.0,
            refused_per_s: 10.0,
            answers: BTreeMap::from([("202 accepted".to_owned(), 2_970)]),
            accepted_count: 2_970,
            failed_count: 0,
            accepted: Some(latency),
            refused: None,
            read: None,
            sent_late: None,
            cpu_us_per_order: BTreeMap::from([("gateway".to_owned(), 60.0), ("load tool".to_owned(), 20.0)]),
            cpu_us_per_answer: BTreeMap::from([("gateway".to_owned(), 59.0)]),
            memory_mib_max: BTreeMap::new(),
            backlog_growth: BTreeMap::new(),
            backlog_grew: false,
        };
        let mut report = Report {
            accepted_per_s: None,
            refused_per_s: None,
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            audit_consistent: clean,
            all_in_postgres_after_s: Some(0.4),
            cpu_us_per_order: None,
            backlog_grew: None,
            accepted_count: 2_970,
            in_postgres_count: 2_970,
            mix: Mix::Buyers,
            circumstances: BTreeMap::from([("cores".to_owned(), "0,1 <b>".to_owned())]),
            steps: vec![step],
            seconds: vec![second(1), second(2), second(3)],
        };
        report.conclude();
        report
    }

    #[test]
    fn the_page_has_every_chart_and_needs_no_network() {
        let page = html(&report(true));
        for title in [
            "Rate",
            "Latency of accepted orders",
            "Answers by code",
            "CPU of each process",
            "Memory of each process",
            "Orders under way",
            "Queues",
        ] {
            assert!(page.contains(&format!("<figcaption>{title} ")), "{title}");
        }
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));
        assert!(page.contains("0,1 &lt;b&gt;") && page.contains("Audit clean"));
    }

    #[test]
    fn figures_of_the_best_step_are_on_top_without_this_tools_cpu() {
        let json = serde_json::to_value(report(true)).unwrap();
        assert_eq!(json["accepted_per_s"], 990.0);
        assert_eq!(json["p99_ms"], 21.0);
        assert_eq!(json["cpu_us_per_order"], 60.0);
        assert_eq!(json["audit_consistent"], true);
        assert_eq!(json["all_in_postgres_after_s"], 0.4);
    }

    #[test]
    fn a_run_whose_audit_is_not_clean_has_no_result() {
        let report = report(false);
        assert_eq!((report.accepted_per_s, report.p99_ms, report.cpu_us_per_order), (None, None, None));
        assert!(html(&report).contains("this run has no result"));
    }
}
