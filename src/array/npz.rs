//! The archives of `numpy.savez`: a zip file of `.npy` files, found by their names.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::read::ZipFile;

use super::{Array, Layout, npy};
use crate::format::{self, Known};

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The names and layouts of its arrays, or why they cannot be read.
    pub arrays: Vec<(String, Result<Layout, String>)>,
}

impl Archive {
    /// Opens the archive at `path` and reads the headers of its arrays.
    ///
    /// # Errors
    /// It is not an archive, or one without arrays.
    pub fn open(path: &Path) -> Result<Self, String> {
        let mut start = Vec::new();
        let head = File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
        head.map_err(|e| e.to_string())?;
        match format::recognise(&start) {
            Some(Known::Zip) => {}
            Some(known) => return Err(format!("it is {known}, not an .npz archive{}", known.advice())),
            None => return Err("it is not an archive; write it with numpy.savez".to_owned()),
        }
        let file = File::open(path).map_err(|e| e.to_string())?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| format!("the archive is damaged: {e}"))?;
        let names: Vec<String> = zip.file_names().filter_map(Result::ok).map(Cow::into_owned).collect();
        let mut archive = Archive { zip, arrays: Vec::new() };
        for name in names.iter().filter_map(|name| npyz::npz::array_name_from_file_name(name)) {
            let layout = archive.entry(name).and_then(|mut entry| npy::layout(&mut entry));
            archive.arrays.push((name.to_owned(), layout));
        }
        if archive.arrays.is_empty() {
            let others = if names.is_empty() { String::new() } else { format!("; it holds {}", names.join(", ")) };
            return Err(format!("the archive holds no .npy array{others}"));
        }
        Ok(archive)
    }

    /// The array called `name`.
    ///
    /// # Errors
    /// It is not there, not of a type that can be read, or damaged.
    pub fn array(&mut self, name: &str) -> Result<Array<impl Read>, String> {
        let mut entry = self.entry(name)?;
        let size = entry.size();
        let layout = npy::layout(&mut entry)?;
        Array::new(layout, entry, size)
    }

    fn entry(&mut self, name: &str) -> Result<ZipFile<'_, BufReader<File>>, String> {
        let file = npyz::npz::file_name_from_array_name(name);
        self.zip.by_name(&file).map_err(|e| format!("{file} in the archive: {e}"))
    }
}
