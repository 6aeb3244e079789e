//! A chart of a backtest: per file the fees with fans of forecasts, the share captured by timing, and the coverage of
//! the intervals.
//!
//! Drawn by hand: only rectangles, lines and words are needed, and a plotting library would be the program's largest
//! dependency for that.

use std::fmt::Write as _;

use slackwater_core::backtest::FileReport;

use super::{
    Tested,
    output::{ahead, time},
};

const WIDTH: f64 = 1_240.0;
const PANEL_HEIGHT: f64 = 300.0;
const TOP: f64 = 64.0;
/// Most files that are drawn; the pooled panel comes on top.
const MAX_PANELS: usize = 60;
const INK: &str = "#1c2733";
const FAINT: &str = "#8a97a6";
const GRID: &str = "#e3e8ee";
const OURS: &str = "#0b7285";
const BAND: &str = "#66b7c4";
/// Baselines, in this order in each group of bars.
const OTHERS: [(&str, &str); 5] =
    [("threshold", "#5c7cfa"), ("scroll", "#9775fa"), ("fuel", "#f59f00"), ("linea", "#e8590c"), ("random", "#adb5bd")];

struct Svg {
    text: String,
}

/// A rectangle on the page.
#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    /// Position of the point at shares `across` of the width and `up` of the height (from below).
    fn at(self, across: f64, up: f64) -> (f64, f64) {
        (self.x + across * self.width, self.y + (1.0 - up) * self.height)
    }
}

