//! A run as text: tables for the terminal, and rows for `docs/perf.md`.
//!
//! ```text
//! Run -> ratios: work, figure, median (min-max), yardstick, ratio, aim, reached or missed
//!     -> figures: work, target, latency, throughput, cost
//!     -> markdown rows: where it was measured, ours beside the yardstick and the best peer
//! ```
//!
//! Not here: the report with plots (`report`).

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use crate::figure::{self, Figure};
use crate::merged::{Group, Spread, command, groups, number};
use crate::outcome::Run;
use crate::ratio::{self, Against, Merged};

/// Prints the tables of a run to stdout, in colour if that is a terminal.
pub fn print(run: &Run) {
    print!("{}", text(run, std::io::stdout().is_terminal()));
}

/// The tables of a run.
#[must_use]
pub fn text(run: &Run, colour: bool) -> String {
    let merged = ratio::over_rounds(run);
    let mut text = String::new();
    let ratios = ratio_rows(&merged);
    if !ratios.is_empty() {
        let head = ["work", "figure", "median (min–max)", "yardstick", "its", "ratio", "aim", ""];
        text += &table(&head, &ratios, colour);
        text += "\n";
    }
    let figures: Vec<Vec<String>> = groups(run).iter().map(figure_row).collect();
    if !figures.is_empty() {
        text += &table(&FIGURES_HEAD, &figures, colour);
        text += "\n";
    }
    let points = point_rows(run);
    if !points.is_empty() {
        let head = ["yardstick", "p50 µs", "p99 µs", "operations/s", "MB/s"];
        text += &table(&head, &points, colour);
        text += "\n";
    }
    let (reached, aims) = aims(&merged);
    if aims > 0 {
        let _ = writeln!(text, "{reached} of {aims} aims reached; rounds: {}.", run.rounds.len());
    }
    text += &notes(run).iter().map(|note| format!("note: {note}\n")).collect::<String>();
    text
}

/// How many aims are reached, and how many there are that can be judged.
#[must_use]
pub fn aims(merged: &[Merged]) -> (usize, usize) {
    let aimed: Vec<bool> = merged.iter().filter_map(Merged::reached).collect();
    (aimed.iter().filter(|reached| **reached).count(), aimed.len())
}

/// What a reader should know before he believes the figures.
#[must_use]
pub fn notes(run: &Run) -> Vec<String> {
    let mut notes = Vec::new();
    if run.rounds.len() < 3 {
        notes.push("fewer than three rounds: the spread says little".to_owned());
    }
    let drift = ratio::drift(run).filter(|(_, change)| change.abs() > 0.2);
    if let Some((name, change)) = drift {
        notes.push(format!(
            "{name} changed by {:+.0} % within a round: the device is not quiet",
            change * 100.0
        ));
    }
    let early = run.rounds.iter().flat_map(|round| &round.measurements);
    let mut early: Vec<&str> =
        early.filter(|one| ratio::answers_early(one)).map(|one| &one.target[..]).collect();
    early.sort_unstable();
    early.dedup();
    let merged = ratio::over_rounds(run);
    let durable = merged.iter().filter(|one| !early.contains(&&one.first.target[..]));
    notes.extend(durable.filter_map(unbelievable));
    if !early.is_empty() {
        let names = early.join(", ");
        notes.push(format!("answers before it syncs, so is no yardstick: {names}"));
    }
    notes
}

fn unbelievable(one: &Merged) -> Option<String> {
    let Merged { first, ratio, yardstick, .. } = one;
    (!one.can_be()).then(|| {
        format!(
            "{}, {}: p50 is {} of {yardstick} in a round, which cannot be: not durable, or a \
             device that was not quiet",
            first.target,
            first.label,
            number(ratio.min)
        )
    })
}

/// Ratios that are worth a row: all with a yardstick or an aim, and those that no
/// column of the figures has.
pub(crate) fn is_shown(merged: &Merged) -> bool {
    let counts_alone = merged.first.figure == figure::IDLE.name;
    merged.first.against != Against::Nothing || merged.first.aim.is_some() || counts_alone
}

