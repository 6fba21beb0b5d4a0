//! How data sets lay out their images, classes and splits: one file per layout, each read into a [`Listing`].

mod arrays;
mod assign;
mod cars196;
mod cub;
mod files;
mod folder;
mod found;
mod inshop;
mod list;
mod names;
mod published;
mod sop;

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::assign::assign;
use self::found::Class;
use super::Problem;
use super::error::DataError;
use super::listing::{Entry, Listing};
use super::split::{Split, SplitRule};

/// The layout of a data set in its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layout {
    /// One folder of images a class, in the order of the raw bytes of the folders' names.
    #[default]
    Folder,
    /// CUB-200-2011 (Wah et al. 2011) as its archive unpacks: `CUB_200_2011/images/<NNN.Name>/*.jpg`.
    Cub,
    /// Cars-196 (Krause et al. 2013): `car_ims/*.jpg` and `cars_annos.mat`; or `cars_train`, `cars_test` and the devkit's
    /// annotations; or the folders of a mirror with `anno_train.csv` and `anno_test.csv`. The official flag for train and
    /// test is ignored, as the literature does.
    Cars196,
    /// Stanford Online Products (Oh Song et al. 2016): `Ebay_train.txt` and `Ebay_test.txt`.
    Sop,
    /// In-Shop Clothes Retrieval (Liu et al. 2016): `Eval/list_eval_partition.txt`; the images that test have the groups
    /// `query` and `gallery`.
    Inshop,
    /// A table, `.csv`, `.tsv` or `.parquet`, with the columns `path` and `label` and, if wanted, `split` (`train`, `validation`,
    /// `test`, or nothing to leave the image out) and `group`.
    List {
        /// Table (.csv, .tsv or .parquet) with the columns path and label, and optionally split and group.
        #[serde(default = "list_csv")]
        file: String,
    },
    /// Two NumPy arrays: images, `N x H x W x 3` of unsigned bytes, and `N` labels, integers or texts.
    Arrays {
        /// Array N x H x W x 3 of unsigned bytes.
        #[serde(default = "images_npy")]
        images: String,
        /// N labels, integers or texts.
        #[serde(default = "labels_npy")]
        labels: String,
    },
}

fn list_csv() -> String {
    "list.csv".to_owned()
}

fn images_npy() -> String {
    "images.npy".to_owned()
}

fn labels_npy() -> String {
    "labels.npy".to_owned()
}

/// Whether a published data set must have its published size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// Images and classes of each split are those that the literature states. Layouts that are not of one data set take any.
    #[default]
    Published,
    /// Any size: excerpts and miniatures.
    Any,
}

/// A data set in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    pub layout: Layout,
    /// The folder of the data set below the raw folder; the raw folder itself if empty.
    pub root: String,
    pub split: SplitRule,
    pub counts: Counts,
    /// Whether a class may be in the test split and in another one. Only lists can lead to that.
    pub shared_classes: bool,
}

impl Source {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push((field.to_owned(), message));
        if !self.root.is_empty() && below(&self.root).is_err() {
            refuse("root", format!("is {:?}, expected a path below the raw folder", self.root));
        }
        let files = match &self.layout {
            Layout::List { file } => vec![("layout.file", file)],
            Layout::Arrays { images, labels } => vec![("layout.images", images), ("layout.labels", labels)],
            _ => Vec::new(),
        };
        for (field, file) in files {
            if below(file).is_err() {
                refuse(field, format!("is {file:?}, expected the path of a file below the root"));
            }
        }
        match &self.split {
            SplitRule::List(file) if below(file).is_err() => {
                refuse("split.list", format!("is {file:?}, expected the path of a file below the raw folder"));
            }
            SplitRule::Mlrc(mlrc) if mlrc.fold >= 4 => {
                refuse("split.mlrc.fold", format!("is {}, expected an integer in 0..=3", mlrc.fold));
            }
            _ => {}
        }
        problems
    }
}

/// Lists the images of the data set below `raw`.
///
/// # Errors
/// Which file is missing, which line of a list is wrong, which count differs, which class is trained and tested on.
pub fn read(source: &Source, raw: &Path) -> Result<Listing, DataError> {
    DataError::first_of(source.check())?;
    let root = if source.root.is_empty() { raw.to_owned() } else { raw.join(&source.root) };
    let found = match &source.layout {
        Layout::Folder => folder::read(&root)?,
        Layout::Cub => cub::read(&root)?,
        Layout::Cars196 => cars196::read(&root)?,
        Layout::Sop => sop::read(&root)?,
        Layout::Inshop => inshop::read(&root)?,
        Layout::List { file } => list::read(&root, file)?,
        Layout::Arrays { images, labels } => arrays::read(&root, images, labels)?,
    };
    if source.counts == Counts::Published {
        published::check(&source.layout, &found)?;
    }
    let splits = assign(&source.split, raw, &found)?;
    if !source.shared_classes {
        disjoint(&found.classes, &splits)?;
    }
    // Groups divide the official test split; another split rule mixes them with images that have none.
    let grouped = source.layout != Layout::Inshop || source.split == SplitRule::Official;
    let mut listing = Listing { root: found.root, ignored: found.ignored, unread: found.unread, ..Listing::default() };
    listing.unlisted = found.unlisted.len() + splits.iter().flatten().filter(|split| split.is_none()).count();
    for wanted in Split::ALL {
        for (class, splits) in found.classes.iter().zip(&splits) {
            let images = class.images.iter().zip(splits).filter(|(_, split)| **split == Some(wanted));
            listing.entries.extend(images.map(|(image, _)| Entry {
                location: image.location.clone(),
                class: class.name.clone(),
                split: wanted,
                group: image.group.clone().filter(|_| grouped),
            }));
        }
    }
    Ok(listing)
}

/// Refuses classes that are in the test split and in another one.
fn disjoint(classes: &[Class], splits: &[Vec<Option<Split>>]) -> Result<(), DataError> {
    for other in [Split::Train, Split::Validation] {
        let both = |splits: &[Option<Split>]| splits.contains(&Some(other)) && splits.contains(&Some(Split::Test));
        let mut shared = classes.iter().zip(splits).filter(|(_, splits)| both(splits)).map(|(class, _)| &class.name);
        if let Some(class) = shared.next() {
            let (count, splits) = (1 + shared.count(), [other.name(), Split::Test.name()]);
            return Err(DataError::SharedClasses { class: class.clone(), count, splits });
        }
    }
    Ok(())
}

/// The path, if it stays below the folder that it starts from, however its separators are written.
fn below(path: &str) -> Result<&str, String> {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    let tidy = files::tidy(path);
    if tidy.is_empty() {
        return Err("the path is empty".to_owned());
    }
    let drive = matches!(tidy.as_bytes(), [letter, b':', b'/', ..] if letter.is_ascii_alphabetic());
    if drive || path.contains('\0') || !Path::new(&*tidy).components().all(normal) {
        return Err(format!("the path {path:?} leaves the folder of the data set; expected one below it"));
    }
    Ok(path)
}

/// The first of `names` below `base` (the empty name is `base` itself) that holds `marker`.
fn home(base: &Path, names: &[&str], marker: &str) -> Option<PathBuf> {
    names.iter().map(|name| base.join(name)).find(|folder| folder.join(marker).exists())
}

/// What to do about a set that is not where it is looked for: `help`, or the place further down where it is.
fn help(base: &Path, markers: &[&str], help: String) -> String {
    match markers.iter().find_map(|marker| files::elsewhere(base, marker)) {
        Some(folder) => format!("{} looks like it: set root to that folder", folder.display()),
        None => help,
    }
}

#[cfg(test)]
mod tests;
