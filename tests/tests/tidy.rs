//! The rules of the source tree that a compiler does not check. Each message says what to do.
//!
//! Code inside a `#[cfg(test)]` module at the end of a file does not count for a file's length, nor
//! for what it may import: it is a guest there.
//!
//! Not here: formatting (rustfmt) and lints (clippy).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file.
const FILE_LINES_MAX: usize = 600;
/// Characters of a line.
const LINE_COLUMNS_MAX: usize = 100;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that are longer, with their length: it may only shrink, and the list with it.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Files of the engine that talk to the operating system (`buf` asks for huge pages, no more). All
/// others only decide.
const SHELL: &[&str] = &[
    "blocking", "buf", "engine", "files", "helm", "host", "inbox", "kept", "meta", "repair",
    "reply", "thread", "uring", "verify",
];

/// Files that may hold `unsafe` code.
const UNSAFE: &[&str] = &["buf", "uring"];

/// Modules that stand for one layer and may use each other, at the place of the last of them:
/// the `impl Shard` blocks of one shard in several files, and the handles of the API, which hold
/// the engine that makes them.
const LAYERS: &[&[&str]] = &[
    &[
        "roll",
        "load",
        "reads",
        "seek",
        "read",
        "owner",
        "ownership",
        "settings",
        "restore",
        "each",
        "carry",
        "expiry",
        "punch",
        "usage",
        "retention",
        "gauges",
        "serve",
        "open",
        "shard",
    ],
    &["request", "change"],
    &[
        "fetch",
        "stream",
        "reader",
        "bytes_io",
        "merged",
        "log",
        "writer",
        "processor",
        "options",
        "engine",
    ],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// One file of the tree.
struct Source {
    /// From the root, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The name of a module file of the engine: `shard`, or `format` for all that is under it.
    fn module(&self) -> Option<&str> {
        let inner = self.path.strip_prefix("engine/src/")?;
        Some(inner.split_once('/').map_or(inner.trim_end_matches(".rs"), |(module, _)| module))
    }

    /// The lines before the tests at the end, counted from 1, and without what stands in comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| *line != "#[cfg(test)]");
        let code = |line: &'_ str| line.find("//").map_or(line.len(), |comment| comment);
        (1..).zip(lines).map(move |(number, line)| (number, &line[..code(line)]))
    }
}

/// All files whose names end so, in the order of their paths.
fn sources(end: &str) -> Vec<Source> {
    fn visit(dir: &Path, end: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a directory of the tree") {
            let path = entry.expect("an entry of a directory").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let skipped = name.starts_with('.') || name == "target";
            if path.is_dir() && !skipped {
                visit(&path, end, found);
            } else if name.ends_with(end) {
                found.push(path);
            }
        }
    }
    let (root, mut paths) = (root(), Vec::new());
    visit(&root, end, &mut paths);
    paths.sort();
    let source = |path: PathBuf| Source {
        path: path.strip_prefix(&root).expect("it is in the tree").to_string_lossy().into_owned(),
        text: fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")),
    };
    paths.into_iter().map(source).collect()
}

fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n\n{}\n", findings.join("\n"));
}

#[test]
fn files_and_lines_are_short() {
    let mut findings = Vec::new();
    for source in sources(".rs") {
        let path = &source.path;
        let lines = source.code().count();
        if lines > FILE_LINES_MAX {
            findings.push(format!("{path}: {lines} lines; split it, {FILE_LINES_MAX} are allowed"));
        }
        for (number, line) in (1..).zip(source.text.lines()) {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX {
                findings.push(format!("{path}:{number}: {columns} columns; break the line"));
            }
        }
    }
    report(&findings);
}

/// Name, first line and length of each function in code that rustfmt has formatted.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let indent = &line[..line.len() - words.len()];
        let is_comment = words.starts_with("//");
        let Some((before, after)) = words.split_once("fn ").filter(|_| !is_comment) else {
            continue;
        };
        let modifier = |word: &str| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(&word)
        };
        if !before.split_whitespace().all(modifier) {
            continue;
        }
        let end = format!("{indent}}}");
        // The line that ends the signature says whether there is a body below.
        let opens = lines[index..].iter().position(|line| line.ends_with(['{', '}', ';']));
        let Some(opens) = opens.filter(|opens| lines[index + opens].ends_with('{')) else {
            continue;
        };
        let body = lines[index + opens..].iter().position(|line| *line == end);
        let name = after.split(['(', '<']).next().unwrap_or_default();
        found.push((name.to_owned(), index + 1, opens + body.unwrap_or(0) + 1));
    }
    found
}

