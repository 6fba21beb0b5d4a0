//! `meanfield table`: the tables of report stages in any format, from cached results.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::plan::Decision;
use crate::pipeline::model::CellId;
use crate::report::text::Style;
use crate::report::{FORMATS, Format, JSON, TEXT};
use crate::stage;

/// Print the tables of report stages
///
/// Prints the tables again from cached results, without running anything: as aligned text, Markdown, CSV (one row per
/// cell of the table, or per run with `scores`), Parquet (per run), JSON or HTML.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield table quickstart --format md")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = TEXT.name, value_parser = format())]
    format: Format,
    /// Same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// The names of the formats, of which a command line gives one.
fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(FORMATS.map(|format| format.name)).map(|name| Format::named(&name).unwrap_or(TEXT))
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
        let Some(Decision::Cached { outputs, .. }) = &plan.decisions[cell] else {
            return Err(Failure::broken(format!(
                "{} is not up to date; `meanfield run` makes it, `meanfield why` says what is missing",
                project.pipeline.cell_name(cell)
            )));
        };
        let format = if args.json { JSON } else { args.format };
        let style = Style { ansi: ui.paint.on(), width: ui.width() };
        let bytes = stage::render_table(&project.store, outputs, format, style)?;
        if i > 0 {
            writeln!(ui.out)?;
        }
        match str::from_utf8(&bytes) {
            // The length of a Parquet footer ends with zeros.
            Ok(text) if !text.contains('\0') => writeln!(ui.out, "{}", text.trim_end())?,
            _ => ui.out.write_all(&bytes)?,
        }
    }
    project.close()
}
