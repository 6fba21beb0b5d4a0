//! The command reference `docs/commands.md`: written from the command line's own definition, and compared with it.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory, Parser};

use super::Cli;
use crate::text::assert_committed;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");

/// The whole page.
fn page() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut out = String::from(
        "# Commands\n\n\
         The text of `meanfield --help` and of each command's `--help`. Generated from `src/cli/`;\n\
         `MEANFIELD_BLESS=1 cargo test --lib reference` writes it anew.\n\n",
    );
    describe(&mut out, &cli);
    options(&mut out, "Global options", cli.get_arguments().filter(|arg| arg.is_global_set()));
    section(&mut out, &cli, 2);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// The subcommands of `command` under headings of that level.
fn section(out: &mut String, command: &Command, level: usize) {
    let visible = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in command.get_subcommands().filter(visible) {
        let name = command.get_bin_name().unwrap_or_default();
        writeln!(out, "{} {name}\n", "#".repeat(level)).unwrap();
        describe(out, command);
        let own = |arg: &&Arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help";
        options(out, "Arguments and options", command.get_arguments().filter(own));
        section(out, command, level + 1);
    }
}

/// What a command does, how it is called, and examples.
fn describe(out: &mut String, command: &Command) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    for paragraph in about.split("\n\n") {
        writeln!(out, "{}\n", sentence(paragraph)).unwrap();
    }
    let usage = command.clone().render_usage().to_string();
    writeln!(out, "```sh\n{}\n```\n", usage.trim_start_matches("Usage: ").trim()).unwrap();
    let examples = examples(command);
    if !examples.is_empty() {
        writeln!(out, "Examples:\n\n```sh\n{}\n```\n", examples.join("\n")).unwrap();
    }
}

fn options<'a>(out: &mut String, title: &str, args: impl Iterator<Item = &'a Arg>) {
    let rows: Vec<String> = args.filter(|arg| arg.get_id() != "version").map(row).collect();
    if !rows.is_empty() {
        writeln!(out, "| {title} | |\n| --- | --- |\n{}\n", rows.join("\n")).unwrap();
    }
}

/// A line of the table: how an argument is written, what it does, its values, its default and its variable.
fn row(arg: &Arg) -> String {
    let short = arg.get_short().map_or(String::new(), |short| format!("-{short}, "));
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = sentence(&help);
    if arg.get_action().takes_values() {
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if !values.is_empty() {
            write!(text, " One of {}.", values.join(", ")).unwrap();
        }
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() {
            write!(text, " Default: `{}`.", defaults.join(",")).unwrap();
        }
    }
    if let Some(variable) = arg.get_env() {
        write!(text, " Variable: `{}`.", variable.to_string_lossy()).unwrap();
    }
    format!("| `{short}{}` | {} |", arg.to_string().replace('|', "\\|"), text.replace('|', "\\|"))
}

/// A help text on one line, with a full stop.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.ends_with(['.', ':']) { text } else { format!("{text}.") }
}

/// The command lines that a command's help gives as examples.
fn examples(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.lines().filter(|line| line.starts_with("  meanfield ")).map(|line| line.trim().to_owned()).collect()
}

/// A command line as words, as a shell splits it at blanks outside of single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (i, part) in line.split('\'').enumerate() {
        for c in part.chars() {
            match (c, words.last_mut()) {
                (' ', _) if i % 2 == 0 => words.push(String::new()),
                (c, Some(word)) => word.push(c),
                _ => {}
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Every visible command, the outermost first.
fn all(command: &Command) -> Vec<Command> {
    let inner = command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help").flat_map(all);
    std::iter::once(command.clone()).chain(inner).collect()
}

#[test]
fn the_command_reference_is_what_the_command_line_says() {
    assert_committed(Path::new(PATH), &page(), "reference");
}

#[test]
fn every_command_says_what_it_does_and_has_an_example_that_parses() {
    let mut cli = Cli::command();
    cli.build();
    for command in all(&cli) {
        let name = command.get_bin_name().unwrap_or_default().to_owned();
        assert!(command.get_about().is_some(), "{name} has no description");
        let examples = examples(&command);
        assert!(!examples.is_empty(), "{name} has no example");
        for line in examples {
            let parsed = Cli::try_parse_from(words(&line));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            assert!(line.starts_with(&name), "{name} has the example {line}");
        }
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{name}: {arg} has no help");
            assert!(
                !help.ends_with('.') || help.ends_with("..."),
                "{name}: {arg}: a help text ends without a full stop"
            );
        }
    }
}