#[test]
fn functions_are_short_or_shrink() {
    let mut findings = Vec::new();
    let mut left = LONG_FUNCTIONS.to_vec();
    for source in sources(".rs") {
        let path = &source.path;
        for (name, line, length) in functions(&source.text) {
            let listed = left.iter().position(|(file, known, _)| file == path && *known == name);
            let known = listed.map_or(FUNCTION_LINES_MAX, |index| left.swap_remove(index).2);
            if length > known {
                findings.push(format!(
                    "{path}:{line}: {name} has {length} lines, {known} are allowed; take steps \
                     out of it"
                ));
            } else if listed.is_some() && length < known {
                findings.push(format!(
                    "{path}:{line}: {name} has shrunk to {length} lines; write that into \
                     LONG_FUNCTIONS, or take it off if that is no more than {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    for (path, name, _) in left {
        findings.push(format!("{path}: there is no {name}; take it off LONG_FUNCTIONS"));
    }
    report(&findings);
}

#[test]
fn nothing_unfinished_lands() {
    let banned = [
        (concat!("db", "g!("), "use a test or tracing"),
        (concat!("tod", "o!("), "finish it, or return an error"),
        (concat!("unimpl", "emented!("), "finish it, or return an error"),
        (concat!("FIX", "ME"), "fix it, or write an issue"),
        (concat!("XX", "X"), "say what is meant"),
    ];
    let mut findings = Vec::new();
    for source in sources(".rs").into_iter().chain(sources(".md")) {
        for (number, line) in (1..).zip(source.text.lines()) {
            for (word, instead) in banned.iter().filter(|(word, _)| line.contains(word)) {
                findings.push(format!("{}:{number}: {word}; {instead}", source.path));
            }
        }
    }
    report(&findings);
}

#[test]
fn only_the_shell_touches_the_operating_system() {
    let outside = ["std::fs", "std::net", "std::thread", "std::time", "rustix::", "io_uring::"];
    let mut findings = Vec::new();
    for source in sources(".rs") {
        let Some(module) = source.module() else { continue };
        for (number, line) in source.code() {
            let path = &source.path;
            for word in outside.iter().filter(|word| line.contains(**word)) {
                // A duration is only a number.
                if !SHELL.contains(&module) && line.trim() != "use std::time::Duration;" {
                    findings.push(format!(
                        "{path}:{number}: {word}; time and files come in as arguments and \
                         operations (see io), only {SHELL:?} do them"
                    ));
                }
            }
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            if is_unsafe.iter().any(|word| line.contains(word)) && !UNSAFE.contains(&module) {
                findings.push(format!("{path}:{number}: unsafe code belongs into {UNSAFE:?}"));
            }
        }
    }
    report(&findings);
}

/// The modules of the engine in the order in which lib.rs names them.
fn modules() -> Vec<String> {
    let text = fs::read_to_string(root().join("engine/src/lib.rs")).expect("lib.rs is there");
    let name = |line: &str| {
        let line = line.strip_suffix(';')?;
        let name = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "));
        name.map(str::to_owned)
    };
    text.lines().filter_map(name).collect()
}

/// The modules that a line of code names after `crate::`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn modules_use_only_modules_above_them() {
    let modules = modules();
    let place = |name: &str| {
        let layer = LAYERS.iter().find(|layer| layer.contains(&name));
        let last = layer.and_then(|layer| layer.last()).unwrap_or(&name);
        modules.iter().position(|module| module == last)
    };
    let mut findings = Vec::new();
    for source in sources(".rs") {
        let Some(module) = source.module().filter(|module| *module != "lib") else { continue };
        let path = &source.path;
        let Some(own) = place(module) else {
            findings.push(format!("{path}: lib.rs does not name this module"));
            continue;
        };
        for (number, line) in source.code() {
            for name in named(line) {
                match place(name) {
                    Some(other) if other <= own => {}
                    Some(_) => findings.push(format!(
                        "{path}:{number}: {module} uses {name}, which is below it in lib.rs; \
                         hand it in as an argument, or move what both need up"
                    )),
                    None => findings.push(format!(
                        "{path}:{number}: crate::{name} is no module; name the module it is from"
                    )),
                }
            }
        }
    }
    for name in LAYERS.concat().into_iter().filter(|name| !modules.iter().any(|m| m == name)) {
        findings.push(format!("lib.rs has no module {name}; take it off LAYERS"));
    }
    report(&findings);
}

#[test]
fn every_module_says_what_it_is_and_what_it_is_not() {
    let mut findings = Vec::new();
    for source in sources(".rs") {
        // Modules of the engine and of the front end; their tests say what they are by their names.
        let is_module =
            source.path.starts_with("engine/src/") || source.path.starts_with("server/src/");
        if !is_module || source.path.ends_with("/lib.rs") || source.path.ends_with("tests.rs") {
            continue;
        }
        let head: Vec<&str> =
            source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        if !head.iter().any(|line| line.contains("Not here:")) {
            findings.push(format!(
                "{}: begin with `//!`: its job in one line, what holds, and \"Not here: ...\"",
                source.path
            ));
        }
    }
    report(&findings);
}

/// The lines of a text in markdown that are not inside a code block.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !fence && !in_block
    })
}

