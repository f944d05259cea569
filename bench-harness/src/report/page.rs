//! The page around the charts.
//!
//! ```text
//! head (commit, day, aims) | facts | sections of charts | table of figures | yardsticks
//! ```
//!
//! Not here: the charts.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use plotters::prelude::RGBColor;

use super::charts::{Chart, sections};
use crate::merged::{Group, command, groups, number};
use crate::outcome::Run;
use crate::ratio::{self, Merged};
use crate::summary::{self, FIGURES, FIGURES_HEAD, cell, is_shown};

const STYLE: &str = include_str!("page.css");

/// The whole page.
///
/// # Errors
/// None that is known: drawing goes to memory.
pub(super) fn page(run: &Run) -> anyhow::Result<String> {
    let (groups, merged) = (groups(run), ratio::over_rounds(run));
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>oncelog, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    );
    head(&mut html, run, &merged);
    let sections = sections(&groups, &merged)?;
    for section in &sections {
        let _ = writeln!(html, "<section>\n<h2>{}</h2>\n<p>{}</p>", section.title, section.note);
        html += "<div class=\"charts\">\n";
        section.charts.iter().for_each(|chart| figure(&mut html, chart));
        html += "</div>\n</section>\n";
    }
    ratios(&mut html, &merged);
    figures(&mut html, &groups);
    yardsticks(&mut html, run);
    html += "</body>\n</html>\n";
    Ok(html)
}

fn head(html: &mut String, run: &Run, merged: &[Merged]) {
    let began = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(run.began));
    let began = began.to_string().replace('T', " ").replace('Z', " UTC");
    let (reached, aims) = summary::aims(merged);
    let aims = if aims == 0 {
        String::new()
    } else {
        format!("<li><b>{reached} of {aims}</b> aims reached</li>")
    };
    let began = if run.began == 0 { String::new() } else { format!("<li><b>{began}</b></li>") };
    let rounds = run.rounds.len();
    let rounds = format!("<li><b>{rounds}</b> round{}</li>", if rounds == 1 { "" } else { "s" });
    let commit = escape(&run.commit);
    let _ = writeln!(
        html,
        "<header>\n<h1>oncelog, measured</h1>\n<ul class=\"chips\"><li>commit \
         <b>{commit}</b></li>{began}{rounds}{aims}</ul>",
    );
    let _ = writeln!(html, "<pre>{}</pre>", escape(&command(run)));
    for note in summary::notes(run) {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(&note));
    }
    if !run.host.is_empty() {
        html.push_str("<h2>Host</h2>\n<dl>\n");
    }
    for fact in &run.host {
        let advice = fact
            .advice
            .as_ref()
            .map(|advice| format!("<span class=\"advice\">{}</span>", escape(advice)));
        let (name, value) = (escape(&fact.name), escape(&fact.value));
        let advice = advice.unwrap_or_default();
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}{advice}</dd></div>");
    }
    if !run.host.is_empty() {
        html.push_str("</dl>\n");
    }
    html.push_str("</header>\n");
}

fn figure(html: &mut String, chart: &Chart) {
    let class = if chart.wide { " class=\"wide\"" } else { "" };
    let _ = write!(html, "<figure{class}><figcaption>");
    if !chart.title.is_empty() {
        let _ = write!(html, "<b>{}</b>", escape(&chart.title));
    }
    for (name, RGBColor(red, green, blue)) in &chart.legend {
        let _ = write!(
            html,
            "<span><i style=\"background:rgb({red},{green},{blue})\"></i>{}</span>",
            escape(name)
        );
    }
    let _ = writeln!(html, "</figcaption>\n{}</figure>", chart.svg);
}

