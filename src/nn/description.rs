//! The weight files of this program: PyTorch's names and layouts, and a description of the network.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use super::Error;
use super::backend::Backend;
use super::model::{Architecture, DEVIATION, MEAN, Model};

/// The one key of the file's metadata: a single one keeps the bytes of a file independent of any map's order.
const KEY: &str = "meanfield";

/// What the metadata says, as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    architecture: Architecture,
    mean: [f32; 3],
    deviation: [f32; 3],
}

impl Description {
    fn of(architecture: Architecture) -> Self {
        Self { architecture, mean: [MEAN; 3], deviation: [DEVIATION; 3] }
    }
}

impl<B: Backend> Model<B> {
    /// The bytes of a weight file.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, Error> {
        let description = serde_json::to_string(&Description::of(self.architecture))
            .map_err(|error| Error::Description(error.to_string()))?;
        let bytes: Vec<(&str, &[usize], Vec<u8>)> = self
            .tensors()
            .map(|tensor| {
                let values = tensor.file_order();
                (tensor.name.as_str(), &tensor.shape[..], values.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(serialize(views, Some(HashMap::from([(KEY.to_string(), description)])))?)
    }

    /// The network of a weight file.
    pub fn from_safetensors(device: &B, bytes: &[u8]) -> Result<Self, Error> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let description = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(KEY))
            .ok_or_else(|| Error::Description(format!("its metadata has no key {KEY:?}")))?;
        let description: Description =
            serde_json::from_str(description).map_err(|error| Error::Description(error.to_string()))?;
        if description != Description::of(description.architecture) {
            return Err(Error::Description(format!("its pixels are normalised otherwise: {description:?}")));
        }
        let file = SafeTensors::deserialize(bytes)?;
        let mut found: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        let mut model = Self::new(device, description.architecture, 0)?;
        let mut missing = Vec::new();
        for tensor in model.tensors_mut() {
            let Some(view) = found.remove(&tensor.name) else {
                missing.push(tensor.name.clone());
                continue;
            };
            if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
                return Err(Error::Tensor {
                    name: tensor.name.clone(),
                    found: format!("{:?} {:?}", view.dtype(), view.shape()),
                    expected: format!("{:?} {:?}", Dtype::F32, tensor.shape),
                });
            }
            let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            tensor.set(&values);
        }
        if !missing.is_empty() || !found.is_empty() {
            return Err(Error::Tensors { missing, unexpected: found.into_keys().collect() });
        }
        Ok(model)
    }
}
