//! What the documents name is there: the tests of the table of features, and the program of each
//! tutorial.
//!
//! Not here: what the programs print (the gate runs them and compares it with their pages), and
//! links (`tidy`).

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of the rows of all tables, without their heads.
fn rows(document: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<&str> = document.lines().collect();
    let is_row = |line: &str| line.starts_with("| ") && line.ends_with(" |");
    let bodies = (1..lines.len()).filter(move |at| {
        // The head is the row above the rule.
        let below = lines.get(at + 1).unwrap_or(&"");
        is_row(lines[*at]) && !below.starts_with("|---")
    });
    let lines: Vec<&str> = document.lines().collect();
    bodies.map(move |at| lines[at].trim_matches('|').split(" | ").map(str::trim).collect())
}

/// Whether `file` has a test of this name.
fn has_test(file: &str, name: &str) -> bool {
    let Ok(text) = fs::read_to_string(root().join(file)) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begin = format!("fn {name}(");
    let at = lines.iter().position(|line| line.starts_with(&begin));
    at.is_some_and(|at| lines[..at].iter().rev().take(3).any(|line| *line == "#[test]"))
}

#[test]
fn each_feature_names_a_test_that_is_there() {
    let document = text("docs/features.md");
    let (there, absent) = document.split_once("## Deliberately not there").expect("two parts");
    let mut findings = Vec::new();
    let mut tests = 0;
    for row in rows(there) {
        let [feature, _, _, shown] = row[..] else { panic!("not four cells: {row:?}") };
        let named: Vec<_> = shown.split('`').filter_map(|word| word.split_once("::")).collect();
        if named.is_empty() {
            findings.push(format!("{feature}: name a test that shows it, `file::name`"));
        }
        tests += named.len();
        for (file, name) in named.into_iter().filter(|(file, name)| !has_test(file, name)) {
            findings.push(format!("{feature}: {file} has no test {name}"));
        }
    }
    for row in rows(absent) {
        let [feature, _, why] = row[..] else { panic!("not three cells: {row:?}") };
        if why.is_empty() {
            findings.push(format!("{feature}: say why it is not there"));
        }
    }
    assert!(findings.is_empty(), "\n\ndocs/features.md:\n{}\n", findings.join("\n"));
    assert!(tests > 40, "only {tests} tests were found: the table is not read as it is written");
}

#[test]
fn each_tutorial_has_a_program_and_a_place_in_the_index() {
    let index = text("docs/tutorials/README.md");
    let mut pages = 0;
    for entry in fs::read_dir(root().join("docs/tutorials")).expect("a directory of the tree") {
        let name = entry.expect("an entry of a directory").file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".md")).expect("a page");
        if name == "README" {
            continue;
        }
        pages += 1;
        let (page, program) = (
            text(&format!("docs/tutorials/{name}.md")),
            text(&format!("engine/examples/{name}.rs")),
        );
        assert!(index.contains(&format!("({name}.md)")), "docs/tutorials/README.md: add {name}");
        let command = format!("cargo run --release --example {name}\n");
        assert!(page.contains(&command), "{name}.md: begin with the command");
        assert!(page.contains("\n```text\n"), "{name}.md: show what the program prints");
        assert!(program.contains(&format!("docs/tutorials/{name}.md")), "{name}.rs: name its page");
        quotes_stand_in_the_program(name, &page, &program);
    }
    assert!(pages > 0);
}

/// Each line of code that a page quotes is a line of its program, but for its indent, a comment at
/// its end, and what `..` stands for.
fn quotes_stand_in_the_program(name: &str, page: &str, program: &str) {
    let program: Vec<&str> = program.lines().map(code).collect();
    let (mut quoted, mut findings) = (false, Vec::new());
    for line in page.lines() {
        if line.starts_with("```") {
            quoted = line == "```rust,ignore";
            continue;
        }
        let line = code(line.split(" ..").next().unwrap_or_default());
        if quoted && !program.iter().any(|other| other.starts_with(line)) {
            findings.push(line);
        }
    }
    assert!(findings.is_empty(), "{name}.md quotes what is not in its program: {findings:#?}");
}

/// A line without indent and comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim()
}
