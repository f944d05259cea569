//! The page for people: HTML from the server, whole without a script. The script only fetches it
//! again and puts in what changed.
//!
//! Invariants:
//! - Every text that is not from here is escaped, and the policy lets no script and no style run
//!   but the two that belong to the page (by their hashes).
//! - What changes has a place of fixed size: nothing jumps.
//!
//! Not here: finding out what is shown (`view`), numbers as text (`text`), the tables (`tables`).

use std::fmt::{self, Write};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::Stage;
use super::sample::{POINTS_MAX, Pace};
use super::tables;
use super::text::{Esc, age, byte_rate, bytes, count, micros, rate};
use super::view::View;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Width and height of the curve, in units of its own.
const CURVE: (f64, f64) = (300.0, 60.0);

/// What a browser is allowed to do with the page.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; \
             connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
             frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE)
        )
    });
    &POLICY
}

/// HTML that grows.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// Adds to it. What is not from here goes in as [`Esc`].
    pub(super) fn put(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes everything");
    }
}

/// The whole page.
pub(super) fn render(view: &View) -> String {
    let mut html = Html::default();
    html.put(format_args!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>oncelog</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    ));
    html.put(format_args!("<div class=\"bar\"><header class=\"top\" id=\"top\" data-live>"));
    header(&mut html, view);
    html.put(format_args!("</header><span id=\"live\">as it was when loaded</span></div>\n"));
    html.put(format_args!("<div id=\"notes\" data-live>"));
    notes(&mut html, view);
    html.put(format_args!("</div>\n<div class=\"tiles\" id=\"tiles\" data-live>"));
    tiles(&mut html, view);
    html.put(format_args!("</div>\n"));
    logs_section(&mut html, view);
    section(&mut html, "processors", |html| tables::processors(html, view));
    html.put(format_args!("<div class=\"pair\"><div>"));
    section(&mut html, "space", |html| tables::space(html, view));
    html.put(format_args!("</div><div>"));
    section(&mut html, "shards", |html| tables::shards(html, view));
    section(&mut html, "host", |html| tables::host(html, view));
    html.put(format_args!("</div></div>\n"));
    section(&mut html, "front", |html| tables::front(html, view));
    html.put(format_args!(
        "<footer>Figures for Prometheus: <a href=\"metrics\">/metrics</a>. \
         Health: <a href=\"healthz\">/healthz</a>, <a href=\"readyz\">/readyz</a>.</footer>\n\
         </main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    ));
    html.0
}

fn section(html: &mut Html, id: &str, fill: impl FnOnce(&mut Html)) {
    html.put(format_args!("<section id=\"{id}\" data-live>"));
    fill(html);
    html.put(format_args!("</section>\n"));
}

fn logs_section(html: &mut Html, view: &View) {
    html.put(format_args!(
        "<section><div class=\"head\"><h2>Logs</h2><span class=\"soft\" id=\"log-count\" \
         data-live>"
    ));
    if let Ok(metrics) = &view.metrics {
        html.put(format_args!("{}", count(metrics.total.logs)));
    }
    html.put(format_args!(
        "</span><form action=\"./\" method=\"get\" role=\"search\"><input type=\"search\" \
         name=\"prefix\" value=\"{}\" placeholder=\"name begins with\" maxlength=\"255\" \
         aria-label=\"Names of logs begin with\" autocomplete=\"off\" spellcheck=\"false\">\
         <button>Show</button></form></div><div id=\"logs\" data-live>",
        Esc(&view.prefix)
    ));
    tables::logs(html, view);
    html.put(format_args!("</div></section>\n"));
}

fn header(html: &mut Html, view: &View) {
    let stopped = view.pulse.as_ref().is_ok_and(|pulse| pulse.stopped.is_some());
    let (class, state) = match view.stage {
        Stage::Stopping => ("warn", "stopping"),
        _ if stopped => ("bad", "stopped"),
        Stage::Starting => ("warn", "starting"),
        Stage::Ready => ("good", "ready"),
    };
    html.put(format_args!(
        "<h1>oncelog</h1><span class=\"pill {class}\">{state}</span>\
         <span class=\"soft\">version {}</span><span class=\"soft\">up {}</span>",
        env!("CARGO_PKG_VERSION"),
        age(view.uptime)
    ));
    if let Ok(info) = &view.info {
        let dir = info.dir.to_string_lossy();
        html.put(format_args!("<span class=\"soft dir\">{}</span>", Esc(&dir)));
    }
}

fn notes(html: &mut Html, view: &View) {
    let mut note = |class: &str, text: &str| {
        html.put(format_args!("<p class=\"note {class}\">{}</p>", Esc(text)));
    };
    match &view.pulse {
        Ok(pulse) => {
            if let Some(why) = &pulse.stopped {
                note("bad", why);
            }
            if pulse.without_space > 0 {
                note("bad", "The disk is full: appends are refused until space is given back.");
            }
        }
        Err(why) => note("bad", why),
    }
    if let Ok(info) = &view.info
        && !info.durable
    {
        let why = info.host.why_not.as_deref().unwrap_or("the file system does not promise it");
        note("warn", &format!("What is acknowledged may not survive a power cut: {why}."));
    }
    if let Ok(metrics) = &view.metrics {
        let damaged = metrics.total.read_refused(oncelog::metrics::ReadRefusal::Damaged);
        if damaged > 0 {
            let times = count(damaged);
            note("bad", &format!("{times} reads met damage on the disk: check the directory."));
        }
    }
}

fn tile(html: &mut Html, name: &str, value: &str, unit: &str, more: &str) {
    html.put(format_args!(
        "<div class=\"tile\"><div class=\"name\">{name}</div><div class=\"value\">{value} \
         <span class=\"unit\">{unit}</span></div><div class=\"more\">{more}</div></div>"
    ));
}

fn tiles(html: &mut Html, view: &View) {
    let (pace, front) = (view.pace(), &view.front);
    let more = format!("{}, last {:.0} s", byte_rate(pace.append_bytes), pace.seconds.max(1.0));
    html.put(format_args!(
        "<div class=\"tile wide\"><div><div class=\"name\">Appended</div><div class=\"value\">{} \
         <span class=\"unit\">records/s</span></div><div class=\"more\">{more}</div></div>",
        rate(pace.append_records)
    ));
    curve(html, &view.paces);
    html.put(format_args!("</div>"));
    engine_tiles(html, view);
    let more =
        format!("{} under way, {} followers", count(front.in_flight()), count(front.followers()));
    tile(html, "Clients", &count(front.connections_open()), "connections", &more);
    let errors = front.errors.iter().map(|(_, times)| times).sum();
    let refused = front.refused.iter().map(|(_, times)| times).sum();
    let more = format!("connections refused: {}", count(refused));
    tile(html, "Errors", &count(errors), "answered", &more);
}

fn engine_tiles(html: &mut Html, view: &View) {
    let Ok(metrics) = &view.metrics else {
        for name in ["Durable within", "Read", "Committed", "On the disk"] {
            tile(html, name, "-", "", "not known");
        }
        return;
    };
    let (total, pace) = (&metrics.total, view.pace());
    let [p50, p99] = [0.5, 0.99].map(|part| micros(total.append_latency.quantile(part)));
    tile(html, "Durable within", &p50, "", &format!("median; 99 % within {p99}"));
    let reads = format!("{} waiting at the tail", count(total.reads_parked));
    tile(html, "Read", &rate(pace.read_records), "records/s", &reads);
    let processors = format!("{} processors", count(total.processors));
    tile(html, "Committed", &rate(pace.commits), "commits/s", &processors);
    let waiting = format!("{} wait to be taken", bytes(total.inbox_bytes));
    tile(html, "On the disk", &bytes(total.segment_file_bytes), "", &waiting);
}

/// The pace of appends over the last looks.
fn curve(html: &mut Html, paces: &[Pace]) {
    let (width, height) = CURVE;
    let top = paces.iter().map(|pace| pace.append_records).fold(1.0, f64::max);
    let step = width / (POINTS_MAX - 2) as f64;
    let mut points = String::new();
    for (age, pace) in paces.iter().rev().enumerate() {
        let x = width - age as f64 * step;
        let y = height - 2.0 - (height - 4.0) * pace.append_records / top;
        write!(points, "{x:.1},{y:.1} ").expect("a String takes everything");
    }
    let left = width - paces.len().saturating_sub(1) as f64 * step;
    html.put(format_args!(
        "<svg class=\"curve\" viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" \
         role=\"img\" aria-label=\"records appended in a second, over the last minutes\">\
         <polygon points=\"{points}{left:.1},{height} {width},{height}\"/>\
         <polyline points=\"{points}\"/></svg>"
    ));
}
