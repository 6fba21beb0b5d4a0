//! The user's weight files, checked while a plan is made: a file of another network is refused before anything runs.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::job::JobError;
use super::pretrained::Pretrained;
use super::work::{config, side, task};
use crate::nn::check_own;
use crate::nn::weights::WeightFile;
use crate::pipeline::model::{CellId, Pipeline, Source};
use crate::text::chain;

/// Checks the files of cells, each file with each network once.
#[derive(Default)]
pub struct FileChecks {
    known: HashMap<String, Option<String>>,
}

impl FileChecks {
    /// Why `cell` cannot run with a weight file that it names; none if it can, names none, or another stage
    /// brings it.
    pub fn refusal(&mut self, pipeline: &Pipeline, cell: CellId) -> Option<String> {
        let (kind, parameters) = task(pipeline, cell)?;
        let path = |name: &str| {
            let input = pipeline.cells[cell].inputs.iter().find(|input| &*input.name == name)?;
            if let Source::Path(path) = &input.source { Some(path) } else { None }
        };
        let (key, check): (String, Box<dyn Fn() -> Result<(), JobError>>) = match kind {
            "train" => {
                let (file, side) = (path("weights")?, training_side(pipeline, cell, parameters));
                let told = ["backbone", "pixels", "weights"].map(|name| parameters.get(name));
                (format!("{file:?} {told:?} {side:?}"), Box::new(move || start(file, parameters, side)))
            }
            "embed" => {
                let file = path("model")?;
                (format!("{file:?}"), Box::new(move || Ok(check_own(&WeightFile::open(file)?)?)))
            }
            _ => return None,
        };
        self.known.entry(key).or_insert_with(|| check().err().map(|error| chain(&*error))).clone()
    }
}

/// The side of a training's images, if it is known before they exist.
fn training_side(pipeline: &Pipeline, cell: CellId, parameters: &Map<String, Value>) -> Option<usize> {
    let side = side(&config(parameters)?, pipeline, cell)?;
    usize::try_from(side).ok()
}

fn start(file: &Path, parameters: &Map<String, Value>, side: Option<usize>) -> Result<(), JobError> {
    let Some(config) = config(parameters) else { return Ok(()) };
    let pretrained = Pretrained::open(file)?;
    pretrained.normalisation(&config)?;
    pretrained.check(&config, side).map(|_| ())
}
