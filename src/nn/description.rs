//! Weight files that describe their network, and pretrained weights from other sources for a backbone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::backbone::{Backbone, no_alias};
use super::backend::Backend;
use super::model::{Architecture, Model};
use super::native::Native;
use super::pixels::{Normalisation, Pixels};
use super::tensor::{NamedTensor, Part};
use super::weights::{Choice, Fit, TensorInfo, WeightError, WeightFile, fit, write_safetensors};

/// The metadata key under which a file describes its network.
const KEY: &str = "meanfield";

/// Names of the classifiers in weight files of torchvision, Cadene and timm, and of what losses and self-supervised
/// training store in addition to a network: of no use to an embedding, and not part of a backbone's trunk.
const ASIDE: [&str; 13] = [
    "fc.",
    "last_linear.",
    "head.",
    "heads.",
    "classifier.",
    "criterion.",
    "loss.",
    "n_averaged",
    "queue",
    "projector.",
    "projection_head.",
    "predictor.",
    "prototypes.",
];

/// The description in the metadata, as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    architecture: Architecture,
    pixels: Pixels,
}

impl Description {
    /// The description in a file, if it has one.
    fn read(file: &WeightFile) -> Result<Option<Self>, Error> {
        let description = file.metadata().get(KEY).map(|text| serde_json::from_str(text));
        description.transpose().map_err(|error| Error::Description(error.to_string()))
    }

    /// The description in a file that this program wrote.
    fn own(file: &WeightFile) -> Result<Self, Error> {
        let none = || Error::Description(format!("{}: its metadata has no key {KEY:?}", file.path().display()));
        Self::read(file)?.ok_or_else(none)
    }

    fn normalisation(&self) -> Result<Normalisation, Error> {
        let unknown = || Error::Description(format!("its pixels are normalised in a way that is not known: {self:?}"));
        Normalisation::of(self.pixels).ok_or_else(unknown)
    }
}

/// The pixel normalisation that a weight file of this program records; none for other files, whose tensors do not show
/// it.
pub fn normalisation_of(file: &WeightFile) -> Result<Option<Normalisation>, Error> {
    Description::read(file)?.map(|description| description.normalisation()).transpose()
}

/// Refuses a file that is not a whole network of this program; reads no values.
pub fn check_own(file: &WeightFile) -> Result<(), Error> {
    let description = Description::own(file)?;
    description.normalisation()?;
    let model = Model::outline(&Native::default(), description.architecture)?;
    fit(file, &model.names(|_| true), &[], no_alias, &Choice::default())?;
    Ok(())
}

/// Finds the weights of the backbone of `architecture` in `file`; reads no values.
///
/// # Errors
/// [`Error::Weights`] with what does not fit, [`Error::Description`] for a file of a network that has the same shapes
/// but works differently, [`Error::Architecture`].
pub fn fit_backbone<'f>(file: &'f WeightFile, architecture: Architecture, choice: &Choice) -> Result<Fit<'f>, Error> {
    let model = Model::outline(&Native::default(), architecture)?;
    let wanted: Vec<(&str, &[usize])> =
        model.tensors().filter(|t| t.part == Part::Backbone).map(|t| (&*t.name, &t.shape[..])).collect();
    backbone_fit(file, architecture.backbone, &wanted, choice)
}

fn backbone_fit<'f, N: AsRef<str>, S: AsRef<[usize]>>(
    file: &'f WeightFile,
    backbone: &Backbone,
    wanted: &[(N, S)],
    choice: &Choice,
) -> Result<Fit<'f>, Error> {
    let found = fit(file, wanted, &ASIDE, backbone.alias, choice);
    let places = match &found {
        Ok(fit) => vec![fit.choice.to_string()],
        Err(WeightError::Ambiguous { choices, .. }) => choices.clone(),
        Err(_) => Vec::new(),
    };
    let alike = |(prefix, _): &&(&str, &str)| places.iter().any(|place| place.contains(prefix));
    if let Some((_, other)) = backbone.lookalikes.iter().find(alike) {
        return Err(Error::Description(format!("it is {other}")));
    }
    Ok(found?)
}

impl<B: Backend> Model<B> {
    /// The bytes of a weight file: safetensors under PyTorch's names, with the architecture in its metadata.
    pub fn to_safetensors(&self, device: &B) -> Result<Vec<u8>, Error> {
        self.to_safetensors_with(device, BTreeMap::new())
    }

