//! The tables of the page: logs, processors, space, shards, the host, requests.
//!
//! Not here: the page around them (`page`).

use oncelog::{LogInfo, SyncMethod};

use super::page::Html;
use super::sample::PAGE_LOGS;
use super::text::{Esc, age, bytes, count, encode, micros, rate};
use super::view::View;

/// Processors that are shown.
const PROCESSORS: usize = 20;
/// Logs that are shown for the dead bytes that they keep.
const KEEPERS: usize = 5;

fn empty(html: &mut Html, text: &str) {
    html.put(format_args!("<div class=\"empty\">{}</div>", Esc(text)));
}

fn head(html: &mut Html, title: &str, more: &str) {
    html.put(format_args!(
        "<div class=\"head\"><h2>{title}</h2><span class=\"soft\">{}</span></div>",
        Esc(more)
    ));
}

/// Begins a table. Columns whose titles begin with `#` are numbers.
fn begin(html: &mut Html, columns: &[&str]) {
    html.put(format_args!("<div class=\"scroll\"><table><thead><tr>"));
    for column in columns {
        match column.strip_prefix('#') {
            Some(column) => html.put(format_args!("<th class=\"n w\">{column}</th>")),
            None => html.put(format_args!("<th>{column}</th>")),
        }
    }
    html.put(format_args!("</tr></thead><tbody>"));
}

fn end(html: &mut Html) {
    html.put(format_args!("</tbody></table></div>"));
}

/// The logs of the page.
pub(super) fn logs(html: &mut Html, view: &View) {
    let page = match &view.logs {
        Ok(page) => page,
        Err(why) => return empty(html, why),
    };
    if page.logs.is_empty() {
        let whose = if view.prefix.is_empty() { "" } else { " whose name begins so" };
        return empty(html, &format!("There is no log{whose}."));
    }
    begin(html, &["Name", "#Records", "#Next", "#Appended/s", "#Bytes ever", "State"]);
    for (log, pace) in page.logs.iter().zip(&page.paces) {
        html.put(format_args!(
            "<tr><td class=\"name-cell\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"soft\">{}</td></tr>",
            Esc(&log.name),
            count(log.len()),
            count(log.next.get()),
            pace.map_or_else(|| "-".to_owned(), rate),
            bytes(log.bytes),
            state(log)
        ));
    }
    end(html);
    if view.after.is_empty() && !page.more {
        return;
    }
    html.put(format_args!("<div class=\"pager\">"));
    let prefix = encode(&view.prefix);
    if !view.after.is_empty() {
        html.put(format_args!("<a id=\"first\" href=\"?prefix={prefix}\">first page</a>"));
    }
    if let Some(last) = page.logs.last().filter(|_| page.more) {
        html.put(format_args!(
            "<a id=\"next\" href=\"?prefix={prefix}&amp;after={}\">next {PAGE_LOGS}</a>",
            encode(&last.name)
        ));
    }
    html.put(format_args!("</div>"));
}

fn state(log: &LogInfo) -> String {
    let mut states = Vec::new();
    if log.sealed {
        states.push("sealed".to_owned());
    }
    if log.owner.get() > 0 {
        states.push(format!("owner {}", log.owner));
    }
    if log.first.get() > 0 {
        states.push(format!("begins at {}", count(log.first.get())));
    }
    if states.is_empty() { "open".to_owned() } else { states.join(", ") }
}

/// Processors, those that are furthest behind first.
pub(super) fn processors(html: &mut Html, view: &View) {
    let all = match &view.processors {
        Ok(all) => all,
        Err(why) => {
            head(html, "Processors", "");
            return empty(html, why);
        }
    };
    let shown = match all.len() {
        0..=PROCESSORS => count(all.len() as u64),
        more => format!("{}, the {PROCESSORS} furthest behind", count(more as u64)),
    };
    head(html, "Processors", &shown);
    if all.is_empty() {
        return empty(html, "There is no processor.");
    }
    begin(html, &["Name", "#Lag", "#Commits", "#Owner", "Sources, and lag of each"]);
    for processor in all.iter().take(PROCESSORS) {
        html.put(format_args!(
            "<tr><td class=\"name-cell\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"soft\">",
            Esc(&processor.name),
            count(processor.lag()),
            count(processor.commits),
            processor.epoch,
        ));
        for (at, source) in processor.sources.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            html.put(format_args!("{comma}{} {}", Esc(&source.log), count(source.lag())));
        }
        html.put(format_args!("</td></tr>"));
    }
    end(html);
}