fn ratio_rows(merged: &[Merged]) -> Vec<Vec<String>> {
    let row = |one: &Merged| {
        let ours = ratio::is_ours(&one.first.target) && one.first.target == "oncelog";
        let target = if ours { String::new() } else { format!("{}: ", one.first.target) };
        let plain = one.first.against == Against::Nothing;
        vec![
            format!("{target}{}", one.first.label),
            one.first.figure.clone(),
            format!("{} {}", one.value, one.first.unit).trim_end().to_owned(),
            one.yardstick.clone(),
            one.yardstick_value.map_or_else(String::new, |spread| spread.to_string()),
            if plain { String::new() } else { one.ratio.to_string() },
            one.aim().unwrap_or_default(),
            one.verdict().to_owned(),
        ]
    };
    merged.iter().filter(|one| is_shown(one)).map(row).collect()
}

/// Columns of the table of figures behind work and target.
pub(crate) const FIGURES: [Figure; 9] = [
    figure::P50,
    figure::P99,
    figure::P999,
    figure::RECORDS,
    figure::PAYLOAD,
    figure::CPU,
    figure::WRITTEN,
    figure::FLUSHES,
    figure::MEMORY,
];

pub(crate) const FIGURES_HEAD: [&str; 11] = [
    "work",
    "target",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "records/s",
    "MB/s",
    "CPU µs a record",
    "device B/B",
    "flushes a record",
    "MiB",
];

/// What the rounds say of a column; nothing where it would mean nothing.
pub(crate) fn cell(group: &Group<'_>, figure: &Figure) -> Option<Spread> {
    let written = [figure::WRITTEN.name, figure::FLUSHES.name].contains(&figure.name);
    if written && !figure::writes(&group.spec().work) {
        return None;
    }
    group.spread(figure.of)
}

fn figure_row(group: &Group<'_>) -> Vec<String> {
    let cells = FIGURES.iter().map(|figure| cell(group, figure));
    let cells = cells.map(|cell| cell.map_or_else(|| "–".to_owned(), |cell| cell.to_string()));
    [group.label.clone(), group.target.to_owned()].into_iter().chain(cells).collect()
}

/// Each yardstick point over all rounds, before and after.
pub(crate) fn point_rows(run: &Run) -> Vec<Vec<String>> {
    let sides = || run.rounds.iter().flat_map(|round| [&round.before, &round.after]);
    let mut names: Vec<&String> = sides().flat_map(|side| side.points.keys()).collect();
    names.sort();
    names.dedup();
    let row = |name: &String| {
        let points = || sides().filter_map(|side| side.points.get(name));
        let columns = [
            Spread::of(points().map(|point| point.p50_us)),
            Spread::of(points().map(|point| point.p99_us)),
            Spread::of(points().map(|point| point.ops_per_s)),
            Spread::of(points().map(|point| point.mb_per_s)),
        ];
        let shown =
            columns.map(|cell| cell.map_or_else(|| "–".to_owned(), |cell| cell.to_string()));
        [name.clone()].into_iter().chain(shown).collect()
    };
    names.into_iter().map(row).collect()
}

/// Rows below a head, in columns as wide as they must be. Equal names below each other stand once.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], colour: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let paint = |text: &str, code: &str| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let line = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths);
        let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut text = paint(&line(head), "1") + "\n";
    let mut before = "";
    for row in rows {
        let mut cells: Vec<&str> = row.iter().map(String::as_str).collect();
        let same = row[0] == before;
        before = &row[0];
        if same {
            cells[0] = "";
        }
        let line = line(&cells);
        let code = match row.last().map(String::as_str) {
            Some("reached") => Some("32"),
            Some("missed" | "cannot be") => Some("31"),
            _ => None,
        };
        text += &code.map_or_else(|| line.clone(), |code| paint(&line, code));
        text += "\n";
    }
    text
}

/// Columns of the rows for `docs/perf.md`.
pub const MARKDOWN_HEAD: &str = "\
| commit | machine | kernel | flush mode | command | work | yardstick | ours | ratio \
| best peer | ratio |
|---|---|---|---|---|---|---|---|---|---|---|
";