#[test]
fn documents_have_one_title_and_links_that_lead_somewhere() {
    let mut findings = Vec::new();
    for source in sources(".md") {
        let path = &source.path;
        let titles = prose(&source.text).filter(|(_, line)| line.starts_with("# ")).count();
        if titles != 1 {
            findings.push(format!("{path}: {titles} lines begin with \"# \"; have one title"));
        }
        for (number, line) in prose(&source.text) {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let target = link.split(['#', ' ']).next().unwrap_or_default();
                let elsewhere = target.contains("://") || target.starts_with("mailto:");
                let base = root().join(path);
                let base = base.parent().expect("a file is in a directory");
                if !elsewhere && !target.is_empty() && !base.join(target).exists() {
                    findings.push(format!("{path}:{number}: there is no {target}"));
                }
            }
        }
    }
    report(&findings);
}

/// Every rule that a text names: `(F-3)`, and all of `(F-5 to F-9)`.
fn cited(text: &str) -> BTreeSet<u32> {
    let mut rules = BTreeSet::new();
    let mut last: Option<u32> = None;
    for rest in text.replace("UTF-", "").split("F-").skip(1) {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(rule) = rest[..digits].parse::<u32>() else {
            last = None;
            continue;
        };
        rules.extend(last.unwrap_or(rule)..=rule);
        last = (&rest[digits..] == " to ").then_some(rule);
    }
    rules
}

/// The rules that a document states: headings that begin with the number.
fn stated(document: &str, letter: &str) -> Vec<u32> {
    let start = format!("### {letter}-");
    let headings = document.lines().filter_map(|line| line.strip_prefix(&start));
    headings.filter_map(|rest| rest.split('.').next()?.parse().ok()).collect()
}

#[test]
fn every_rule_of_the_format_is_kept_and_tested() {
    let document = fs::read_to_string(root().join("docs/format.md")).expect("docs/format.md");
    let rules = stated(&document, "F");
    let mut findings = Vec::new();
    if rules.iter().copied().ne(1..=17) {
        findings.push(format!("docs/format.md states {rules:?}; number the rules from 1 to 17"));
    }
    let cited_in = |part: &str| -> BTreeSet<u32> {
        let files = sources(".rs").into_iter().filter(|source| source.path.starts_with(part));
        let files = files.filter(|source| !source.path.ends_with("tidy.rs"));
        files.flat_map(|source| cited(&source.text)).collect()
    };
    for (part, what) in [("engine/src/", "code that keeps"), ("tests/", "a test that checks")] {
        let cited = cited_in(part);
        for rule in rules.iter().filter(|rule| !cited.contains(rule)) {
            findings.push(format!("{part}: name (F-{rule}) at {what} it"));
        }
        for rule in cited.iter().filter(|rule| !rules.contains(rule)) {
            findings.push(format!("{part}: (F-{rule}) is cited, docs/format.md has no such rule"));
        }
    }
    for rule in cited(&document).iter().filter(|rule| !rules.contains(rule)) {
        findings.push(format!("docs/format.md: F-{rule} is mentioned but not stated"));
    }
    report(&findings);
}

#[test]
fn citations_are_found_alone_and_in_ranges() {
    assert_eq!(cited("(F-3) and (F-5 to F-7), F-16."), BTreeSet::from([3, 5, 6, 7, 16]));
    assert_eq!(cited("UTF-8 is no rule"), BTreeSet::new());
}

#[test]
fn functions_are_measured() {
    let text = "fn a(\n    b: u8,\n) -> u8 {\n    b\n}\n\nimpl C {\n    pub const fn d() {}\n\
                \n    fn e() {\n    }\n}\ntrait T {\n    fn f();\n}\n";
    let found = functions(text);
    assert_eq!(found, [("a".to_owned(), 1, 5), ("e".to_owned(), 10, 2)]);
}