/// Segments by state, and where the space is.
pub(super) fn space(html: &mut Html, view: &View) {
    let Some(seen) = &view.space else {
        head(html, "Segments and space", "");
        return empty(html, "The segments are being looked at.");
    };
    let shards = &seen.space.shards;
    let looked = format!("looked at {} ago", age(seen.at.elapsed()));
    head(html, "Segments and space", &looked);
    let segments = || shards.iter().flat_map(|shard| &shard.segments);
    let active = segments().filter(|segment| !segment.sealed);
    let active = active.fold((0, 0), |(n, sum), segment| (n + 1, sum + segment.disk_bytes));
    let sealed = segments().filter(|segment| segment.sealed).count() as u64;
    let live = segments().filter(|segment| segment.sealed).map(|segment| segment.live_bytes).sum();
    let dead = segments().map(|segment| segment.dead_bytes()).sum();
    let spares = shards.iter().map(|shard| shard.spares).sum();
    let spare_bytes = shards.iter().map(|shard| shard.spare_bytes).sum();
    let parts: [(&str, &str, u64); 4] = [
        ("active", "being written", active.1),
        ("live", "sealed, live records", live),
        ("dead", "sealed, beside them", dead),
        ("spare", "spare", spare_bytes),
    ];
    stack(html, &parts);
    begin(html, &["Segments", "#Number", "#Bytes"]);
    let rows = [
        ("being written", active),
        ("sealed", (sealed, live + dead)),
        ("spare", (spares, spare_bytes)),
    ];
    for (name, (number, size)) in rows {
        html.put(format_args!(
            "<tr><td>{name}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            count(number),
            bytes(size)
        ));
    }
    end(html);
    let mut keepers: Vec<_> = shards.iter().flat_map(|shard| &shard.logs).collect();
    keepers.retain(|log| log.keeps_bytes > 0);
    keepers.sort_by_key(|log| std::cmp::Reverse(log.keeps_bytes));
    if keepers.is_empty() {
        return;
    }
    html.put(format_args!("<h3>Logs that keep the most dead bytes</h3>"));
    begin(html, &["Name", "#Keeps", "#Live"]);
    for log in keepers.iter().take(KEEPERS) {
        html.put(format_args!(
            "<tr><td class=\"name-cell\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Esc(&log.name),
            bytes(log.keeps_bytes),
            bytes(log.live_bytes)
        ));
    }
    end(html);
}

/// One bar of several parts, and what they are.
fn stack(html: &mut Html, parts: &[(&str, &str, u64)]) {
    let all = parts.iter().map(|(_, _, size)| size).sum::<u64>().max(1) as f64;
    html.put(format_args!(
        "<svg class=\"stack\" viewBox=\"0 0 1000 18\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"parts of the space\">"
    ));
    let mut left = 0.0;
    for (class, _, size) in parts {
        let width = *size as f64 / all * 1000.0;
        html.put(format_args!(
            "<rect class=\"k-{class}\" x=\"{left:.2}\" width=\"{width:.2}\" height=\"18\"/>"
        ));
        left += width;
    }
    html.put(format_args!("</svg><div class=\"legend\">"));
    for (class, name, size) in parts {
        html.put(format_args!(
            "<span><svg viewBox=\"0 0 10 10\"><rect class=\"k-{class}\" width=\"10\" \
             height=\"10\" rx=\"2\"/></svg>{name} <span class=\"soft\">{}</span></span>",
            bytes(*size)
        ));
    }
    html.put(format_args!("</div>"));
}

