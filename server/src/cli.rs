//! The `oncelog` command: what can be asked of a directory or a server, and how it answers.
//!
//! ```text
//! arguments -> Command -> Target (a directory | a server) -> Out: text, or JSON with --json
//!                                    '-> Fail -> standard error, exit code
//! ```
//!
//! Invariants:
//! - What was asked for goes to standard output, everything else to standard error.
//! - A reader that closes standard output ends the command quietly.
//! - Looking makes no engine: only `create` does.
//!
//! Not here: the commands themselves (a module each), and the server.

mod append;
mod bench;
mod checkpoint;
mod control;
mod dlsn;
mod doctor;
mod dump;
mod export;
mod fail;
mod import;
mod index;
mod inspect;
mod logs;
mod options;
mod out;
mod read;
mod sink;
mod source;
mod space;
mod target;
mod transfer;
mod values;
mod writers;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{LogFormat, ServeArgs};
use crate::logging;
use crate::users::UserArgs;
use fail::Fail;
use out::Out;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the answer is no: damage was found, the place will not do, or there is no such log, processor
     or writer (or there is one, for `create`)
  2  the command line is wrong, or a value in it
  3  it could not be done: the error says what happened to the data and what to do now
A reader that closes the pipe early (`| head`) is no error.

Each command has examples: oncelog COMMAND --help";

/// Named, durable logs: the tools for a directory or a server.
#[derive(Debug, Parser)]
#[command(name = "oncelog", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    /// Print JSON: one value, or one a line for streams.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Each command is a variant with its arguments, and a line in [`run`].
#[derive(Debug, Subcommand)]
enum Command {
    Create(logs::Create),
    Logs(logs::Logs),
    Describe(logs::Describe),
    Rename(logs::Rename),
    Seal(logs::Seal),
    Truncate(logs::Truncate),
    Drop(logs::Drop),
    Append(append::Append),
    Read(read::Read),
    Tail(read::Tail),
    Follow(read::Follow),
    Count(read::Count),
    Readers(checkpoint::Readers),
    Checkpoint(checkpoint::Checkpoint),
    Forget(checkpoint::Forget),
    Writers(writers::Writers),
    Export(export::Export),
    Import(import::Import),
    Doctor(doctor::Doctor),
    Verify(inspect::Verify),
    Repair(inspect::Repair),
    Index(index::Index),
    Space(space::Space),
    Segments(space::Segments),
    Dump(dump::Dump),
    Dlsn(dlsn::Dlsn),
    /// Serve the logs of a data directory over TCP
    #[command(after_help = "\
Examples:
  oncelog serve --data data
  oncelog serve --config oncelog.toml --print-config")]
    Serve(Box<ServeArgs>),
    /// Make password hashes, and change a server's file of users
    #[command(after_help = "\
Examples:
  oncelog user add users.toml billing --allow read,append --prefix shop/
  oncelog user list users.toml")]
    User(UserArgs),
    Bench(bench::Bench),
    Completions(Completions),
}

fn run(command: Command, out: &mut Out) -> Result<(), Fail> {
    match command {
        Command::Create(args) => logs::create(args, out),
        Command::Logs(args) => logs::logs(args, out),
        Command::Describe(args) => logs::describe(args, out),
        Command::Rename(args) => logs::rename(args, out),
        Command::Seal(args) => logs::seal(args, out),
        Command::Truncate(args) => logs::truncate(args, out),
        Command::Drop(args) => logs::drop_log(args, out),
        Command::Append(args) => append::append(args, out),
        Command::Read(args) => read::read(args, out),
        Command::Tail(args) => read::tail(args, out),
        Command::Follow(args) => read::follow(args, out),
        Command::Count(args) => read::count(args, out),
        Command::Readers(args) => checkpoint::readers(args, out),
        Command::Checkpoint(args) => checkpoint::checkpoint(args, out),
        Command::Forget(args) => checkpoint::forget(args, out),
        Command::Writers(args) => writers::writers(args, out),
        Command::Export(args) => export::export(args, out),
        Command::Import(args) => import::import(args, out),
        Command::Doctor(args) => doctor::doctor(args, out),
        Command::Verify(args) => inspect::verify(args, out),
        Command::Repair(args) => inspect::repair(args, out),
        Command::Index(args) => index::index(args, out),
        Command::Space(args) => space::space(args, out),
        Command::Segments(args) => space::segments(args, out),
        Command::Dump(args) => dump::dump(args, out),
        Command::Dlsn(args) => dlsn::dlsn(args, out),
        Command::Serve(args) => serve(*args, out),
        Command::User(args) => args.run().map_err(any),
        Command::Bench(args) => Err(bench::bench(&args)),
        Command::Completions(args) => completions(&args, out),
    }
}

