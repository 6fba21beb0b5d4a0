//! Which images train, which validate and which test.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::layout::{Class, Found, Names};
use crate::text;

/// A part of an image set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    /// Held out of the training, to choose settings and epochs by.
    Validation,
    Test,
}

impl Split {
    /// In the order in which an image set holds them.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    /// As pipelines and lists write it.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }

    /// The split of that name.
    pub(super) fn named(name: &str) -> Option<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name)
    }
}

/// How images are divided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// As the layout's own lists say; where it has none, as `FirstHalfOfClasses`.
    #[default]
    Official,
    /// The first `floor(n / 2)` classes in the layout's order train, the others test: the zero-shot protocol of CUB-200,
    /// Cars-196 and SOP (Oh Song et al. 2016).
    FirstHalfOfClasses,
    /// All images are test images.
    None,
    /// As a text file says, by its path below the raw folder. A line holds a name and `train`, `validation` or `test`,
    /// with space between; the name is a class, or the path of an image. Images that no line names are left out; empty
    /// lines and lines that begin with `#` say nothing.
    List(String),
    /// One of the four folds of A Metric Learning Reality Check (Musgrave et al. 2020).
    Mlrc(MlrcFold),
}

/// All images are pooled; of `n` classes in the layout's order the first `half = floor(n / 2)` train and validate, the
/// others test. The `half - floor(half / 4)` classes from position `floor(fold * half / 4)` on train, and the
/// `floor(half / 4)` that follow validate; positions wrap to 0 after `half - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlrcFold {
    /// In `0..4`.
    pub fold: u32,
}

impl MlrcFold {
    /// The split of the class at `position` of `classes`, which are at least 8.
    pub fn split_of(self, position: usize, classes: usize) -> Split {
        let half = classes / 2;
        if position >= half {
            return Split::Test;
        }
        let start = self.fold as usize * half / 4;
        let from_start = (position + half - start) % half;
        if from_start < half - half / 4 { Split::Train } else { Split::Validation }
    }
}

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
    let mut meant: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        for (j, image) in class.images.iter().enumerate() {
            meant.entry(&image.path).or_default().push((i, j));
        }
    }
    for (i, class) in classes.iter().enumerate() {
        meant.insert(&class.name, (0..class.images.len()).map(|image| (i, image)).collect());
    }
    let names = Names::new(meant.keys().copied());
    let mut splits: Vec<Vec<Option<Split>>> = classes.iter().map(|class| vec![None; class.images.len()]).collect();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim().trim_end_matches([';', ',']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |message: String| DataError::Line { path: path.to_path_buf(), line: i + 1, message };
        let (name, split) = line.rsplit_once(Names::is_separator).unwrap_or((line, ""));
        let split = split.trim_matches('"');
        let split = Split::named(split).ok_or_else(|| {
            wrong(format!("expected a name, a space, and train, validation or test; found {split:?}"))
        })?;
        let name = name.trim_end_matches(Names::is_separator).trim_matches('"');
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
    use crate::data::layout::Image;

    fn found() -> Found {
        let class = |name: &str| {
            let image = |file: &str| Image { path: format!("{name}/{file}"), split: None, group: None };
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
    fn rules_are_written_as_a_word_a_list_or_a_fold() {
        let read = |text: &str| serde_json::from_str::<SplitRule>(text).ok();
        assert_eq!(read(r#""official""#), Some(SplitRule::Official));
        assert_eq!(read(r#""first_half_of_classes""#), Some(SplitRule::FirstHalfOfClasses));
        assert_eq!(read(r#""none""#), Some(SplitRule::None));
        assert_eq!(read(r#"{"list": "a.txt"}"#), Some(SplitRule::List("a.txt".into())));
        assert_eq!(read(r#"{"mlrc": {"fold": 3}}"#), Some(SplitRule::Mlrc(MlrcFold { fold: 3 })));
        assert_eq!(read(r#""all""#), None);
    }

    /// Positions of the validation classes of folds 0 to 3, and how many classes train, as MLRC has them.
    #[test]
    fn the_folds_of_cub_cars_and_sop_are_those_of_mlrc() {
        for (classes, train, blocks) in [
            (200, 75, [75..=99, 0..=24, 25..=49, 50..=74]),
            (196, 74, [74..=97, 0..=23, 25..=48, 49..=72]),
            (22_634, 8_488, [8_488..=11_316, 0..=2_828, 2_829..=5_657, 5_658..=8_486]),
        ] {
            for (fold, block) in (0..).zip(blocks) {
                let split = |position| MlrcFold { fold }.split_of(position, classes);
                let of = |wanted| (0..classes).filter(|&i| split(i) == wanted).collect::<Vec<_>>();
                assert_eq!(of(Split::Validation), block.collect::<Vec<_>>(), "{classes} fold {fold}");
                assert_eq!(of(Split::Train).len(), train);
                assert_eq!(of(Split::Test), (classes / 2..classes).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn too_few_classes_for_four_folds_are_refused() {
        let message = assign(&SplitRule::Mlrc(MlrcFold { fold: 0 }), Path::new(""), &found()).unwrap_err().to_string();
        assert!(message.contains("at least 8 classes") && message.contains("there are 3"), "{message}");
    }
}
