//! Line charts as SVG text: no library, no script, nothing from the network.

use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 28.0;
/// About so many lines across a chart.
const GRID_LINES: f64 = 4.0;
/// Colours that are told apart by most people, on light and on dark; then they repeat.
const COLOURS: [&str; 8] =
    ["#3b82c4", "#e07b39", "#2f9e6e", "#c2529b", "#b59b1e", "#7a6fd0", "#d64f4f", "#4aa8b5"];

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// A value for each point in time; `None` is a gap.
    pub values: Vec<Option<f64>>,
}

/// Lines over the same time.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The unit of the values, for the title.
    pub unit: String,
    /// The points in time, in seconds.
    pub at_s: Vec<f64>,
    /// When steps begin, in seconds.
    pub marks_s: Vec<f64>,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Chart {
    /// As a figure of HTML: title, drawing, legend with the highest values. Empty without any value.
    pub fn html(&self) -> String {
        let values = || self.lines.iter().flat_map(|line| line.values.iter().flatten());
        if values().next().is_none() {
            return String::new();
        }
        let highest = values().fold(0.0_f64, |most, value| most.max(*value));
        let step = grid_step(highest);
        let top = ((highest / step).ceil() * step).max(step);
        let end_s = self.at_s.last().copied().unwrap_or(1.0).max(1.0);
        let mut out = format!(
            "<figure><figcaption>{} <span>{}</span></figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">",
            escape(&self.title),
            escape(&self.unit),
            escape(&self.title)
        );
        let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
        let x = |at_s: f64| LEFT + (WIDTH - LEFT - RIGHT) * (at_s.max(0.0) / end_s);
        self.grid(&mut out, (step, top), end_s, (&x, &y));
        for (number, line) in self.lines.iter().enumerate() {
            let path = path(&self.at_s, &line.values, (&x, &y));
            // Writing into a text does not fail.
            let _ = write!(out, "<path d=\"{path}\" stroke=\"{}\"/>", COLOURS[number % COLOURS.len()]);
        }
        out.push_str("</svg>");
        self.legend(&mut out);
        out.push_str("</figure>");
        out
    }

    fn grid(&self, out: &mut String, (step, top): (f64, f64), end_s: f64, (x, y): Axes<'_>) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut value = 0.0;
        while value <= top * 1.0001 {
            let (at, label) = (y(value), number(value));
            let _ = write!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 6.0,
                at + 4.0
            );
            value += step;
        }
        let step_s = grid_step(end_s).max(1.0);
        let mut at_s = 0.0;
        while at_s <= end_s * 1.0001 {
            let (at, label) = (x(at_s), number(at_s));
            let _ = write!(
                out,
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label} s</text>",
                bottom + 18.0
            );
            at_s += step_s;
        }
        for mark in self.marks_s.iter().filter(|mark| **mark > 0.0 && **mark < end_s) {
            let at = x(*mark);
            let _ = write!(
                out,
                "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
            );
        }
    }

    fn legend(&self, out: &mut String) {
        out.push_str("<ul>");
        for (position, line) in self.lines.iter().enumerate() {
            let most = line.values.iter().flatten().fold(0.0_f64, |most, value| most.max(*value));
            let _ = write!(
                out,
                "<li><i style=\"background:{}\"></i>{} <b>{}</b></li>",
                COLOURS[position % COLOURS.len()],
                escape(&line.name),
                number(most)
            );
        }
        out.push_str("</ul>");
    }
}

type Axes<'a> = (&'a dyn Fn(f64) -> f64, &'a dyn Fn(f64) -> f64);

fn path(at_s: &[f64], values: &[Option<f64>], (x, y): Axes<'_>) -> String {
    let mut path = String::new();
    let mut pen_down = false;
    for (at_s, value) in at_s.iter().zip(values) {
        let Some(value) = value else {
            pen_down = false;
            continue;
        };
        let command = if pen_down { 'L' } else { 'M' };
        let _ = write!(path, "{command}{:.1} {:.1}", x(*at_s), y(*value));
        pen_down = true;
    }
    path
}

/// A round distance of grid lines: 1, 2 or 5 times a power of ten.
fn grid_step(highest: f64) -> f64 {
    let rough = (highest / GRID_LINES).max(0.001);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A number for people: 12,345; 12.3; 0.12.
pub fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        let text = format!("{value:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        return text.to_owned();
    }
    if value.abs() < 100.0 {
        let text = format!("{value:.1}");
        return text.trim_end_matches(".0").to_owned();
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Text that is safe in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        let written = [0.0, 0.123, 9.5, 42.0, 42.25, 123.4, 1234.6, 1_234_567.0].map(number);
        assert_eq!(written, ["0", "0.12", "9.5", "42", "42.2", "123", "1,235", "1,234,567"]);
    }

    #[test]
    fn grid_lines_are_at_round_values() {
        assert_eq!([9.0, 90.0, 7_900.0, 0.3].map(grid_step), [5.0, 50.0, 2_000.0, 0.1]);
    }

    #[test]
    fn a_gap_in_the_values_is_a_gap_in_the_line() {
        let same = |value: f64| value;
        let path = path(&[0.0, 1.0, 2.0, 3.0], &[Some(1.0), None, Some(2.0), Some(3.0)], (&same, &same));
        assert_eq!(path, "M0.0 1.0M2.0 2.0L3.0 3.0");
    }

    #[test]
    fn names_cannot_break_the_page() {
        let lines = vec![Line { name: "<script>".to_owned(), values: vec![Some(1.0)] }];
        let chart = Chart {
            title: "a & b".to_owned(),
            unit: String::new(),
            at_s: vec![1.0],
            marks_s: Vec::new(),
            lines,
        };
        let html = chart.html();
        assert!(html.contains("&lt;script&gt;") && html.contains("a &amp; b") && !html.contains("<script>"));
    }
}
