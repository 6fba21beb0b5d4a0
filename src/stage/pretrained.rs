//! The weights that a training starts from: the file, how it wants pixels, and whether it is of the network.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::job::JobError;
use crate::nn::weights::WeightFile;
use crate::nn::{self, Architecture, Normalisation, fit_backbone, normalisation_of};
use crate::train::Config;

/// The file next to fetched weights that holds [`About`].
pub(super) const ABOUT: &str = "about.json";

/// What the stage that fetches weights knows of them, and their tensors do not say.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    /// How the network wants pixels.
    pub pixels: Normalisation,
}

/// Weights that a training cannot start from.
#[derive(Debug, Error)]
enum Unfit {
    #[error(
        "{}: its tensors do not say how it wants pixels, and weights of {backbone} differ: give the stage \
         `pixels: imagenet` for DINO, DeiT and most others, or `pixels: half` for timm's AugReg",
        file.display()
    )]
    Pixels { file: PathBuf, backbone: &'static str },
    #[error(
        "{}: `pixels: {}` is asked for, and {who} says `{}`: leave `pixels` out",
        file.display(),
        asked.name(),
        known.name()
    )]
    Otherwise { file: PathBuf, asked: Normalisation, known: Normalisation, who: &'static str },
    #[error("{}", file.display())]
    Network { file: PathBuf, source: nn::Error },
    #[error("{}: expected `{{\"pixels\": \"imagenet\"}}` or the like", file.display())]
    About { file: PathBuf, source: serde_json::Error },
    #[error("{} holds {files} files, expected one file of weights", folder.display())]
    Files { folder: PathBuf, files: usize },
}

/// A file of weights, open.
#[derive(Debug)]
pub(super) struct Pretrained {
    pub file: WeightFile,
    about: Option<About>,
}

impl Pretrained {
    /// Opens a file, or the one file of a folder, such as `download` leaves.
    pub(super) fn open(path: &Path) -> Result<Self, JobError> {
        let (path, about) = only_file(path)?;
        Ok(Self { file: WeightFile::open(&path)?, about })
    }

    /// How pixels are normalised for it, where that is not the backbone's own way: as the settings say, which must not
    /// contradict the file or the stage that fetched it; else as these say.
    pub(super) fn normalisation(&self, config: &Config) -> Result<Option<Normalisation>, JobError> {
        let file = || self.file.path().to_path_buf();
        let known = match self.about {
            Some(about) => Some((about.pixels, "the stage that fetched it")),
            None => {
                let own = normalisation_of(&self.file).map_err(|source| Unfit::Network { file: file(), source })?;
                own.map(|pixels| (pixels, "the file itself"))
            }
        };
        match (config.pixels, known) {
            (Some(asked), Some((known, who))) if asked != known => {
                Err(Unfit::Otherwise { file: file(), asked, known, who }.into())
            }
            (Some(asked), _) => Ok(Some(asked)),
            (None, Some((known, _))) => Ok(Some(known).filter(|known| *known != config.backbone.normalisation())),
            (None, None) if config.backbone.normalisations.len() == 1 => Ok(None),
            (None, None) => Err(Unfit::Pixels { file: file(), backbone: config.backbone.name }.into()),
        }
    }

    /// Refuses weights that are not the backbone's, for images of `side` rows and columns. Without `side`, a network
    /// whose tensors depend on it is not checked. Reads no values. Returns what was found, in words.
    pub(super) fn check(&self, config: &Config, side: Option<usize>) -> Result<Option<String>, JobError> {
        // Any size that all of them take.
        let Some(side) = side.or((!config.backbone.positions).then_some(224)) else { return Ok(None) };
        let Config { backbone, pooling, head, dim, .. } = *config;
        let architecture = Architecture { backbone, pooling, head, dim, height: side, width: side };
        let choice = config.weights.clone().unwrap_or_default();
        let fit = fit_backbone(&self.file, architecture, &choice).map_err(|source| match source {
            nn::Error::Weights(error) => JobError::from(error),
            source => Unfit::Network { file: self.file.path().to_path_buf(), source }.into(),
        })?;
        let (count, others) = (fit.tensors.len(), fit.others);
        Ok(Some(format!("{count} tensors, found with `{}`; {others} others are left out", fit.choice)))
    }
}

