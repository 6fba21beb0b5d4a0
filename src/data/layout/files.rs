//! The files of a data set: which ones every layout ignores, and which one a path of a list means.
//!
//! Lists are edited on other systems. A spreadsheet or a script of Windows writes `001.Albatross\a.JPG`, a Mac keeps
//! `é` as two characters, and the file is named slightly differently. A path therefore means the file of that exact
//! name; else the one file that differs only in separators, `./`, upper and lower case or Unicode form. Two such files
//! are an error, not a choice.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use fs_err as fs;
use unicode_normalization::UnicodeNormalization;

use super::names::{is_image, is_litter};
use crate::data::error::DataError;

/// A list's path as this system writes it: `/` between its parts, without empty parts and `.`. It keeps a first `/`.
pub(super) fn tidy(path: &str) -> Cow<'_, str> {
    let plain = |part: &str| !matches!(part, "" | ".");
    if !path.contains('\\') && path.split('/').all(plain) {
        return Cow::Borrowed(path);
    }
    let path = path.replace('\\', "/");
    let parts: Vec<&str> = path.split('/').filter(|part| plain(part)).collect();
    Cow::Owned(if path.starts_with('/') { format!("/{}", parts.join("/")) } else { parts.join("/") })
}

/// The form that names differing only in case or Unicode form share.
pub(super) fn alike(name: &str) -> String {
    name.nfc().collect::<String>().to_lowercase()
}

/// The fields of a line, separated by blanks, tabs, semicolons or commas, without quotation marks around them.
pub(super) fn fields(line: &str) -> Vec<&str> {
    let parts = line.split(is_separator).map(|field| field.trim_matches('"'));
    parts.filter(|field| !field.is_empty()).collect()
}

/// Whether it separates two fields of a list.
pub(super) fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, ';' | ',')
}

/// The candidate that differs least from `name`, if it is near. Its digits are the same: `002` is not meant for `001`.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::osa_distance(&alike(name), &alike(candidate));
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    let candidates = candidates.into_iter().filter(|candidate| digits(candidate) == digits(name));
    let near = candidates.map(|candidate| (distance(candidate), candidate)).min()?;
    Some(near.1).filter(|_| 3 * near.0 <= name.chars().count())
}

/// The folder up to three levels below `base` that holds `marker`.
pub(super) fn elsewhere(base: &Path, marker: &str) -> Option<std::path::PathBuf> {
    /// Entries to look at, so that a wrong folder does not cost minutes.
    const MOST: usize = 100_000;
    let walk = walkdir::WalkDir::new(base).min_depth(1).max_depth(3).sort_by_file_name().into_iter();
    let walk = walk.filter_entry(|entry| entry.depth() == 0 || !entry.file_name().to_str().is_none_or(is_litter));
    let folders = walk.take(MOST).flatten().filter(|entry| entry.file_type().is_dir());
    folders.map(|entry| entry.into_path()).find(|folder| folder.join(marker).exists())
}

/// Names that a list may spell differently.
pub(super) struct Names<'a> {
    exact: BTreeSet<&'a str>,
    /// By their common form; built when the first name is not found as written.
    alike: OnceCell<BTreeMap<String, Vec<&'a str>>>,
}

impl<'a> Names<'a> {
    pub(super) fn new(names: impl Iterator<Item = &'a str>) -> Names<'a> {
        Names { exact: names.collect(), alike: OnceCell::new() }
    }

    /// The matching name.
    ///
    /// # Errors
    /// `; the nearest names`.
    pub(super) fn find(&self, name: &str) -> Result<&'a str, String> {
        if let Some(exact) = self.exact.get(name) {
            return Ok(exact);
        }
        let tidy = tidy(name);
        match self.like(&tidy) {
            [only] => Ok(only),
            [first, second, ..] => {
                Err(format!("; {first:?} and {second:?} differ from it only in case or Unicode form"))
            }
            [] => Err(match nearest(&tidy, self.exact.iter().copied()) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => String::new(),
            }),
        }
    }

    fn like(&self, name: &str) -> &[&'a str] {
        if let Some(exact) = self.exact.get(name) {
            return std::slice::from_ref(exact);
        }
        let all = self.alike.get_or_init(|| {
            let mut all: BTreeMap<String, Vec<&'a str>> = BTreeMap::new();
            self.exact.iter().for_each(|name| all.entry(alike(name)).or_default().push(name));
            all
        });
        all.get(&alike(name)).map_or(&[], Vec::as_slice)
    }
}

