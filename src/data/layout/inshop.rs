//! In-Shop Clothes Retrieval: one list of all images with their part: train, query or gallery.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::found::{Found, Image};
use super::{below, files, help, home};
use crate::data::error::DataError;
use crate::data::listing::Location;
use crate::data::split::Split;
use crate::text;

const LIST: &str = "list_eval_partition.txt";
/// The page that leads to the images.
const PAGE: &str = "http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html";
/// The folder of the set: as most code names it, and as its authors do.
const HOMES: [&str; 3] = ["Inshop_Clothes", "In-shop Clothes Retrieval Benchmark", ""];

/// Reads `Eval/list_eval_partition.txt`, or the list in `Anno` or next to the images, in one of [`HOMES`]. The images
/// are in `Img`, in `Img/img` or right there. Classes are items, in the order of the number after their last
/// underscore.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let with_list = [format!("Eval/{LIST}"), format!("Anno/{LIST}"), LIST.to_owned()];
    let with_list = with_list.each_ref().map(String::as_str);
    let at = with_list.iter().find_map(|list| home(root, &HOMES, list).map(|home| (home.join(list), home)));
    let Some((list, home)) = at else {
        let fetch = format!(
            "its images are given on request only: accept the terms on {PAGE}, fetch Eval/{LIST} and Img/img.zip of the \
             In-shop Clothes Retrieval Benchmark by hand, unpack the second in Inshop_Clothes/Img, and put \
             Inshop_Clothes there, or set root"
        );
        return Err(DataError::NoLayout {
            folder: root.to_owned(),
            set: "In-Shop Clothes Retrieval",
            what: "file Inshop_Clothes/Eval/list_eval_partition.txt",
            help: help(root, &with_list, fetch),
        });
    };
    let lines = partition(&list)?;
    let root = images(&home, &list, lines.first().map(|line| line.path.as_str()))?;
    let matched = files::find(&root, &list, lines.iter().map(|line| line.path.as_str()))?;
    let mut pairs = Vec::with_capacity(lines.len());
    let mut seen = BTreeMap::new();
    for (Line { line, number, part, .. }, path) in lines.into_iter().zip(matched.paths) {
        if let Some(first) = seen.insert(path.clone(), line) {
            let message = format!("{path:?} is in line {first} already");
            return Err(DataError::Line { path: list, line, message });
        }
        let split = Some(if part == "train" { Split::Train } else { Split::Test });
        let group = Some(part).filter(|_| split == Some(Split::Test));
        pairs.push((number, Image { location: Location::File(path), split, group }));
    }
    let classes = Found::by_class(pairs, |number| format!("id_{number:08}"));
    Ok(Found { root, classes, lists_splits: true, unlisted: matched.unlisted, ..Found::default() })
}

/// A line of the list.
struct Line {
    /// Its number, from 1.
    line: usize,
    path: String,
    /// Of the item.
    number: u32,
    /// `train`, `query` or `gallery`.
    part: String,
}

/// The number of images, the names of the columns if they are there, and one line per image.
fn partition(list: &Path) -> Result<Vec<Line>, DataError> {
    let text = text::read(list)?;
    let wrong = |line: usize, message: String| DataError::Line { path: list.to_owned(), line, message };
    let mut rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let announced = rows.next().and_then(|(_, line)| files::fields(line).first()?.parse::<usize>().ok());
    let announced = announced.ok_or_else(|| {
        let message = "expected the number of images, which the first line of the published list holds; add that line";
        wrong(1, message.to_owned())
    })?;
    let mut lines = Vec::new();
    let mut rows = rows.peekable();
    rows.next_if(|(_, line)| line.contains("item_id"));
    for (i, line) in rows {
        let wrong = |message: String| wrong(i + 1, message);
        let &[image, item, part] = &files::fields(line)[..] else {
            return Err(wrong(format!("expected a path, an item such as id_00000002, and its part; found {line:?}")));
        };
        let number: Option<u32> = item.rsplit_once('_').and_then(|(_, number)| number.parse().ok());
        let number = number.ok_or_else(|| {
            wrong(format!("the item is {item:?}, expected a name that ends in an underscore and a number"))
        })?;
        if !matches!(part, "train" | "query" | "gallery") {
            return Err(wrong(format!("the part is {part:?}, expected train, query or gallery")));
        }
        let path = below(image).map_err(wrong)?.to_owned();
        lines.push(Line { line: i + 1, path, number, part: part.to_owned() });
    }
    if lines.len() != announced {
        return Err(wrong(1, format!("it announces {announced} images; {} lines follow", lines.len())));
    }
    Ok(lines)
}

/// The folder that the list's paths start from.
fn images(home: &Path, list: &Path, first: Option<&str>) -> Result<PathBuf, DataError> {
    let folders = ["Img", "", "Img/img", "img"].map(|folder| home.join(folder));
    let with_first = |folder: &&PathBuf| first.is_some_and(|first| folder.join(&*files::tidy(first)).exists());
    if let Some(folder) = folders.iter().find(with_first) {
        return Ok(folder.clone());
    }
    let large = home.join("Img/img_highres");
    if large.is_dir() && !home.join("Img/img").is_dir() {
        let message = format!(
            "its images are those of Img/img.zip, and there are only the larger ones of {}; unpack img.zip next to them, or \
             rename that folder to img if you mean those",
            large.display()
        );
        return Err(DataError::Content { path: list.to_owned(), message });
    }
    Ok(match home.join("Img") {
        images if images.is_dir() => images,
        _ => home.to_owned(),
    })
}