/// A table whose first columns are words and all others figures.
fn table(html: &mut String, head: &[&str], rows: &[Vec<String>]) {
    html.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for name in head {
        let _ = write!(html, "<th>{name}</th>");
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    let mut before = "";
    for row in rows {
        let again = row[0] == before;
        before = &row[0];
        html.push_str(if again { "<tr>" } else { "<tr class=\"first\">" });
        for (column, cell) in row.iter().enumerate() {
            let shown = if again && column == 0 { "" } else { cell };
            let _ = write!(html, "<td>{shown}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table></div>\n");
}

/// A figure with the rounds' range below it.
fn spread(spread: Option<crate::merged::Spread>) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |spread| format!("{}<small>{}</small>", number(spread.median), spread.range()),
    )
}

fn ratios(html: &mut String, merged: &[Merged]) {
    let row = |one: &Merged| {
        let class = if one.reached() == Some(true) { "reached" } else { "missed" };
        let unit = escape(&one.first.unit);
        vec![
            escape(&one.first.label),
            escape(&one.first.target),
            format!("{} {unit}", one.first.figure).replace("/s /s", "/s"),
            spread(Some(one.value)),
            escape(&one.yardstick),
            spread(one.yardstick_value),
            spread(one.yardstick_value.map(|_| one.ratio)),
            format!(
                "<span class=\"{class}\">{} {}</span>",
                one.aim().unwrap_or_default(),
                one.verdict()
            ),
        ]
    };
    let rows: Vec<Vec<String>> = merged.iter().filter(|one| is_shown(one)).map(row).collect();
    if rows.is_empty() {
        return;
    }
    html.push_str(
        "<section class=\"words\">\n<h2>Ratios</h2>\n<p>Medians of the rounds, smallest and \
         largest in brackets. Both sides of a ratio are from the same round.</p>\n",
    );
    let head = ["work", "target", "figure", "value", "yardstick", "its value", "ratio", "aim"];
    table(html, &head, &rows);
    html.push_str("</section>\n");
}

fn figures(html: &mut String, groups: &[Group<'_>]) {
    if groups.is_empty() {
        return;
    }
    let row = |group: &Group<'_>| {
        let words = [escape(&group.label), escape(group.target)];
        words.into_iter().chain(FIGURES.iter().map(|figure| spread(cell(group, figure)))).collect()
    };
    // All targets of one work below each other.
    let mut order: Vec<&str> = Vec::new();
    for group in groups {
        order.extend(Some(&group.label[..]).filter(|label| !order.contains(label)));
    }
    let place = |group: &&Group<'_>| order.iter().position(|label| *label == group.label);
    let mut sorted: Vec<&Group<'_>> = groups.iter().collect();
    sorted.sort_by_key(place);
    let rows: Vec<Vec<String>> = sorted.into_iter().map(row).collect();
    html.push_str(
        "<section class=\"dense\">\n<h2>All figures</h2>\n<p>Medians of the rounds, smallest and \
         largest in brackets. B/B: bytes that the device wrote for each byte of payload, \
         everyone's I/O included.</p>\n",
    );
    table(html, &FIGURES_HEAD, &rows);
    let mut targets: Vec<(&str, &str, &str)> = Vec::new();
    for (_, one) in groups.iter().flat_map(|group| &group.measurements) {
        let target = (&one.target[..], &one.version[..], &one.durability[..]);
        targets.extend(Some(target).filter(|target| !targets.contains(target)));
    }
    html.push_str("<p>An answer means: ");
    let said = targets.iter().map(|(name, version, durability)| {
        format!("<b>{}</b> {}: {}", escape(name), escape(version), escape(durability))
    });
    html.push_str(&said.collect::<Vec<_>>().join("; "));
    html.push_str(".</p>\n</section>\n");
}

fn yardsticks(html: &mut String, run: &Run) {
    let rows = summary::point_rows(run).into_iter().map(|row| {
        row.into_iter()
            .map(|cell| match cell.split_once(" (") {
                Some((median, range)) => {
                    format!("{}<small>({}</small>", escape(median), escape(range))
                }
                None => escape(&cell),
            })
            .collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    html.push_str(
        "<section class=\"yardsticks\">\n<h2>Yardsticks</h2>\n<p>What the device does for plain \
         patterns, before and after each round.</p>\n",
    );
    table(html, &["point", "p50 µs", "p99 µs", "operations /s", "MB/s"], &rows);
    html.push_str("</section>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn the_page_needs_nothing_else_and_runs_nothing() {
        let page = page(&synthetic::run(2, 1.0)).unwrap();
        for word in ["<script", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
        for part in ["governor", "cpupower", "/data", "fio/commit/dsync-4k", "cedar", "p99.9"] {
            assert!(page.contains(part), "no {part}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn text_from_files_is_text_on_the_page() {
        let mut run = synthetic::run(1, 1.0);
        run.command.push("<script>alert(1)</script>".to_owned());
        run.rounds[0].measurements[0].target = "<b>".to_owned();
        let page = page(&run).unwrap();
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(page.contains("&lt;b&gt;"));
    }

    #[test]
    fn a_calibration_alone_is_a_page_of_yardsticks() {
        let mut run = synthetic::run(1, 1.0);
        run.rounds[0].measurements.clear();
        let page = page(&run).unwrap();
        assert!(page.contains("<h2>Yardsticks</h2>") && !page.contains("<h2>Aims</h2>"));
    }
}
