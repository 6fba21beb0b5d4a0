//! `meanfield schema`: what a pipeline or a stage definition may hold, as JSON Schema.

use super::Ui;
use super::failure::Failure;
use crate::pipeline::{definition_schema, pipeline_schema};
use crate::stage::{definitions, kinds};

/// Print the JSON Schema of pipelines or stage definitions
///
/// With it an editor completes and checks YAML as you type. The first line of a pipeline names the file:
/// `# yaml-language-server: $schema=pipeline.json`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield schema
  meanfield schema definition")]
pub struct Args {
    /// The files that it describes
    #[arg(value_enum, default_value_t = Document::Pipeline)]
    document: Document,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Document {
    /// Pipelines
    Pipeline,
    /// Definitions in `stages/`
    Definition,
}

/// Runs the command.
pub fn run(args: &Args, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let schema = match args.document {
        Document::Pipeline => pipeline_schema(&kinds(), &definitions()),
        Document::Definition => definition_schema(&kinds()),
    };
    Ok(writeln!(ui.out, "{schema:#}")?)
}
