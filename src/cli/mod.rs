//! The command line: one file per command, and the only module that prints.
//!
//! Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 all done or up to date,
//! 1 a cell, a check or a file failed, 2 the pipeline or the command line is wrong (`failure.rs` says which is which), 128
//! plus its number for a signal that ended the run (130: Ctrl-C).

mod bench;
mod bug;
mod cache;
mod data;
mod decision;
mod eval;
mod export;
mod failure;
mod graph;
mod guard;
mod history;
mod loss;
mod network;
mod output;
mod paint;
mod plan;
mod progress;
mod project;
#[cfg(test)]
mod reference;
mod run;
mod schema;
mod show;
mod signals;
mod stage;
mod status;
mod table;
mod weights;
mod why;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::failure::Failure;
use self::paint::Paint;
use self::progress::Screen;

/// Regenerates the comparison tables of a deep-metric-learning paper from one YAML file
///
/// A pipeline is a graph of stages (download, preprocess, train, embed, evaluate, report, or any command). Axes such as
/// data set, loss and seed multiply a stage into cells. Results are cached by content: unaffected cells never rerun.
#[derive(Debug, Parser)]
#[command(name = "meanfield", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Examples:
  meanfield plan quickstart
  meanfield run quickstart
  meanfield table quickstart --format md")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
struct Global {
    /// Folder of cached results [default: `cache` in the project, the folder that contains `pipelines/`]
    #[arg(long, global = true, value_name = "DIR", env = "MEANFIELD_CACHE", help_heading = "Global options")]
    cache: Option<PathBuf>,
    /// Folder of reports and other published outputs [default: `reports` in the project]
    #[arg(long, global = true, value_name = "DIR", env = "MEANFIELD_REPORTS", help_heading = "Global options")]
    reports: Option<PathBuf>,
    /// Print only results and errors
    #[arg(long, short, global = true, env = "MEANFIELD_QUIET", help_heading = "Global options")]
    quiet: bool,
    /// Increase log verbosity (repeat for more)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, env = "MEANFIELD_VERBOSE", help_heading = "Global options")]
    verbose: u8,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        env = "MEANFIELD_COLOR",
        help_heading = "Global options"
    )]
    color: Color,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Plan(plan::Args),
    Status(status::Args),
    Why(why::Args),
    Graph(graph::Args),
    Show(show::Args),
    Table(table::Args),
    History(history::Args),
    Cache(cache::Args),
    Loss(loss::Args),
    Eval(eval::Args),
    Export(export::Args),
    Data(data::Args),
    Weights(weights::Args),
    Network(network::Args),
    Schema(schema::Args),
    /// Run a built-in stage kind on a job file; started by the engine
    #[command(hide = true)]
    Stage(stage::Args),
    /// Kill the processes of a run that was killed; started by the engine
    #[command(hide = true)]
    Guard(guard::Args),
    /// Panic, so that a test can read the message
    #[command(hide = true)]
    Panic,
}

/// Where and how commands print.
struct Ui<'a> {
    /// Standard output.
    out: &'a mut dyn Write,
    /// Colours for standard output.
    paint: Paint,
    /// Colours for standard error.
    notes: Paint,
    /// Standard error of a command that has progress to show.
    screen: Screen,
    /// Print only results and errors.
    quiet: bool,
}

impl Ui<'_> {
    /// Columns of the terminal on standard output; none if it is not a terminal.
    fn width(&self) -> Option<usize> {
        let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
        Some(usize::from(width.0))
    }
}

/// Parses the command line, runs the command, prints its failure, and returns the exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(bug::report));
    // The hook has reported it.
    std::panic::catch_unwind(command).unwrap_or(ExitCode::FAILURE)
}

fn command() -> ExitCode {
    let cli = Cli::parse();
    let paint = |terminal: bool| {
        Paint::new(match cli.global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                terminal && !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        })
    };
    let notes = paint(io::IsTerminal::is_terminal(&io::stderr()));
    let screen = Screen::default();
    log_to_stderr(cli.global.verbose, matches!(cli.command, Command::Stage(_)), &screen);
    let mut out = BufWriter::new(io::stdout().lock());
    let paint = paint(io::IsTerminal::is_terminal(&io::stdout()));
    let mut ui = Ui { out: &mut out, paint, notes, screen, quiet: cli.global.quiet };
    let result = dispatch(&cli, &mut ui).and_then(|()| out.flush().map_err(Failure::from));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Buffered results come before the failure. A closed pipe has been reported already.
            let _ = out.flush();
            failure.print(notes);
            failure.exit_code()
        }
    }
}

fn dispatch(cli: &Cli, ui: &mut Ui<'_>) -> Result<(), Failure> {
    match &cli.command {
        Command::Run(args) => run::run(args, &cli.global, ui),
        Command::Plan(args) => plan::run(args, &cli.global, ui),
        Command::Status(args) => status::run(args, &cli.global, ui),
        Command::Why(args) => why::run(args, &cli.global, ui),
        Command::Graph(args) => graph::run(args, &cli.global, ui),
        Command::Show(args) => show::run(args, &cli.global, ui),
        Command::Table(args) => table::run(args, &cli.global, ui),
        Command::History(args) => history::run(args, &cli.global, ui),
        Command::Cache(args) => cache::run(args, &cli.global, ui),
        Command::Loss(args) => loss::run(args, ui.out),
        Command::Eval(args) => eval::run(args, ui.out),
        Command::Export(args) => export::run(args, &cli.global, ui),
        Command::Data(args) => data::run(args, ui.out),
        Command::Weights(args) => weights::run(args, ui.out),
        Command::Network(args) => network::run(args, ui.out),
        Command::Schema(args) => schema::run(args, ui),
        Command::Stage(args) => stage::run(args),
        Command::Guard(args) => guard::run(args),
        Command::Panic => panic!("asked for"),
    }
}

/// The file of this program, to start it again, even if it has been replaced or removed since.
fn this_program() -> io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    // The child resolves it while it still is a copy of this process.
    if running.exists() { Ok(running) } else { std::env::current_exe() }
}

/// A cell's standard error is its log, which reports its results; a command's is the user's terminal.
fn log_to_stderr(verbose: u8, in_a_cell: bool, screen: &Screen) {
    let screen = screen.clone();
    let level = match verbose {
        0 if in_a_cell => tracing::Level::INFO,
        0 => tracing::Level::WARN,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // A second call, in tests that run commands in one process, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || screen.clone())
        // An error of the log could only be written to the same place.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(verbose > 1)
        .try_init();
}
