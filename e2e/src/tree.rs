//! A trace as text: who called whom, when, for how long.

use std::fmt::Write as _;

use crate::collector::Span;

/// Attributes that say more than the name does.
const SHOWN: [&str; 6] = [
    "http.response.status_code",
    "stampede.batch.size",
    "messaging.batch.message_count",
    "stampede.order.id",
    "stampede.channel",
    "db.system.name",
];

/// The spans as a tree, children below their parents and indented, with milliseconds from the first one on. A span
/// whose parent is not there is shown at the root; one that belongs to another trace and is linked says so.
pub fn text(spans: &[Span], trace_id: &str) -> String {
    let began_ns = spans.iter().map(|span| span.start_ns).min().unwrap_or(0);
    let mut text = format!("{:>9} {:>9}  span\n", "from ms", "took ms");
    for root in spans.iter().filter(|span| !spans.iter().any(|other| other.span_id == span.parent_id)) {
        show(&mut text, spans, root, (0, began_ns), trace_id);
    }
    text
}

fn show(text: &mut String, spans: &[Span], span: &Span, (depth, began_ns): (usize, u64), trace_id: &str) {
    let ms = |ns: u64| ns as f64 / 1_000_000.0;
    let (from, took) =
        (ms(span.start_ns.saturating_sub(began_ns)), ms(span.end_ns.saturating_sub(span.start_ns)));
    let indent = "  ".repeat(depth);
    // Writing into a String cannot fail.
    let _written =
        write!(text, "{from:>9.2} {took:>9.2}  {indent}{}: {} ({})", span.service, span.name, span.kind);
    for (key, value) in span.attributes.iter().filter(|(key, _)| SHOWN.contains(&key.as_str())) {
        let _written = write!(text, " {key}={value}");
    }
    if span.trace_id != trace_id {
        let _written = write!(text, " [linked, of trace {}]", span.trace_id);
    }
    if let Some(error) = &span.error {
        let _written = write!(text, " FAILED: {error}");
    }
    text.push('\n');
    for child in spans.iter().filter(|child| child.parent_id == span.span_id && child.span_id != span.span_id)
    {
        show(text, spans, child, (depth + 1, began_ns), trace_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_below_their_parents() {
        let span = |id: &str, parent: &str, name: &str, start_ns| Span {
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            service: "s".to_owned(),
            name: name.to_owned(),
            kind: "internal".to_owned(),
            start_ns,
            end_ns: start_ns + 1_500_000,
            attributes: vec![("stampede.batch.size".to_owned(), "3".to_owned())],
            links: Vec::new(),
            error: None,
        };
        let spans = [
            span("a", "x", "first", 1_000_000),
            span("c", "b", "third", 3_000_000),
            span("b", "a", "second", 2_000_000),
        ];
        let text = text(&spans, "t");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("  s: first (internal) stampede.batch.size=3"), "{text}");
        assert!(lines[2].contains("1.00      1.50    s: second"), "{text}");
        assert!(lines[3].contains("2.00      1.50      s: third"), "{text}");
    }
}