/// Rows for `docs/perf.md`, one for each work of the engine that has a yardstick or a peer.
#[must_use]
pub fn markdown_rows(run: &Run) -> String {
    let merged = ratio::over_rounds(run);
    let facts = [&["processor", "cpu", "machine"][..], &["kernel"], &["write cache", "flush"]];
    let [machine, kernel, flush] = facts.map(|names| fact(run, names));
    let command = format!("`{}`", command(run));
    let place = [run.commit.as_str(), &machine, &kernel, &flush, &command].map(escape).join(" | ");
    let mut text = String::new();
    for group in groups(run).iter().filter(|group| ratio::is_ours(group.target)) {
        let find = |kinds: &[Against]| {
            let mut of_group = merged
                .iter()
                .filter(|one| one.first.label == group.label && one.first.target == group.target);
            of_group.find(|one| kinds.contains(&one.first.against))
        };
        let beside = |one: &Merged| {
            let value = one.yardstick_value.map_or_else(String::new, |value| value.to_string());
            format!("{}: {value} {}", one.yardstick, one.first.unit)
        };
        let (device, peer) = (find(&[Against::Device, Against::Own]), find(&[Against::Peer]));
        if device.is_none() && peer.is_none() {
            continue;
        }
        let main = figure::main_of(&group.spec().work);
        let name = device.map_or(main.name, |one| one.first.figure.as_str());
        let ours = device.map(|one| (one.value, one.first.unit.as_str()));
        let ours = ours.or_else(|| Some((group.spread(main.of)?, main.unit)));
        let ours = ours.map_or_else(String::new, |(value, unit)| format!("{name} {value} {unit}"));
        let ratio =
            |one: Option<&Merged>| one.map_or_else(String::new, |one| one.ratio.to_string());
        let columns = [
            group.label.clone(),
            device.map_or_else(String::new, beside),
            ours,
            ratio(device),
            peer.map_or_else(String::new, beside),
            ratio(peer),
        ];
        let columns = columns.map(|column| escape(column.trim())).join(" | ");
        let _ = writeln!(text, "| {place} | {columns} |");
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The first fact whose name begins with one of these, in their order.
pub(crate) fn fact(run: &Run, names: &[&str]) -> String {
    let find = |name: &&str| run.host.iter().find(|fact| fact.name.starts_with(name));
    names.iter().find_map(find).map_or_else(|| "?".to_owned(), |fact| fact.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn each_ratio_is_a_row_with_its_aim_and_whether_it_is_reached() {
        let text = text(&synthetic::run(3, 1.0), false);
        let row = text.lines().find(|line| line.starts_with("append, 1 in flight, 1 KiB")).unwrap();
        for part in ["p50", "fio/commit/dsync-4k", "≤ 1.15", "reached"] {
            assert!(row.contains(part), "no {part}: {row}");
        }
        let slower = super::text(&synthetic::run(3, 1.3), false);
        let row = slower.lines().find(|line| line.starts_with("append, 1 in flight, 1 KiB"));
        assert!(row.unwrap().contains("missed"), "{row:?}");
        assert!(text.contains("answers before it syncs, so is no yardstick: cedar"));
        assert!(
            !text.contains('\x1b') && super::text(&synthetic::run(1, 1.0), true).contains('\x1b')
        );
    }

    #[test]
    fn a_yardstick_that_cannot_be_is_pointed_out() {
        let found = |slower| -> Vec<String> {
            let mut notes = notes(&synthetic::run(3, slower));
            notes.retain(|note| note.contains("which cannot be"));
            notes
        };
        // Nor is it said of cedar, which is known to answer early.
        assert_eq!(found(1.0), Vec::<String>::new());
        let faster = found(0.5);
        assert!(faster.iter().all(|note| note.starts_with("oncelog")), "{faster:?}");
        let text = text(&synthetic::run(3, 0.5), false);
        let judged = text.lines().any(|line| line.contains("1.15") && line.ends_with("cannot be"));
        assert!(judged, "{text}");
        assert!(faster[0].starts_with("oncelog, append, 1 in flight, 1 KiB: p50 is 0.54"));
    }

    #[test]
    fn columns_stand_below_each_other_whatever_is_in_them() {
        let rows = [["µs µs µs", "b"], ["", "c"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&["x", "y"], &rows, false), "x         y\nµs µs µs  b\n          c\n");
    }

    #[test]
    fn markdown_rows_have_as_many_columns_as_their_head() {
        let mut run = synthetic::run(2, 1.0);
        run.command.push("a|b".to_owned());
        let text = markdown_rows(&run);
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let head = columns(MARKDOWN_HEAD.lines().next().unwrap());
        assert!(text.lines().count() > 10 && text.lines().all(|line| columns(line) == head));
        let row = text.lines().find(|line| line.contains("append, 64 in flight, 1 KiB |"));
        assert!(row.is_some_and(|row| row.contains("alder:")), "{row:?}");
    }
}