fn escaped(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .map(|c| match c {
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            '"' => "&quot;".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

// Writing to a String does not fail.
impl Svg {
    fn new(height: f64) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"system-ui,-apple-system,Segoe UI,sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        Self { text }
    }

    fn words(&mut self, (x, y): (f64, f64), style: &str, words: &str) {
        let _ = writeln!(self.text, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>", escaped(words));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
        let _ = writeln!(self.text, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>");
    }

    fn path(&mut self, points: impl IntoIterator<Item = (f64, f64)>, style: &str) {
        let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(self.text, "<path d=\"M{}\" {style}/>", points.join("L"));
    }

    fn bar(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let (x, y) = (from.0.min(to.0), from.1.min(to.1));
        let (width, height) = ((from.0 - to.0).abs(), (from.1 - to.1).abs().max(0.5));
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }
}

/// Round axis values from `low` to `high`: 1, 2 or 5 times a power of ten apart.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![low];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|k| k * power).find(|step| *step >= rough).unwrap_or(power);
    let first = (low / step).ceil();
    (0..12).map(|k| (first + f64::from(k)) * step).take_while(|tick| *tick <= high * (1.0 + 1e-12)).collect()
}

/// Draws all panels.
pub(super) fn draw(files: &[Tested], pooled: &FileReport) -> String {
    let shown = &files[..files.len().min(MAX_PANELS)];
    let has_pool = files.len() > 1;
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let height = TOP + PANEL_HEIGHT * (shown.len() + usize::from(has_pool)) as f64;
    let mut svg = Svg::new(height);
    let bold = format!("font-size=\"18\" font-weight=\"600\" fill=\"{INK}\"");
    svg.words((24.0, 30.0), &bold, "slackwater backtest");
    legend(&mut svg);
    let mut y = TOP;
    if has_pool {
        let title = format!("All {} files, weighted by rows", files.len());
        svg.words((24.0, y + 14.0), &format!("font-size=\"14\" font-weight=\"600\" fill=\"{INK}\""), &title);
        reports(&mut svg, pooled, y, 24.0, 660.0);
        y += PANEL_HEIGHT;
    }
    for file in shown {
        let kind = if file.trace.is_blocks() { "blocks" } else { "rows" };
        let title = format!("{}: {} {kind} of {:.0} s", file.name, file.trace.rows(), file.trace.step().as_secs_f64());
        svg.words((24.0, y + 14.0), &format!("font-size=\"14\" font-weight=\"600\" fill=\"{INK}\""), &title);
        fees(&mut svg, file, Area { x: 76.0, y: y + 40.0, width: 480.0, height: 200.0 });
        reports(&mut svg, &file.report, y, 600.0, 320.0);
        y += PANEL_HEIGHT;
    }
    if files.len() > shown.len() {
        let more = format!("{} more files are in the figures only", files.len() - shown.len());
        svg.words((24.0, height - 8.0), &format!("fill=\"{FAINT}\""), &more);
    }
    svg.text.push_str("</svg>\n");
    svg.text
}

fn legend(svg: &mut Svg) {
    let mut x = 240.0;
    for (name, colour) in [("slackwater", OURS)].into_iter().chain(OTHERS) {
        svg.bar((x, 20.0), (x + 12.0, 32.0), colour);
        svg.words((x + 17.0, 30.0), &format!("fill=\"{INK}\""), name);
        x += 100.0;
    }
    svg.line((x, 26.0), (x + 12.0, 26.0), &format!("stroke=\"{INK}\" stroke-width=\"1.5\""));
    svg.words((x + 17.0, 30.0), &format!("fill=\"{INK}\""), "actual fee");
}

/// Fees in the middle of the file, with fans of forecasts.
#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn fees(svg: &mut Svg, file: &Tested, area: Area) {
    let prices = &file.prices[file.window.clone()];
    let log = |wei: u128| (wei.max(1) as f64).ln();
    let seen = prices.iter().map(|price| log(*price));
    let fanned = file.fans.iter().flat_map(|fan| fan.levels.iter().flat_map(|(_, levels)| *levels));
    let (low, high) =
        seen.chain(fanned).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if !(low.is_finite() && high.is_finite()) {
        return;
    }
    let (low, high) = (low - 0.02, high + 0.02);
    let span = (prices.len().max(2) - 1) as f64;
    let place =
        |row: f64, value: f64| area.at((row / span).clamp(0.0, 1.0), ((value - low) / (high - low)).clamp(0.0, 1.0));
    let (unit, name) = if high > 18.0 { (1e9, "gwei") } else { (1.0, "wei") };
    for tick in ticks(low.exp() / unit, high.exp() / unit).into_iter().filter(|tick| *tick > 0.0) {
        let (x, y) = place(0.0, (tick * unit).ln());
        svg.line((x, y), (x + area.width, y), &format!("stroke=\"{GRID}\""));
        svg.words((x - 6.0, y + 4.0), &format!("text-anchor=\"end\" fill=\"{FAINT}\""), &format!("{tick}"));
    }
    svg.words(
        (area.x, area.y - 8.0),
        &format!("fill=\"{FAINT}\""),
        &format!("{name} per gas, and what was forecast: median and 80 %"),
    );
    for fan in &file.fans {
        let start = (fan.row - file.window.start) as f64;
        let mut levels: Vec<(f64, [f64; 3])> = vec![(start, [log(prices[fan.row - file.window.start]); 3])];
        let mut ahead: Vec<_> = fan.levels.clone();
        ahead.sort_unstable_by_key(|(steps, _)| *steps);
        levels.extend(ahead.into_iter().map(|(steps, levels)| (start + f64::from(steps), levels)));
        levels.retain(|(row, _)| *row <= span);
        let upper = levels.iter().map(|(row, of)| place(*row, of[2]));
        let lower = levels.iter().rev().map(|(row, of)| place(*row, of[0]));
        svg.path(upper.chain(lower), &format!("fill=\"{BAND}\" fill-opacity=\"0.45\""));
        let median = levels.iter().map(|(row, of)| place(*row, of[1]));
        svg.path(median, &format!("fill=\"none\" stroke=\"{OURS}\" stroke-width=\"1.5\""));
    }
    let line = prices.iter().enumerate().map(|(row, price)| place(row as f64, log(*price)));
    svg.path(line, &format!("fill=\"none\" stroke=\"{INK}\" stroke-width=\"1\""));
    let text = format!("rows {} to {} of {}", file.window.start, file.window.end, file.prices.len());
    svg.words((area.x, area.y + area.height + 18.0), &format!("fill=\"{FAINT}\""), &text);
}

/// Captured shares and coverage, from `x` on.
fn reports(svg: &mut Svg, report: &FileReport, y: f64, x: f64, width: f64) {
    captured(svg, report, Area { x: x + 30.0, y: y + 40.0, width: width - 30.0, height: 200.0 });
    coverage(svg, report, Area { x: x + width + 50.0, y: y + 40.0, width: WIDTH - x - width - 80.0, height: 200.0 });
}

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn captured(svg: &mut Svg, report: &FileReport, area: Area) {
    svg.words((area.x - 30.0, area.y - 8.0), &format!("fill=\"{FAINT}\""), "captured share of the saving, by deadline");
    // A bad policy goes far below the axis; its exact value does not matter.
    let (low, high) = (-0.25, 1.0);
    let up = |share: f64| (share.clamp(low, high) - low) / (high - low);
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (from, to) = (area.at(0.0, up(tick)), area.at(1.0, up(tick)));
        let colour = if tick == 0.0 { FAINT } else { GRID };
        svg.line(from, to, &format!("stroke=\"{colour}\""));
        svg.words((from.0 - 5.0, from.1 + 4.0), &format!("text-anchor=\"end\" fill=\"{FAINT}\""), &format!("{tick}"));
    }
    let group = 1.0 / report.deadlines.len().max(1) as f64;
    for (index, (seconds, of)) in report.deadlines.iter().enumerate() {
        let bars = [(of.captured, OURS)]
            .into_iter()
            .chain(OTHERS.map(|(name, colour)| (of.baselines.get(name).copied(), colour)));
        let bar = group * 0.8 / 6.0;
        for (place, (share, colour)) in bars.enumerate() {
            let Some(share) = share else { continue };
            let left = index as f64 * group + group * 0.1 + place as f64 * bar;
            svg.bar(area.at(left, up(0.0)), area.at(left + bar * 0.9, up(share)), colour);
        }
        let (x, y) = area.at((index as f64 + 0.5) * group, 0.0);
        let middle = format!("text-anchor=\"middle\" fill=\"{INK}\"");
        svg.words((x, y + 18.0), &middle, &time(*seconds));
        let faint = format!("text-anchor=\"middle\" font-size=\"10\" fill=\"{FAINT}\"");
        svg.words((x, y + 32.0), &faint, &format!("{:.1} % to save", 100.0 * of.available));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn coverage(svg: &mut Svg, report: &FileReport, area: Area) {
    svg.words((area.x - 20.0, area.y - 8.0), &format!("fill=\"{FAINT}\""), "the 80 % interval holds, by horizon");
    let (low, high) = (0.5, 1.0);
    let up = |share: f64| (share.clamp(low, high) - low) / (high - low);
    for tick in [0.5, 0.6, 0.7, 0.8, 0.9, 1.0] {
        let (from, to) = (area.at(0.0, up(tick)), area.at(1.0, up(tick)));
        let style = if tick == 0.8 {
            format!("stroke=\"{OURS}\" stroke-dasharray=\"4 3\"")
        } else {
            format!("stroke=\"{GRID}\"")
        };
        svg.line(from, to, &style);
        svg.words((from.0 - 5.0, from.1 + 4.0), &format!("text-anchor=\"end\" fill=\"{FAINT}\""), &format!("{tick}"));
    }
    let place = 1.0 / report.horizons.len().max(1) as f64;
    for (index, (key, of)) in report.horizons.iter().enumerate() {
        let across = (index as f64 + 0.5) * place;
        let (x, y) = area.at(across, up(of.coverage80));
        let _ = writeln!(svg.text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{OURS}\"/>");
        let (x, y) = area.at(across, 0.0);
        let style = format!(
            "text-anchor=\"end\" font-size=\"10\" fill=\"{INK}\" transform=\"rotate(-45 {x:.1} {:.1})\"",
            y + 14.0
        );
        svg.words((x, y + 14.0), &style, &ahead(*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 5.0, 10.0]);
        assert_eq!(ticks(13.0, 22.0), [15.0, 20.0]);
        assert_eq!(ticks(5.0, 5.0), [5.0]);
        assert!(ticks(f64::NAN, 1.0).len() == 1);
        assert_eq!(escaped("a<b>&\"\u{7}c"), "a&lt;b&gt;&amp;&quot;c");
    }
}
