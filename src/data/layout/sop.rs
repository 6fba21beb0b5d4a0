//! Stanford Online Products: two lists, one per split.

use std::collections::BTreeMap;
use std::path::Path;

use super::found::{Found, Image};
use super::{below, files, help, home};
use crate::data::error::DataError;
use crate::data::listing::Location;
use crate::data::split::Split;
use crate::text;

const LISTS: [(&str, Split); 2] = [("Ebay_train.txt", Split::Train), ("Ebay_test.txt", Split::Test)];
const CLASSES: u32 = 22_634;

/// Reads `Ebay_train.txt` and `Ebay_test.txt` in `Stanford_Online_Products` or right below the root. Classes come in the
/// order of their numbers.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let names = ["Stanford_Online_Products", ""];
    let home = LISTS.iter().find_map(|(list, _)| home(root, &names, list));
    let missing =
        |what, help| DataError::NoLayout { folder: root.to_owned(), set: "Stanford Online Products", what, help };
    let unpack = "unpack Stanford_Online_Products.zip there (`uses: download/sop` does), or set root";
    let home = home.ok_or_else(|| {
        missing("file Stanford_Online_Products/Ebay_train.txt", help(root, &[LISTS[0].0], unpack.to_owned()))
    })?;
    let mut lines = Vec::new();
    for (list, split) in LISTS {
        let path = home.join(list);
        if !path.exists() {
            return Err(missing(list, unpack.to_owned()));
        }
        let text = text::read(&path)?;
        let mut rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
        // The header; a list that has lost it begins with an image.
        rows.next_if(|(_, line)| line.contains("class_id"));
        for (i, line) in rows {
            let wrong = |message: String| DataError::Line { path: path.clone(), line: i + 1, message };
            let &[_, class, _, image] = &files::fields(line)[..] else {
                return Err(wrong(format!("expected image_id class_id super_class_id path; found {line:?}")));
            };
            let number = class.parse().ok().filter(|class| (1..=CLASSES).contains(class));
            let class: u32 =
                number.ok_or_else(|| wrong(format!("the class is {class:?}, expected an integer in 1..={CLASSES}")))?;
            lines.push((list, i + 1, split, class, below(image).map_err(wrong)?.to_owned()));
        }
    }
    // Both lists at once: they name images of the same folders.
    let matched = files::find(&home, &home.join("Ebay_*.txt"), lines.iter().map(|line| line.4.as_str()))?;
    let mut pairs = Vec::with_capacity(lines.len());
    let mut seen = BTreeMap::new();
    for ((list, line, split, class, _), path) in lines.into_iter().zip(matched.paths) {
        if let Some((other, first)) = seen.insert(path.clone(), (list, line)) {
            let message = format!("{path:?} is in {other}:{first} already");
            return Err(DataError::Line { path: home.join(list), line, message });
        }
        pairs.push((class, Image { location: Location::File(path), split: Some(split), group: None }));
    }
    let classes = Found::by_class(pairs, u32::to_string);
    Ok(Found { root: home, classes, lists_splits: true, unlisted: matched.unlisted, ..Found::default() })
}