fn serve(args: ServeArgs, out: &mut Out) -> Result<(), Fail> {
    let print = args.print_config;
    let config = args.load().map_err(|error| Fail::Usage(error.to_string()))?;
    if print {
        let text = config.to_toml().map_err(|error| Fail::Failed(error.to_string()))?;
        return out.bytes(text.as_bytes());
    }
    let format = match config.log_format {
        LogFormat::Human => logging::Format::Human,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(format, &config.log_filter).map_err(|error| Fail::Usage(format!("{error:#}")))?;
    crate::serve::run(&config).map_err(any)
}

/// What went wrong with a server or a file of users.
fn any(error: anyhow::Error) -> Fail {
    let io = error.downcast_ref::<std::io::Error>();
    if io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        return Fail::Closed;
    }
    Fail::Failed(format!("{error:#}"))
}

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog completions bash > /etc/bash_completion.d/oncelog
  oncelog completions zsh > ~/.zfunc/_oncelog
  oncelog completions fish > ~/.config/fish/completions/oncelog.fish")]
struct Completions {
    shell: clap_complete::Shell,
}

fn completions(args: &Completions, out: &mut Out) -> Result<(), Fail> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "oncelog", &mut script);
    out.bytes(&script)
}

/// Runs the command with the arguments of this process, and says how that went.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing more can be said where even this cannot be written.
            let _ = error.print();
            return if error.use_stderr() { Fail::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let mut out = Out::new(cli.json);
    let done = run(cli.command, &mut out);
    match done.and_then(|()| out.flush()) {
        Ok(()) | Err(Fail::Closed) => ExitCode::SUCCESS,
        Err(fail) => {
            // What was found before stands first.
            let _ = out.flush();
            out.error(&fail);
            fail.code().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line of a shell, up to a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                '|' | '<' | '>' | '&' if !quoted => break,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().expect("there is one").push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_example_is_a_command_line_and_the_documentation_names_every_command() {
        let page = include_str!("../../docs/cli.md");
        let mut command = Cli::command();
        let help = command.get_subcommands_mut().map(|sub| sub.render_help().to_string());
        let examples = page.to_owned() + &help.collect::<String>();
        // Not those inside a sentence.
        let lines = examples.lines().filter(|line| !line.contains('`'));
        let lines = lines.filter_map(|line| line.split_once("oncelog "));
        let is_example = |before: &str| {
            before.trim_start_matches('$').trim().is_empty()
                || before.starts_with("$ ")
                || before.ends_with("| ")
        };
        let mut seen = 0;
        for (_, line) in lines.filter(|(before, _)| is_example(before)) {
            let args = std::iter::once("oncelog".to_owned()).chain(words(line));
            if let Err(error) = Cli::try_parse_from(args) {
                let shown = clap::error::ErrorKind::DisplayHelp;
                assert!(error.kind() == shown, "oncelog {line}: {error}");
            }
            seen += 1;
        }
        assert!(seen > 80, "only {seen} examples were found");
        for sub in Cli::command().get_subcommands() {
            let name = sub.get_name();
            assert!(page.contains(&format!("oncelog {name}")), "docs/cli.md has no {name}");
        }
    }

    #[test]
    fn the_command_line_has_no_contradictions_and_each_command_has_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for command in command.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
        }
    }
}
