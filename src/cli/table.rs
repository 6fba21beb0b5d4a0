//! `meanfield table`: the tables of report stages in any format, from cached results.

use clap::ValueEnum;

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::plan::Decision;
use crate::pipeline::model::CellId;
use crate::stage::{self, TableFormat};

/// Print the tables of report stages
///
/// Prints the tables again from cached results, without running anything: as aligned text, Markdown, CSV or JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield table quickstart --format md")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Md,
    Csv,
    Json,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let plan = project.plan(false)?;
    let tables: Vec<CellId> =
        project.selected.iter().copied().filter(|&cell| stage::makes_tables(&project.pipeline, cell)).collect();
    if tables.is_empty() {
        return Err(Failure::usage(
            "no report stage among the selected cells",
            "name one of the pipeline's report stages, or none for all of them",
        ));
    }
    for (i, &cell) in tables.iter().enumerate() {
        let Some(Decision::Cached { outputs, .. }) = &plan.decisions[cell.0 as usize] else {
            return Err(Failure::broken(format!(
                "{} is not up to date; `meanfield run` makes it, `meanfield why` says what is missing",
                project.pipeline.cell_name(cell)
            )));
        };
        let format = match args.format {
            _ if args.json => TableFormat::Json,
            Format::Json => TableFormat::Json,
            Format::Text => TableFormat::Text { color: ui.paint.on(), width: ui.width() },
            Format::Md => TableFormat::Markdown,
            Format::Csv => TableFormat::Csv,
        };
        let text = stage::render_table(&project.store, outputs, format)?;
        if i > 0 {
            writeln!(ui.out)?;
        }
        writeln!(ui.out, "{}", text.trim_end())?;
    }
    project.close()
}
