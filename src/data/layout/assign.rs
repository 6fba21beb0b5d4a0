//! The split of each image, by the rule of a data set.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{Names, is_separator};
use super::found::{Class, Found};
use crate::data::error::DataError;
use crate::data::split::{Split, SplitRule};
use crate::text;

/// The split of every image of every class, `None` where it is left out.
pub(super) fn assign(rule: &SplitRule, raw: &Path, found: &Found) -> Result<Vec<Vec<Option<Split>>>, DataError> {
    let classes = &found.classes;
    let by_class = |split: &dyn Fn(usize) -> Split| {
        classes.iter().enumerate().map(|(i, class)| vec![Some(split(i)); class.images.len()]).collect()
    };
    match rule {
        SplitRule::Official if found.lists_splits => {
            Ok(classes.iter().map(|class| class.images.iter().map(|image| image.split).collect()).collect())
        }
        SplitRule::Official | SplitRule::FirstHalfOfClasses => {
            Ok(by_class(&|i| if i < classes.len() / 2 { Split::Train } else { Split::Test }))
        }
        SplitRule::None => Ok(by_class(&|_| Split::Test)),
        SplitRule::List(file) => from_list(&raw.join(file), classes),
        SplitRule::Mlrc(_) if classes.len() < 8 => Err(DataError::Parameter {
            field: "split.mlrc".to_owned(),
            message: format!("needs at least 8 classes for its four folds; there are {}", classes.len()),
        }),
        SplitRule::Mlrc(fold) => Ok(by_class(&|i| fold.split_of(i, classes.len()))),
    }
}

fn from_list(path: &Path, classes: &[Class]) -> Result<Vec<Vec<Option<Split>>>, DataError> {
    let text = text::read(path)?;
    // What each name means: a class before an image of the same name.
    let mut meant: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        for (j, image) in class.images.iter().enumerate() {
            meant.entry(image.location.to_string()).or_default().push((i, j));
        }
    }
    for (i, class) in classes.iter().enumerate() {
        meant.insert(class.name.clone(), (0..class.images.len()).map(|image| (i, image)).collect());
    }
    let names = Names::new(meant.keys().map(String::as_str));
    let mut splits: Vec<Vec<Option<Split>>> = classes.iter().map(|class| vec![None; class.images.len()]).collect();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim().trim_end_matches([';', ',']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |message: String| DataError::Line { path: path.to_path_buf(), line: i + 1, message };
        let (name, split) = line.rsplit_once(is_separator).unwrap_or((line, ""));
        let split = split.trim_matches('"');
        let split = Split::named(split).ok_or_else(|| {
            wrong(format!("expected a name, a space, and train, validation or test; found {split:?}"))
        })?;
        let name = name.trim_end_matches(is_separator).trim_matches('"');
        let found = names.find(name).map_err(|why| wrong(format!("there is no class or image {name:?}{why}")))?;
        for &(class, image) in &meant[found] {
            let old = splits[class][image].replace(split);
            if old.is_some_and(|old| old != split) {
                return Err(wrong(format!("{name:?} is in two splits")));
            }
        }
    }
    Ok(splits)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::layout::found::Image;
    use crate::data::listing::Location;
    use crate::data::split::MlrcFold;

    fn found() -> Found {
        let class = |name: &str| {
            let image =
                |file: &str| Image { location: Location::File(format!("{name}/{file}")), split: None, group: None };
            Class { name: name.into(), images: ["1.png", "2 b.png"].map(image).to_vec() }
        };
        Found { classes: ["a", "b c", "d"].map(class).to_vec(), ..Found::default() }
    }

    fn listed(text: &str) -> Result<Vec<Vec<Option<Split>>>, DataError> {
        let room = tempfile::tempdir().unwrap();
        fs::write(room.path().join("list.txt"), text).unwrap();
        assign(&SplitRule::List("list.txt".into()), room.path(), &found())
    }

    const TRAIN: Option<Split> = Some(Split::Train);
    const TEST: Option<Split> = Some(Split::Test);

    #[test]
    fn a_list_may_write_names_otherwise() {
        let plain = listed("a train\nb c/1.png test\nd validation\n").unwrap();
        for text in [
            "\u{feff}a train\r\nb c/1.png test\r\n\r\nd validation\r\n",
            "a;train;\n\"b c\\1.PNG\";test;\nd;validation;\n",
            "A\ttrain\n./b c/1.png\ttest\nd\tvalidation",
        ] {
            assert_eq!(listed(text).unwrap(), plain, "{text:?}");
        }
        let message = listed("b c/1.pngg train\n").unwrap_err().to_string();
        assert!(message.contains("did you mean \"b c/1.png\"?"), "{message}");
    }

    #[test]
    fn the_smaller_half_of_an_odd_number_of_classes_trains() {
        for rule in [SplitRule::FirstHalfOfClasses, SplitRule::Official] {
            let splits = assign(&rule, Path::new(""), &found()).unwrap();
            assert_eq!(splits, [[TRAIN; 2], [TEST; 2], [TEST; 2]]);
        }
        assert_eq!(assign(&SplitRule::None, Path::new(""), &found()).unwrap(), [[TEST; 2]; 3]);
    }

    #[test]
    fn a_list_names_classes_and_images_and_leaves_out_the_others() {
        let splits = listed("# made by hand\n\na\ttrain\nb c/2 b.png   test\r\nd/1.png validation\n").unwrap();
        assert_eq!(splits, [[TRAIN, TRAIN], [None, TEST], [Some(Split::Validation), None]]);
    }

    #[test]
    fn a_list_with_an_unknown_name_or_two_splits_is_refused_by_its_line() {
        for (text, line, word) in [
            ("a train\nz test", 2, "no class or image \"z\""),
            ("a/9.png train", 1, "no class or image"),
            ("a valid", 1, "\"valid\""),
            ("train", 1, "expected a name"),
            ("a train\n\na/1.png test", 3, "two splits"),
        ] {
            let message = listed(text).unwrap_err().to_string();
            assert!(message.contains(&format!("list.txt:{line}:")) && message.contains(word), "{message}");
        }
    }

    #[test]
    fn too_few_classes_for_four_folds_are_refused() {
        let message = assign(&SplitRule::Mlrc(MlrcFold { fold: 0 }), Path::new(""), &found()).unwrap_err().to_string();
        assert!(message.contains("at least 8 classes") && message.contains("there are 3"), "{message}");
    }
}
