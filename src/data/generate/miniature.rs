//! Generated images in the layouts of the published data sets: JPEG files, lists and annotations where the real archives
//! have them, so that every pipeline runs at small scale without a network.

use std::fmt::Write;
use std::io::BufWriter;
use std::path::Path;

use fs_err::{self as fs, File};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GeneratorSpec, class_of};
use crate::data::error::DataError;
use crate::data::mat::{self, MatValue};

/// The layout of generated images in their folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GeneratedLayout {
    /// `CLASS/SAMPLE.png`.
    #[default]
    Folder,
    /// As `CUB_200_2011.tgz` unpacks.
    Cub,
    /// As `car_ims.tgz` unpacks, with `cars_annos.mat` next to it.
    Cars196,
    /// As `Stanford_Online_Products.zip` unpacks; the first half of the classes is in the list that trains.
    Sop,
    /// As the In-Shop benchmark unpacks; the first half of the classes trains, and of each other class the first half of
    /// the images are queries, the others the gallery.
    Inshop,
}

/// Draws the images and writes the lists; `layout` is not `Folder`.
pub(super) fn write(spec: &GeneratorSpec, into: &Path) -> Result<(), DataError> {
    match spec.layout {
        GeneratedLayout::Folder => Ok(()),
        GeneratedLayout::Cub => cub(spec, into),
        GeneratedLayout::Cars196 => cars196(spec, into),
        GeneratedLayout::Sop => sop(spec, into),
        GeneratedLayout::Inshop => inshop(spec, into),
    }
}

/// Draws image `(class, sample)`, both from 0, to `path(class, sample)` below `into`.
fn images(spec: &GeneratorSpec, into: &Path, path: impl Fn(u32, u32) -> String + Sync) -> Result<(), DataError> {
    (0..spec.classes).into_par_iter().try_for_each(|class| {
        let draw = class_of(spec, u64::from(class));
        (0..spec.per_class).try_for_each(|sample| {
            let path = into.join(path(class, sample));
            folder_of(&path)?;
            let file = BufWriter::new(File::create(&path)?);
            JpegEncoder::new_with_quality(file, 90)
                .encode(&draw(u64::from(sample)), spec.size, spec.size, ExtendedColorType::Rgb8)
                .map_err(|e| DataError::Encode { path: path.clone(), message: e.to_string() })
        })
    })
}

fn folder_of(path: &Path) -> Result<(), DataError> {
    let folder = path.parent().unwrap_or(path);
    Ok(fs::create_dir_all(folder)?)
}

fn file(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    folder_of(path)?;
    Ok(fs::write(path, bytes)?)
}

/// Every (class, sample), both from 0, with the number of the image from 1.
fn numbered(spec: &GeneratorSpec) -> impl Iterator<Item = (u32, u32, u32)> {
    let per_class = spec.per_class;
    (0..spec.classes).flat_map(move |class| (0..per_class).map(move |s| (class, s, class * per_class + s + 1)))
}

fn cub(spec: &GeneratorSpec, into: &Path) -> Result<(), DataError> {
    // Folders come in the order of their numbers.
    let digits = spec.classes.to_string().len().max(3);
    let path =
        |class: u32, sample: u32| format!("{:0digits$}.Generated_{class}/Generated_{class}_{sample:04}.jpg", class + 1);
    let home = into.join("CUB_200_2011");
    images(spec, &home.join("images"), path)?;
    let (mut list, mut labels) = (String::new(), String::new());
    for (class, sample, number) in numbered(spec) {
        let _ = writeln!(list, "{number} {}", path(class, sample));
        let _ = writeln!(labels, "{number} {}", class + 1);
    }
    file(&home.join("images.txt"), list.as_bytes())?;
    file(&home.join("image_class_labels.txt"), labels.as_bytes())
}

fn cars196(spec: &GeneratorSpec, into: &Path) -> Result<(), DataError> {
    let path = |class: u32, sample: u32| format!("car_ims/{:06}.jpg", class * spec.per_class + sample + 1);
    images(spec, into, path)?;
    let numbers = |of: &dyn Fn(u32, u32) -> u32| {
        numbered(spec)
            .map(|(class, sample, _)| MatValue::Numbers(vec![f64::from(of(class, sample))]))
            .collect::<Vec<_>>()
    };
    let paths = numbered(spec).map(|(class, sample, _)| MatValue::Text(path(class, sample))).collect();
    let annotations = MatValue::Struct(vec![
        ("relative_im_path".to_owned(), paths),
        ("bbox_x1".to_owned(), numbers(&|_, _| 1)),
        ("bbox_y1".to_owned(), numbers(&|_, _| 1)),
        ("bbox_x2".to_owned(), numbers(&|_, _| spec.size)),
        ("bbox_y2".to_owned(), numbers(&|_, _| spec.size)),
        ("class".to_owned(), numbers(&|class, _| class + 1)),
        ("test".to_owned(), numbers(&|_, sample| sample % 2)),
    ]);
    let names = (0..spec.classes).map(|class| MatValue::Text(format!("Generated {class}"))).collect();
    let path = into.join("cars_annos.mat");
    let bytes = mat::write(&[("annotations", annotations), ("class_names", MatValue::Cells(names))]);
    file(&path, &bytes?)
}

fn sop(spec: &GeneratorSpec, into: &Path) -> Result<(), DataError> {
    // Super-classes, as the archive has twelve of them.
    const KINDS: [&str; 3] = ["bicycle", "cabinet", "chair"];
    let kind = |class: u32| class as usize % KINDS.len();
    let path = |class: u32, sample: u32| format!("{}_final/{}_{sample}.JPG", KINDS[kind(class)], 110_000 + class);
    let home = into.join("Stanford_Online_Products");
    images(spec, &home, path)?;
    let header = "image_id class_id super_class_id path\n".to_owned();
    let (mut train, mut test) = (header.clone(), header);
    for (class, sample, number) in numbered(spec) {
        let list = if class < spec.classes / 2 { &mut train } else { &mut test };
        let _ = writeln!(list, "{number} {} {} {}", class + 1, kind(class) + 1, path(class, sample));
    }
    file(&home.join("Ebay_train.txt"), train.as_bytes())?;
    file(&home.join("Ebay_test.txt"), test.as_bytes())
}

fn inshop(spec: &GeneratorSpec, into: &Path) -> Result<(), DataError> {
    let path = |class: u32, sample: u32| format!("img/WOMEN/Dresses/id_{:08}/{sample:02}_1_front.jpg", class + 1);
    let home = into.join("Inshop_Clothes");
    images(spec, &home.join("Img"), path)?;
    let mut list = format!("{}\nimage_name item_id evaluation_status\n", spec.classes * spec.per_class);
    for (class, sample, _) in numbered(spec) {
        let part = match class < spec.classes / 2 {
            true => "train",
            false if sample < spec.per_class / 2 => "query",
            false => "gallery",
        };
        let _ = writeln!(list, "{} id_{:08} {part}", path(class, sample), class + 1);
    }
    file(&home.join("Eval/list_eval_partition.txt"), list.as_bytes())
}

#[cfg(test)]
mod tests;
