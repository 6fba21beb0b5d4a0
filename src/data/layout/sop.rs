//! Stanford Online Products: two lists, one a split.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Found, Image, below, files, home};
use crate::data::error::DataError;
use crate::data::split::Split;

const LISTS: [(&str, Split); 2] = [("Ebay_train.txt", Split::Train), ("Ebay_test.txt", Split::Test)];
const CLASSES: u32 = 22_634;

/// Reads `Ebay_train.txt` and `Ebay_test.txt` in `Stanford_Online_Products` or right below the root. Classes come in the
/// order of their numbers.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let names = ["Stanford_Online_Products", ""];
    let home = LISTS.iter().find_map(|(list, _)| home(root, &names, list));
    let missing = |what| DataError::NoLayout {
        folder: root.to_owned(),
        set: "Stanford Online Products",
        what,
        help: "unpack Stanford_Online_Products.zip there (`uses: download/sop` does), or set root".to_owned(),
    };
    let home = home.ok_or_else(|| missing("file Stanford_Online_Products/Ebay_train.txt"))?;
    let mut pairs = Vec::new();
    let mut seen = BTreeMap::new();
    for (list, split) in LISTS {
        let path = home.join(list);
        if !path.exists() {
            return Err(missing(list));
        }
        let text = fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
        for (i, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |message: String| DataError::Line { path: path.clone(), line: i + 1, message };
            let fields: Vec<&str> = line.split_whitespace().collect();
            let &[_, class, _, image] = &fields[..] else {
                return Err(wrong(format!("expected image_id class_id super_class_id path; found {line:?}")));
            };
            let number = class.parse().ok().filter(|class| (1..=CLASSES).contains(class));
            let class =
                number.ok_or_else(|| wrong(format!("the class is {class:?}, expected an integer in 1..={CLASSES}")))?;
            let image = below(image).map_err(wrong)?;
            if let Some((other, line)) = seen.insert(image.to_owned(), (list, i + 1)) {
                return Err(wrong(format!("{image:?} is in {other}:{line} already")));
            }
            pairs.push((class, Image { path: image.to_owned(), split: Some(split), group: None }));
        }
    }
    // Both lists at once: they name images of the same folders.
    let unlisted = files::compare(&home, &home.join("Ebay_*.txt"), seen.keys().map(String::as_str))?;
    let classes = Found::by_class(pairs, u32::to_string);
    Ok(Found { root: home, classes, lists_splits: true, unlisted, ..Found::default() })
}