    /// The same with more entries in its metadata, which [`WeightFile::metadata`] returns.
    pub fn to_safetensors_with(&self, device: &B, mut metadata: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
        let description = Description { architecture: self.architecture, pixels: self.normalisation.pixels() };
        let description = serde_json::to_string(&description).map_err(|error| Error::Description(error.to_string()))?;
        let values: Vec<Vec<f32>> = self.tensors().map(|tensor| tensor.file_order(device)).collect();
        let named = self.tensors().zip(&values).map(|(tensor, values)| (&*tensor.name, &tensor.shape[..], &values[..]));
        metadata.insert(KEY.to_owned(), description);
        Ok(write_safetensors(named, &metadata)?)
    }

    /// The network in a weight file that [`Model::to_safetensors`] wrote.
    pub fn open(device: &B, path: &Path) -> Result<Self, Error> {
        let file = WeightFile::open(path)?;
        let description = Description::own(&file)?;
        let mut model = Self::new(device, description.architecture, 0)?;
        model.normalisation = description.normalisation()?;
        let names = model.names(|_| true);
        let tensors = fit(&file, &names, &[], no_alias, &Choice::default())?.tensors;
        model.set(device, &file, &tensors, |_| true)?;
        Ok(model)
    }

    /// Loads the backbone's weights from a file of any source: torchvision, timm, Cadene, or this program. The head
    /// keeps its weights, and a classifier in the file is ignored. `choice` selects the network where the file has
    /// several.
    pub fn load_backbone(&mut self, device: &B, file: &WeightFile, choice: &Choice) -> Result<(), Error> {
        let backbone = |tensor: &NamedTensor<B>| tensor.part == Part::Backbone;
        let names = self.names(backbone);
        let tensors = backbone_fit(file, self.architecture.backbone, &names, choice)?.tensors;
        self.set(device, file, &tensors, backbone)
    }

    fn names(&self, wanted: impl Fn(&NamedTensor<B>) -> bool) -> Vec<(String, Vec<usize>)> {
        self.tensors().filter(|t| wanted(t)).map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
    }

    /// Sets the wanted tensors from a file.
    fn set(
        &mut self,
        device: &B,
        file: &WeightFile,
        tensors: &[&TensorInfo],
        wanted: impl Fn(&NamedTensor<B>) -> bool,
    ) -> Result<(), Error> {
        let values = tensors.iter().map(|tensor| file.values(tensor)).collect::<Result<Vec<_>, _>>()?;
        for (tensor, values) in self.tensors_mut().filter(|tensor| wanted(tensor)).zip(values) {
            tensor.set(device, &values);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model::{Head, embed};

    fn convnet4(seed: u64) -> Model<Native> {
        let (head, backbone) = (Head::Identity, Backbone::named("convnet4").unwrap());
        let architecture = Architecture { backbone, pooling: None, head, dim: 128, height: 16, width: 16 };
        Model::new(&Native::default(), architecture, seed).unwrap()
    }

    #[test]
    fn a_network_keeps_its_pixels_in_its_file() {
        let (device, folder) = (Native::default(), tempfile::tempdir().unwrap());
        let path = folder.path().join("model.safetensors");
        let pixels: Vec<u8> = (0..16 * 16 * 3).map(|i| (i % 251) as u8).collect();
        let mut model = convnet4(1);
        let mut seen = Vec::new();
        for (name, normalisation) in Normalisation::ALL {
            model.normalisation = normalisation;
            std::fs::write(&path, model.to_safetensors(&device).unwrap()).unwrap();
            let file = WeightFile::open(&path).unwrap();
            assert_eq!(normalisation_of(&file).unwrap().map(Normalisation::name), Some(name));
            check_own(&file).unwrap();
            let opened = Model::open(&device, &path).unwrap();
            let vectors = embed(&device, &opened, &pixels).unwrap();
            assert_eq!(vectors, embed(&device, &model, &pixels).unwrap());
            assert!(!seen.contains(&vectors), "{name}");
            seen.push(vectors);
        }
    }

    #[test]
    fn a_transformer_with_other_heads_in_the_same_shapes_is_refused_by_its_names() {
        let names = ["module.base_encoder.cls_token", "module.momentum_encoder.cls_token"];
        let tensors = names.iter().zip([[1.0], [2.0]].iter()).map(|(name, value)| (*name, &[1][..], &value[..]));
        let file = WeightFile::from_bytes("moco", write_safetensors(tensors, &BTreeMap::new()).unwrap()).unwrap();
        let choice = Choice { key: None, prefix: Some("module.base_encoder.".to_owned()) };
        let fit = |name| backbone_fit(&file, Backbone::named(name).unwrap(), &[("cls_token", [1])], &choice);
        assert!(fit("resnet18").is_ok());
        assert!(fit("vit_small_16").unwrap_err().to_string().contains("12 heads of attention"));
        let either =
            backbone_fit(&file, Backbone::named("vit_small_16").unwrap(), &[("cls_token", [1])], &Choice::default());
        assert!(either.unwrap_err().to_string().contains("12 heads of attention"));
    }
}
