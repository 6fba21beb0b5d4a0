//! In-Shop Clothes Retrieval: one list of all images with their part: train, query or gallery.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Found, Image, below, files, home};
use crate::data::error::DataError;
use crate::data::split::Split;

const LIST: &str = "list_eval_partition.txt";
/// The page that leads to the images.
const PAGE: &str = "http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html";

/// Reads `Eval/list_eval_partition.txt`, or the list right beside the images, in `Inshop_Clothes` or below the root. The
/// images lie in `Img` or right there. Classes are items, in the order of the number behind their last underscore.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let names = ["Inshop_Clothes", ""];
    let below_home = format!("Eval/{LIST}");
    let with_list = [below_home.as_str(), LIST];
    let at = with_list.iter().find_map(|list| home(root, &names, list).map(|home| (home.join(list), home)));
    let Some((list, home)) = at else {
        return Err(DataError::NoLayout {
            folder: root.to_owned(),
            set: "In-Shop Clothes Retrieval",
            what: "file Inshop_Clothes/Eval/list_eval_partition.txt",
            help: format!(
                "its images are given on request only: accept the terms on {PAGE}, fetch Eval/{LIST} and Img/img.zip of \
                 the In-shop Clothes Retrieval Benchmark by hand, unpack the second in Inshop_Clothes/Img, and put \
                 Inshop_Clothes there, or set root"
            ),
        });
    };
    let text = fs::read_to_string(&list).map_err(DataError::io("read", &list))?;
    let wrong = |line: usize, message: String| DataError::Line { path: list.clone(), line, message };
    let announced: usize = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .parse()
        .map_err(|_| wrong(1, "expected the number of images".to_owned()))?;
    let mut pairs = Vec::new();
    let mut seen = BTreeMap::new();
    for (i, line) in text.lines().enumerate().skip(2).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |message: String| wrong(i + 1, message);
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[image, item, part] = &fields[..] else {
            return Err(wrong(format!("expected a path, an item such as id_00000002, and its part; found {line:?}")));
        };
        let number: Option<u32> = item.rsplit_once('_').and_then(|(_, number)| number.parse().ok());
        let number = number.ok_or_else(|| {
            wrong(format!("the item is {item:?}, expected a name that ends in an underscore and a number"))
        })?;
        let (split, group) = match part {
            "train" => (Split::Train, None),
            "query" | "gallery" => (Split::Test, Some(part.to_owned())),
            other => return Err(wrong(format!("the part is {other:?}, expected train, query or gallery"))),
        };
        let path = below(image).map_err(wrong)?.to_owned();
        if let Some(first) = seen.insert(path.clone(), i + 1) {
            return Err(wrong(format!("{path:?} is in line {first} already")));
        }
        pairs.push((number, Image { path, split: Some(split), group }));
    }
    if pairs.len() != announced {
        return Err(wrong(1, format!("it announces {announced} images; {} lines follow", pairs.len())));
    }
    let root = match home.join("Img") {
        images if images.is_dir() => images,
        _ => home,
    };
    let unlisted = files::compare(&root, &list, seen.keys().map(String::as_str))?;
    let classes = Found::by_class(pairs, |number| format!("id_{number:08}"));
    Ok(Found { root, classes, lists_splits: true, unlisted, ..Found::default() })
}
