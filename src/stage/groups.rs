//! Which group of the images asks and which answers: one check and one message for every kind that lets users choose.

use thiserror::Error;

use super::vectors::{Part, Vectors};
use crate::data::shard::Item;

/// Groups of images used as queries and as gallery; without them every image is a query among all others.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    pub query: Option<String>,
    pub gallery: Option<String>,
}

/// A group that no image has.
#[derive(Debug, Error)]
pub(super) enum UnknownGroup {
    #[error("no image here has the group `{group}`; known: `{}`", known.join("`, `"))]
    OneOf { group: String, known: Vec<String> },
    #[error(
        "no image here has a group, so none has `{0}`: `group_by_prefix: true` makes preprocess take groups from the names of files"
    )]
    NoneAtAll(String),
}

impl UnknownGroup {
    fn new<'a>(group: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let mut known: Vec<String> = known.map(str::to_owned).collect();
        known.sort_unstable();
        known.dedup();
        let group = group.to_owned();
        if known.is_empty() { Self::NoneAtAll(group) } else { Self::OneOf { group, known } }
    }
}

/// Positions in a split.
pub(super) type Positions = Vec<usize>;

impl Groups {
    /// What is wrong where only one of the two is given.
    pub fn check(&self) -> Vec<(String, String)> {
        let missing = match (&self.query, &self.gallery) {
            (Some(_), None) => "gallery",
            (None, Some(_)) => "query",
            _ => return Vec::new(),
        };
        vec![(missing.to_owned(), "is missing: queries and gallery come together".to_owned())]
    }

    /// The vectors that ask, and those that answer if they are others.
    pub fn of_vectors<'a>(&self, all: &'a Vectors) -> Result<(Part<'a>, Option<Part<'a>>), UnknownGroup> {
        let part = |group: Option<&str>| {
            // Images without a group are of the one without a name.
            let known = all.rows.group_names.iter().map(String::as_str).filter(|name| !name.is_empty());
            all.of_group(group).ok_or_else(|| UnknownGroup::new(group.unwrap_or_default(), known))
        };
        let asked = part(self.query.as_deref())?;
        Ok((asked, self.gallery.as_deref().map(|gallery| part(Some(gallery))).transpose()?))
    }

    /// The images that ask and those that answer, if groups say so.
    pub fn of_images(&self, items: &[Item]) -> Result<Option<(Positions, Positions)>, UnknownGroup> {
        let (Some(query), Some(gallery)) = (&self.query, &self.gallery) else { return Ok(None) };
        let positions = |group: &String| {
            let found: Positions = (0..items.len()).filter(|&at| items[at].group.as_ref() == Some(group)).collect();
            let known = items.iter().filter_map(|item| item.group.as_deref());
            if found.is_empty() { Err(UnknownGroup::new(group, known)) } else { Ok(found) }
        };
        Ok(Some((positions(query)?, positions(gallery)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::Split;
    use crate::stage::vectors::{self, Rows, Writer};

    fn groups(query: &str, gallery: &str) -> Groups {
        Groups { query: Some(query.to_owned()), gallery: Some(gallery.to_owned()) }
    }

    fn item(group: Option<&str>) -> Item {
        Item {
            path: "cat/1.png".to_owned(),
            split: Split::Test,
            label: 0,
            group: group.map(str::to_owned),
            height: 1,
            width: 1,
            offset: 0,
        }
    }

    #[test]
    fn images_divide_by_group_and_unknown_groups_are_told_the_known_ones() {
        let items = [Some("noto"), None, Some("apple"), Some("noto")].map(item);
        assert_eq!(groups("noto", "apple").of_images(&items).unwrap(), Some((vec![0, 3], vec![2])));
        assert_eq!(Groups { query: None, gallery: None }.of_images(&items).unwrap(), None);
        let error = groups("noto", "aple").of_images(&items).unwrap_err().to_string();
        assert_eq!(error, "no image here has the group `aple`; known: `apple`, `noto`");
        let error = groups("noto", "apple").of_images(&[item(None)]).unwrap_err().to_string();
        assert!(error.contains("none has `noto`: `group_by_prefix: true`"), "{error}");
    }

    #[test]
    fn vectors_divide_by_group_and_unknown_groups_are_told_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors.safetensors");
        let rows = Rows {
            labels: vec![0, 0, 0],
            class_names: vec!["cat".into()],
            groups: vec![0, 1, 2],
            group_names: vec!["".into(), "noto".into(), "apple".into()],
            remarks: vec![],
        };
        let mut writer = Writer::create(&path, &rows, 1).unwrap();
        writer.push(&[1.0, 2.0, 3.0]).unwrap();
        writer.finish().unwrap();
        let all = vectors::read(&path).unwrap();
        let (asked, searched) = groups("noto", "apple").of_vectors(&all).unwrap();
        assert_eq!((asked.positions, searched.unwrap().positions), (vec![1], vec![2]));
        let error = groups("nota", "apple").of_vectors(&all).err().unwrap().to_string();
        assert_eq!(error, "no image here has the group `nota`; known: `apple`, `noto`");
    }
}
