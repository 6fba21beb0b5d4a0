//! `meanfield export`: embeddings and weights as files of other tools.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::output::Overwrite;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::plan::Decision;
use crate::eval::tensors::export;
use crate::store::Form;

/// Write embeddings or weights as .npy, .safetensors or .parquet
///
/// Converts the tensors of a .safetensors file, or of the cached output of one selected cell, to a file that other
/// tools read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield export quickstart 'vectors[dataset=glyphs,loss=contrastive,seed=0]' --to vectors.parquet
  meanfield export vectors.safetensors --to vectors.npy")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// File to write; its extension selects the format: .npy, .safetensors or .parquet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Output of the cell [default: the first]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Write only this tensor
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let read: Vec<&Path> = args.target.file_of_tensors().into_iter().collect();
    args.overwrite.check(&args.to, &read).map_err(Failure::bad_argument)?;
    let written = |from: &Path| export(from, &args.to, args.tensor.as_deref());
    if let Some(file) = args.target.file_of_tensors() {
        written(file)?;
    } else {
        let project = Project::open(&args.target, global)?;
        let [cell] = project.selected[..] else {
            return Err(Failure::usage(
                format!("{} cells are selected, expected one", project.selected.len()),
                "name one such as 'vectors[loss=contrastive,seed=0]'; `meanfield status` lists the stages",
            ));
        };
        let outputs = &project.pipeline.cells[cell].outputs;
        let wanted = |name: &str| args.output.as_deref().is_none_or(|wanted| wanted == name);
        let Some(at) = outputs.iter().position(|output| wanted(&output.name)) else {
            let known: Vec<&str> = outputs.iter().map(|output| &*output.name).collect();
            return Err(Failure::usage(
                format!("{} has no such output", project.pipeline.cell_name(cell)),
                format!("its outputs are {}", known.join(", ")),
            ));
        };
        let plan = project.plan(false)?;
        let name = project.pipeline.cell_name(cell);
        let Some(Decision::Cached { outputs, .. }) = &plan.decisions[cell] else {
            return Err(Failure::broken(format!(
                "{name} is not up to date; `meanfield run` makes it, `meanfield why` says what is missing"
            )));
        };
        let artifact = outputs.get(at).filter(|artifact| matches!(artifact.form, Form::File { .. }));
        let artifact =
            artifact.ok_or_else(|| Failure::broken(format!("this output of {name} is a folder, expected a file")))?;
        written(&project.store.blobs.path(&artifact.digest))?;
        project.close()?;
    }
    writeln!(ui.out, "{}", args.to.display())?;
    Ok(())
}
