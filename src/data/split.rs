//! Which images train, which validate and which test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::folder::ClassFolder;

/// The part of an image set that something reads.
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
}

/// How images are divided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// The first `floor(n / 2)` classes in the order of the raw bytes of their names train, the others test: the
    /// zero-shot protocol of CUB-200, Cars-196 and SOP (Oh Song et al. 2016).
    #[default]
    FirstHalfOfClasses,
    /// Everything tests.
    None,
    /// As a text file says, by its path below the raw folder. A line holds a name and `train` or `test`, with space
    /// between; the name is a class, or an image as `CLASS/FILE`. Images that no line names are left out; empty lines
    /// and lines that begin with `#` say nothing.
    List(String),
}

/// The split of every image of every class, `None` where it is left out.
pub(super) fn assign(
    rule: &SplitRule,
    raw: &Path,
    classes: &[ClassFolder],
) -> Result<Vec<Vec<Option<Split>>>, DataError> {
    let all = |split| move |class: &ClassFolder| vec![Some(split); class.images.len()];
    match rule {
        SplitRule::FirstHalfOfClasses => {
            let (train, test) = classes.split_at(classes.len() / 2);
            Ok(train.iter().map(all(Split::Train)).chain(test.iter().map(all(Split::Test))).collect())
        }
        SplitRule::None => Ok(classes.iter().map(all(Split::Test)).collect()),
        SplitRule::List(file) => from_list(&raw.join(file), classes),
    }
}

fn from_list(path: &Path, classes: &[ClassFolder]) -> Result<Vec<Vec<Option<Split>>>, DataError> {
    let text = fs::read_to_string(path).map_err(DataError::io("read", path))?;
    let position: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
    let mut splits: Vec<Vec<Option<Split>>> = classes.iter().map(|class| vec![None; class.images.len()]).collect();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |message: String| DataError::SplitList { path: path.to_path_buf(), line: i + 1, message };
        let (name, split) = line.rsplit_once(char::is_whitespace).unwrap_or((line, ""));
        let split = match split {
            "train" => Split::Train,
            "test" => Split::Test,
            other => return Err(wrong(format!("expected a name, a space, and train or test; found {other:?}"))),
        };
        let name = name.trim_end();
        let (class, image) = name.split_once('/').map_or((name, None), |(class, image)| (class, Some(image)));
        let &class = position.get(class).ok_or_else(|| wrong(format!("there is no class {class:?}")))?;
        let chosen = match image {
            None => &mut splits[class][..],
            Some(image) => {
                let found = classes[class].images.binary_search_by(|other| other.as_str().cmp(image));
                let found = found.map_err(|_| wrong(format!("there is no image {name:?}")))?;
                &mut splits[class][found..=found]
            }
        };
        if chosen.iter().any(|old| old.is_some_and(|old| old != split)) {
            return Err(wrong(format!("{name:?} is in both splits")));
        }
        chosen.fill(Some(split));
    }
    Ok(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<ClassFolder> {
        let class = |name: &str| ClassFolder { name: name.into(), images: vec!["1.png".into(), "2 b.png".into()] };
        ["a", "b c", "d"].map(class).to_vec()
    }

    fn listed(text: &str) -> Result<Vec<Vec<Option<Split>>>, DataError> {
        let room = tempfile::tempdir().unwrap();
        fs::write(room.path().join("list.txt"), text).unwrap();
        assign(&SplitRule::List("list.txt".into()), room.path(), &classes())
    }

    const TRAIN: Option<Split> = Some(Split::Train);
    const TEST: Option<Split> = Some(Split::Test);

    #[test]
    fn the_smaller_half_of_an_odd_number_of_classes_trains() {
        let splits = assign(&SplitRule::FirstHalfOfClasses, Path::new(""), &classes()).unwrap();
        assert_eq!(splits, [[TRAIN; 2], [TEST; 2], [TEST; 2]]);
        assert_eq!(assign(&SplitRule::None, Path::new(""), &classes()).unwrap(), [[TEST; 2]; 3]);
    }

    #[test]
    fn a_list_names_classes_and_images_with_spaces_and_leaves_out_the_others() {
        let splits = listed("# made by hand\n\na\ttrain\nb c/2 b.png   test\r\n").unwrap();
        assert_eq!(splits, [[TRAIN, TRAIN], [None, TEST], [None, None]]);
    }

    #[test]
    fn a_list_that_names_what_is_not_there_or_both_splits_is_refused_with_its_line() {
        for (text, line, word) in [
            ("a train\nz test", 2, "no class \"z\""),
            ("a/9.png train", 1, "no image"),
            ("a valid", 1, "\"valid\""),
            ("train", 1, "expected a name"),
            ("a train\n\na/1.png test", 3, "both"),
        ] {
            let message = listed(text).unwrap_err().to_string();
            assert!(message.contains(&format!("list.txt:{line}:")) && message.contains(word), "{message}");
        }
    }

    #[test]
    fn rules_are_written_as_a_word_or_a_list() {
        let read = |text: &str| serde_json::from_str::<SplitRule>(text).ok();
        assert_eq!(read(r#""first_half_of_classes""#), Some(SplitRule::FirstHalfOfClasses));
        assert_eq!(read(r#""none""#), Some(SplitRule::None));
        assert_eq!(read(r#"{"list": "a.txt"}"#), Some(SplitRule::List("a.txt".into())));
        assert_eq!(read(r#""all""#), None);
    }
}
