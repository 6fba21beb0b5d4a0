//! Weight files that say what network they are of, and pretrained weights of others for a backbone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::backend::Backend;
use super::model::{Architecture, Model, Pixels};
use super::tensor::{NamedTensor, Part};
use super::weights::{WeightFile, load_tensors, write_safetensors};

/// The key of the file's metadata that says what the network is.
const KEY: &str = "meanfield";

/// What classifiers are called in the weight files of torchvision, Cadene and timm: of no use to an embedding.
const CLASSIFIERS: [&str; 5] = ["fc.", "last_linear.", "head.", "heads.", "classifier."];

/// What the metadata says, as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    architecture: Architecture,
    pixels: Pixels,
}

impl Description {
    fn of(architecture: Architecture) -> Self {
        Self { architecture, pixels: architecture.backbone.pixels() }
    }
}

impl<B: Backend> Model<B> {
    /// The bytes of a weight file: safetensors under PyTorch's names, with the architecture in its metadata.
    pub fn to_safetensors(&self, device: &B) -> Result<Vec<u8>, Error> {
        self.to_safetensors_with(device, BTreeMap::new())
    }

    /// The same with more entries in its metadata, which [`WeightFile::metadata`] tells.
    pub fn to_safetensors_with(&self, device: &B, mut metadata: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
        let description = serde_json::to_string(&Description::of(self.architecture))
            .map_err(|error| Error::Description(error.to_string()))?;
        let values: Vec<Vec<f32>> = self.tensors().map(|tensor| tensor.file_order(device)).collect();
        let named = self.tensors().zip(&values).map(|(tensor, values)| (&*tensor.name, &tensor.shape[..], &values[..]));
        metadata.insert(KEY.to_owned(), description);
        Ok(write_safetensors(named, &metadata)?)
    }

    /// The network of a weight file that [`Model::to_safetensors`] wrote.
    pub fn open(device: &B, path: &Path) -> Result<Self, Error> {
        let file = WeightFile::open(path)?;
        let description = file.metadata().get(KEY);
        let description = description.ok_or_else(|| Error::Description(format!("its metadata has no key {KEY:?}")))?;
        let description: Description =
            serde_json::from_str(description).map_err(|error| Error::Description(error.to_string()))?;
        if description != Description::of(description.architecture) {
            return Err(Error::Description(format!("its pixels are normalised otherwise: {description:?}")));
        }
        let mut model = Self::new(device, description.architecture, 0)?;
        model.load(device, &file, |_| true, &[])?;
        Ok(model)
    }

    /// Takes the weights of the backbone from a file of anyone's: torchvision's, timm's, Cadene's, or one of ours. The
    /// head keeps its own, and a classifier in the file is passed over.
    pub fn load_backbone(&mut self, device: &B, file: &WeightFile) -> Result<(), Error> {
        self.load(device, file, |tensor| tensor.part == Part::Backbone, &CLASSIFIERS)
    }

    /// Takes the weights of the tensors that `wanted` names.
    fn load(
        &mut self,
        device: &B,
        file: &WeightFile,
        wanted: impl Fn(&NamedTensor<B>) -> bool,
        ignorable: &[&str],
    ) -> Result<(), Error> {
        let names: Vec<(String, Vec<usize>)> =
            self.tensors().filter(|t| wanted(t)).map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
        let values = load_tensors(file, &names, ignorable)?;
        for (tensor, values) in self.tensors_mut().filter(|tensor| wanted(tensor)).zip(values) {
            tensor.set(device, &values);
        }
        Ok(())
    }
}