/// What a list's paths are.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// The file of each listed path, below the root.
    pub paths: Vec<String>,
    /// The other images, which no path means, sorted.
    pub unlisted: Vec<String>,
}

/// Finds the file below `root` that each path of `list` means.
///
/// # Errors
/// [`DataError::MissingImages`] with the first ten and the nearest names; [`DataError::Content`] where two files fit.
pub(super) fn find<'a>(
    root: &Path,
    list: &Path,
    listed: impl IntoIterator<Item = &'a str>,
) -> Result<Matched, DataError> {
    let mut folders = Folders { root, list, folders: BTreeMap::new(), homes: BTreeMap::new() };
    let (mut matched, mut missing) = (Matched::default(), BTreeSet::new());
    let mut total = BTreeSet::new();
    for path in listed {
        total.insert(path);
        match folders.file(path)? {
            Some(file) => matched.paths.push(file),
            None => _ = missing.insert(path),
        }
    }
    if !missing.is_empty() {
        let first: Vec<String> = missing.iter().take(10).map(|path| (*path).to_owned()).collect();
        let all = missing.len() == total.len();
        let hint = folders.hint(&tidy(&first[0]), all)?;
        return Err(DataError::MissingImages {
            list: list.to_owned(),
            count: missing.len(),
            total: total.len(),
            first,
            hint,
        });
    }
    let meant: BTreeSet<&str> = matched.paths.iter().map(String::as_str).collect();
    let homes: BTreeSet<&str> = meant.iter().map(|path| parts(path).0).collect();
    for home in homes {
        let Some(folder) = folders.folders.get(home) else { continue };
        let images = folder.files.iter().filter(|name| is_image(name) && !is_litter(name));
        matched.unlisted.extend(images.map(|name| below(home, name)).filter(|path| !meant.contains(path.as_str())));
    }
    matched.unlisted.sort();
    Ok(matched)
}

/// Folder and name of a path.
fn parts(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The content of one folder.
#[derive(Default)]
struct Folder {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
    /// The names of files by what they have in common.
    alike: OnceCell<BTreeMap<String, Vec<String>>>,
}

impl Folder {
    /// The files that are `name`, or differ from it only in case or Unicode form.
    fn files_like(&self, name: &str) -> Vec<&str> {
        if let Some(file) = self.files.get(name) {
            return vec![file];
        }
        let all = self.alike.get_or_init(|| {
            let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
            self.files.iter().for_each(|file| all.entry(alike(file)).or_default().push(file.clone()));
            all
        });
        all.get(&alike(name)).into_iter().flatten().map(String::as_str).collect()
    }

    fn folders_like(&self, name: &str) -> Vec<&str> {
        if let Some(folder) = self.folders.get(name) {
            return vec![folder];
        }
        let wanted = alike(name);
        self.folders.iter().filter(|folder| alike(folder) == wanted).map(String::as_str).collect()
    }
}

/// The folders that a list leads to, each read once.
struct Folders<'a> {
    root: &'a Path,
    list: &'a Path,
    /// By their paths below the root; nothing in those that are not there.
    folders: BTreeMap<String, Folder>,
    /// The folder that the folder of a listed path means.
    homes: BTreeMap<String, Option<String>>,
}

