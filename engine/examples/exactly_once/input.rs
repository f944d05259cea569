//! The input: files, read line by line as bytes, from any line on, as often as wanted.
//!
//! A line ends with `\n`, which is no part of it, or with its file. Nothing else is looked at:
//! lines may be empty, and need not be UTF-8.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::Result;

/// The longest line: its words must fit into one commit.
const LINE_SIZE_MAX: u64 = 512 << 10;

/// Files, one behind the other, all of it `repeat` times.
pub(crate) struct Input {
    files: Vec<PathBuf>,
    repeat: u64,
}

impl Input {
    pub(crate) fn new(files: Vec<PathBuf>, repeat: u64) -> Self {
        Self { files, repeat }
    }

    /// What the command line names. The standard input is copied to `spool`: the worker reads it
    /// again each time it is started.
    pub(crate) fn find(names: &[OsString], repeat: u64, spool: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for name in names {
            if name == "-" {
                std::io::copy(&mut std::io::stdin().lock(), &mut File::create_new(spool)?)?;
                files.push(spool.to_owned());
            } else {
                find_files(Path::new(name), &mut files)?;
            }
        }
        if names.is_empty() {
            let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
            files.push(data.join("king-james-bible.txt"));
        }
        Ok(Self { files, repeat })
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(crate) fn repeat(&self) -> u64 {
        self.repeat
    }

    pub(crate) fn lines(&self) -> Lines<'_> {
        let files = (0..self.repeat).flat_map(|_| self.files.iter().map(PathBuf::as_path));
        Lines { files: Box::new(files), open: None, line: Vec::new() }
    }
}

/// A file, the files below a directory, or those that fit a pattern, each sorted by name.
fn find_files(name: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| format!("{}: {error}", name.display());
    let pattern = match fs::metadata(name) {
        Ok(found) if found.is_file() => {
            files.push(std::path::absolute(name)?);
            return Ok(());
        }
        Ok(found) if found.is_dir() => {
            let dir = name.to_str().ok_or("directories must have names in UTF-8")?;
            format!("{}/**/*", glob::Pattern::escape(dir))
        }
        Ok(_) => return Err(failed("not a file; use '-' to read from a pipe".into()).into()),
        Err(error) => match name.to_str() {
            Some(pattern) if pattern.contains(['*', '?', '[']) => pattern.to_owned(),
            _ => return Err(failed(error.to_string()).into()),
        },
    };
    let before = files.len();
    for path in glob::glob(&pattern)? {
        let path = path?;
        if path.is_file() {
            files.push(std::path::absolute(path)?);
        }
    }
    if files.len() == before {
        return Err(failed("no file is there".into()).into());
    }
    Ok(())
}

/// Lines of an input, in order.
pub(crate) struct Lines<'a> {
    files: Box<dyn Iterator<Item = &'a Path> + 'a>,
    open: Option<(&'a Path, BufReader<File>)>,
    line: Vec<u8>,
}

impl Lines<'_> {
    /// The next line, or `None` behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.files.next() else { return Ok(None) };
                let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
                self.open = Some((path, BufReader::with_capacity(256 << 10, file)));
            }
            let (path, reader) = self.open.as_mut().expect("it was just opened");
            self.line.clear();
            let mut reader = reader.by_ref().take(LINE_SIZE_MAX + 1);
            let read = reader.read_until(b'\n', &mut self.line);
            let read = read.map_err(|e| format!("{}: {e}", path.display()))?;
            if self.line.ends_with(b"\n") {
                self.line.pop();
            }
            if self.line.len() as u64 > LINE_SIZE_MAX {
                let path = path.display();
                return Err(format!("{path}: a line is over {LINE_SIZE_MAX} bytes").into());
            }
            if read > 0 {
                return Ok(Some(&self.line));
            }
            self.open = None;
        }
    }

    /// Leaves out the next `count` lines.
    pub(crate) fn skip(&mut self, count: u64) -> Result<()> {
        for line in 0..count {
            if self.next()?.is_none() {
                return Err(format!("the input has {line} lines, but {count} are stored").into());
            }
        }
        Ok(())
    }
}