/// Shards, and how each does its I/O.
pub(super) fn shards(html: &mut Html, view: &View) {
    let info = match &view.info {
        Ok(info) => info,
        Err(why) => {
            head(html, "Shards", "");
            return empty(html, why);
        }
    };
    head(html, "Shards", &count(info.shards.len() as u64));
    begin(html, &["Shard", "I/O", "Durable by", "#Records", "#Waiting", "State"]);
    for shard in &info.shards {
        let metrics = view.metrics.as_ref().ok();
        let mut shards = metrics.into_iter().flat_map(|metrics| &metrics.shards);
        let counted = shards.find(|(id, _)| *id == shard.shard).map(|(_, counted)| counted);
        let method = match shard.stats.sync_method {
            SyncMethod::Fdatasync => "fdatasync",
            _ => "RWF_DSYNC",
        };
        let state =
            if shard.stats.no_space { "<span class=\"bad\">disk full</span>" } else { "ok" };
        html.put(format_args!(
            "<tr><td>{}</td><td>{}{}</td><td>{method}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{state}</td></tr>",
            shard.shard,
            Esc(shard.runner.kind),
            shard.runner.core.map_or_else(String::new, |core| format!(", core {core}")),
            count(counted.map_or(0, |counted| counted.append_records)),
            bytes(counted.map_or(0, |counted| counted.inbox_bytes)),
        ));
    }
    end(html);
    if let Some(why) = info.shards.iter().find_map(|shard| shard.runner.ring_refused.as_ref()) {
        empty(html, &format!("No ring: {why}"));
    }
}

/// What the engine stands on.
pub(super) fn host(html: &mut Html, view: &View) {
    head(html, "Disk", "");
    let Ok(info) = &view.info else { return empty(html, "The engine is closed.") };
    let host = &info.host;
    let said =
        |flag: Option<bool>, yes, no| flag.map_or("unknown", |flag| if flag { yes } else { no });
    let rows = [
        ("File system", host.file_system.clone()),
        ("Mounted", host.source.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("Page cache", if info.direct_io { "bypassed" } else { "used" }.to_owned()),
        ("Write cache", said(host.write_back, "volatile, flushed", "writes through").to_owned()),
        ("Writes through it (FUA)", said(host.fua, "yes", "no").to_owned()),
        ("Segments", format!("{} each", bytes(info.segment_size))),
    ];
    html.put(format_args!("<div class=\"scroll\"><table><tbody>"));
    for (name, value) in &rows {
        html.put(format_args!("<tr><td class=\"soft\">{name}</td><td>{}</td></tr>", Esc(value)));
    }
    end(html);
}

/// Requests by verb, errors by word, and bytes.
pub(super) fn front(html: &mut Html, view: &View) {
    let front = &view.front;
    let traffic = format!("{} in, {} out", bytes(front.bytes_in), bytes(front.bytes_out));
    head(html, "Requests", &traffic);
    let used: Vec<_> = front.verbs.iter().filter(|verb| verb.requests > 0).collect();
    if used.is_empty() {
        empty(html, "There was no request yet.");
    } else {
        let columns = ["Verb", "#Requests", "#Under way", "#Median within", "#99 % within"];
        begin(html, &columns);
        for verb in used {
            let within = |part| match verb.answered() {
                0 => "-".to_owned(),
                _ => micros(verb.quantile_us(part)),
            };
            html.put(format_args!(
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                Esc(verb.name),
                count(verb.requests),
                count(verb.in_flight()),
                within(0.5),
                within(0.99),
            ));
        }
        end(html);
    }
    let refused = front.refused.iter().filter(|(_, times)| *times > 0);
    let refused = refused.map(|(why, times)| format!("{} by {}", count(*times), why.name()));
    let errors = front.errors.iter().filter(|(_, times)| *times > 0);
    let errors = errors.map(|(word, times)| format!("{} {word}", count(*times)));
    for (title, all) in [
        ("Errors answered", errors.collect::<Vec<_>>()),
        ("Connections refused", refused.collect::<Vec<_>>()),
    ] {
        if !all.is_empty() {
            html.put(format_args!("<h3>{title}</h3><div>{}</div>", Esc(&all.join(", "))));
        }
    }
}