impl Folders<'_> {
    /// The file that a path means.
    fn file(&mut self, path: &str) -> Result<Option<String>, DataError> {
        let wanted = tidy(path);
        // On this system a backslash may be a part of a name.
        if wanted != path && path.contains('\\') {
            let (folder, name) = parts(path);
            if self.folder(folder)?.files.contains(name) {
                return Ok(Some(path.to_owned()));
            }
        }
        let (folder, name) = parts(&wanted);
        let Some(home) = self.home(folder)? else { return Ok(None) };
        let found = one(self.list, &wanted, self.folder(&home)?.files_like(name))?.map(|name| below(&home, name));
        Ok(found)
    }

    /// The folder that a listed one means.
    fn home(&mut self, listed: &str) -> Result<Option<String>, DataError> {
        if let Some(home) = self.homes.get(listed) {
            return Ok(home.clone());
        }
        let there = self.root.join(listed).is_dir();
        let home = if there { Some(listed.to_owned()) } else { self.deepest(listed)?.whole() };
        self.homes.insert(listed.to_owned(), home.clone());
        Ok(home)
    }

    /// Goes down as far as there are folders.
    fn deepest(&mut self, listed: &str) -> Result<Way, DataError> {
        let mut at = String::new();
        for part in listed.split('/') {
            let folders = self.folder(&at)?.folders_like(part).into_iter().map(str::to_owned).collect::<Vec<_>>();
            match one(self.list, listed, folders.iter().map(String::as_str).collect())? {
                Some(folder) => at = below(&at, folder),
                None => return Ok(Way { at, missing: Some(part.to_owned()) }),
            }
        }
        Ok(Way { at, missing: None })
    }

    fn folder(&mut self, path: &str) -> Result<&Folder, DataError> {
        if !self.folders.contains_key(path) {
            self.folders.insert(path.to_owned(), read(&self.root.join(path))?);
        }
        Ok(&self.folders[path])
    }

    /// A hint for a path that does not exist.
    fn hint(&mut self, path: &str, all: bool) -> Result<String, DataError> {
        if all {
            if let Some(folder) = elsewhere(self.root, path) {
                return Ok(format!("they are below {}: move them, or correct the list", folder.display()));
            }
            let shorter = path.match_indices('/').map(|(at, _)| path.split_at(at + 1));
            if let Some((more, _)) = shorter.into_iter().find(|(_, rest)| self.root.join(rest).is_file()) {
                return Ok(format!("without {more:?} before them they are there: correct the list"));
            }
        }
        let (folder, name) = parts(path);
        let meant = match self.home(folder)? {
            Some(home) => {
                let folder = self.folder(&home)?;
                // A file that was saved in another format before one that has another name.
                let stem = |name: &str| alike(name.rsplit_once('.').map_or(name, |(stem, _)| stem));
                let same = folder.files.iter().find(|file| stem(file) == stem(name)).map(String::as_str);
                same.or_else(|| nearest(name, folder.files.iter().map(String::as_str))).map(|near| below(&home, near))
            }
            None => match self.deepest(folder)? {
                Way { at, missing: Some(missing) } => {
                    let folders = &self.folder(&at)?.folders;
                    nearest(&missing, folders.iter().map(String::as_str)).map(|near| below(&at, near) + "/")
                }
                Way { .. } => None,
            },
        };
        Ok(match meant {
            Some(meant) => format!("{meant} is there: correct the list if that is meant"),
            None => "the archive may be unpacked in part, so fetch it again, or correct the list".to_owned(),
        })
    }
}

/// How far a listed folder leads.
struct Way {
    at: String,
    /// The part that is not there.
    missing: Option<String>,
}

impl Way {
    /// The folder, if it is the one that the list says.
    fn whole(self) -> Option<String> {
        Some(self.at).filter(|_| self.missing.is_none())
    }
}