/// A file, or the one file of a folder, and what the folder says of it.
fn only_file(path: &Path) -> Result<(PathBuf, Option<About>), JobError> {
    if !path.is_dir() {
        return Ok((path.to_owned(), None));
    }
    let mut files: Vec<PathBuf> =
        fs_err::read_dir(path)?.map(|item| Ok(item?.path())).collect::<std::io::Result<_>>()?;
    let beside = path.join(ABOUT);
    let about = files.contains(&beside).then(|| -> Result<About, JobError> {
        let text = fs_err::read(&beside)?;
        Ok(serde_json::from_slice(&text).map_err(|source| Unfit::About { file: beside.clone(), source })?)
    });
    files.retain(|file| *file != beside);
    match &files[..] {
        [file] => Ok((file.clone(), about.transpose()?)),
        _ => Err(Unfit::Files { folder: path.to_owned(), files: files.len() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_a_file_or_the_one_file_of_a_folder_with_what_is_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("resnet50.pth");
        let error = |path: &Path| crate::text::chain(&*only_file(path).unwrap_err());
        assert!(error(folder.path()).contains("holds 0 files, expected one"));
        std::fs::write(&first, "").unwrap();
        assert_eq!(only_file(&first).unwrap().0, first);
        assert!(only_file(folder.path()).is_ok_and(|(file, about)| file == first && about.is_none()));
        std::fs::write(folder.path().join(ABOUT), "{\"pixels\": \"imagenet\"}").unwrap();
        let (file, about) = only_file(folder.path()).unwrap();
        assert_eq!((file, about.unwrap().pixels), (first, Normalisation::Imagenet));
        std::fs::write(folder.path().join(ABOUT), "{\"pixels\": \"sepia\"}").unwrap();
        assert!(error(folder.path()).contains("unknown variant `sepia`"), "{}", error(folder.path()));
        std::fs::write(folder.path().join("other.pth"), "").unwrap();
        std::fs::write(folder.path().join(ABOUT), "{\"pixels\": \"half\"}").unwrap();
        assert!(error(folder.path()).contains("holds 2 files, expected one"));
    }

    #[test]
    fn pixels_are_those_that_somebody_says_and_nobody_contradicts() {
        use crate::nn::Backbone;
        use crate::nn::weights::write_safetensors;
        let bytes = write_safetensors([("a", &[1][..], &[0.0][..])], &Default::default()).unwrap();
        let found = |about: Option<Normalisation>, backbone, pixels| {
            let file = WeightFile::from_bytes("f", bytes.clone()).unwrap();
            let pretrained = Pretrained { file, about: about.map(|pixels| About { pixels }) };
            let config = Config { backbone, pixels, ..Config::default() };
            pretrained.normalisation(&config).map_err(|error| error.to_string())
        };
        let (vit, resnet) = (Backbone::named("vit_small_16").unwrap(), Backbone::named("resnet50").unwrap());
        let [half, imagenet] = [Normalisation::Half, Normalisation::Imagenet].map(Some);
        assert_eq!(found(None, resnet, None), Ok(None));
        assert_eq!(found(None, resnet, half), Ok(half));
        assert_eq!(found(imagenet, resnet, None), Ok(None));
        assert_eq!(found(imagenet, vit, None), Ok(imagenet));
        assert_eq!(found(half, vit, None), Ok(None));
        assert_eq!(found(None, vit, imagenet), Ok(imagenet));
        assert!(found(None, vit, None).unwrap_err().contains("`pixels: imagenet` for DINO, DeiT and most others"));
        assert_eq!(
            found(imagenet, vit, half).unwrap_err(),
            "f: `pixels: half` is asked for, and the stage that fetched it says `imagenet`: leave `pixels` out"
        );
    }
}