/// The only candidate.
fn one<'a>(list: &Path, path: &str, candidates: Vec<&'a str>) -> Result<Option<&'a str>, DataError> {
    match candidates[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        [first, second, ..] => Err(DataError::Content {
            path: list.to_owned(),
            message: format!(
                "{path:?} may be {first:?} or {second:?}, which differ only in case or Unicode form; name one of them \
                 exactly"
            ),
        }),
    }
}

fn read(path: &Path) -> Result<Folder, DataError> {
    let mut folder = Folder::default();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(folder),
        Err(e) => return Err(e.into()),
    };
    for entry in entries {
        let entry = entry?;
        // A name that is not UTF-8 is in no list.
        let Ok(name) = entry.file_name().into_string() else { continue };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => _ = folder.folders.insert(name),
            Ok(kind) => {
                if kind.is_symlink() && entry.path().is_dir() {
                    folder.folders.insert(name);
                } else {
                    folder.files.insert(name);
                }
            }
            Err(_) => {}
        }
    }
    Ok(folder)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder with empty files.
    pub(in crate::data::layout) fn make(files: &[&str]) -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        for file in files {
            let path = room.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        room
    }

    fn found(files: &[&str], listed: &[&str]) -> Result<Matched, String> {
        let room = make(files);
        let found = find(room.path(), Path::new("list"), listed.iter().copied());
        found.map_err(|error| error.to_string().replace(&room.path().display().to_string(), "ROOM"))
    }

    #[test]
    fn a_path_means_the_file_of_its_name_or_the_only_variant_of_it() {
        // The name of the folder is composed, that of the list is not.
        let files =
            ["caf\u{e9}/1.JPG", "caf\u{e9}/2.jpg", "caf\u{e9}/._2.jpg", "b/x\\y.jpg", "caf\u{e9}/3.jpg", "b/n.txt"];
        let listed = ["cafe\u{301}/1.jpg", ".\\CAF\u{c9}\\2.jpg", "b/x\\y.jpg"];
        let matched = found(&files, &listed).unwrap();
        assert_eq!(matched.paths, ["caf\u{e9}/1.JPG", "caf\u{e9}/2.jpg", "b/x\\y.jpg"]);
        assert_eq!(matched.unlisted, ["caf\u{e9}/3.jpg"]);
        // The exact name takes precedence.
        assert_eq!(found(&["a.jpg", "A.jpg"], &["A.jpg"]).unwrap().paths, ["A.jpg"]);
        let message = found(&["a.jpg", "A.jpg"], &["a.JPG"]).unwrap_err();
        assert!(message.contains("\"A.jpg\" or \"a.jpg\""), "{message}");
    }

    #[test]
    fn what_may_be_meant_by_a_missing_path_is_said() {
        for (files, listed, hint) in [
            (["a/1.jpg", "a/2.jpg"], "a/1.png", "a/1.jpg is there"),
            (["a/albatross_01.jpg", "a/2.jpg"], "a/albatros_01.jpg", "a/albatross_01.jpg is there"),
            (["albatross/1.jpg", "b/2.jpg"], "albatros/1.jpg", "albatross/ is there"),
            (["x/y/a/1.jpg", "x/y/a/2.jpg"], "a/1.jpg", "they are below ROOM/x/y"),
            (["a/1.jpg", "a/2.jpg"], "set/images/a/1.jpg", "without \"set/images/\""),
            (["a/1.jpg", "a/2.jpg"], "q/1.jpg", "fetch it again"),
            (["a/1.jpg", "a/2.jpg"], "a/3.jpg", "fetch it again"),
        ] {
            let message = found(&files, &[listed]).unwrap_err();
            assert!(message.contains(hint), "{message}");
        }
    }

    #[test]
    fn fields_are_those_of_lists_and_of_spreadsheets() {
        for line in ["1 2 a/b.jpg", "1\t2\ta/b.jpg", "1;2;\"a/b.jpg\";", "1, 2, a/b.jpg"] {
            assert_eq!(fields(line), ["1", "2", "a/b.jpg"]);
        }
    }
}
