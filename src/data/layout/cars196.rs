//! Cars-196: all images in one folder, classes in a MATLAB file; or one folder a class with two CSV files, as a mirror
//! has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Found, Image, below, files, home};
use crate::data::error::DataError;
use crate::data::mat::{self, Value};

const ANNOTATIONS: &str = "cars_annos.mat";
/// Lists of the mirror, each with the folder of its images.
const MIRROR: [(&str, &str); 2] =
    [("anno_train.csv", "car_data/car_data/train"), ("anno_test.csv", "car_data/car_data/test")];
const CLASSES: usize = 196;

/// Reads `cars_annos.mat` and `car_ims`, in `cars196` or right below the root; or the mirror's folders. Classes come in
/// the order of their numbers.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    if let Some(home) = home(root, &["cars196", ""], ANNOTATIONS) {
        return read_annotations(&home);
    }
    if let Some(home) = home(root, &["cars196", ""], MIRROR[0].0) {
        return read_mirror(&home);
    }
    Err(DataError::NoLayout {
        folder: root.to_owned(),
        set: "Cars-196",
        what: "file cars196/cars_annos.mat",
        help: "put it there, and beside it the folder car_ims that car_ims.tgz unpacks to (`uses: download/cars196` \
               does), or set root"
            .to_owned(),
    })
}

/// The struct array `annotations` with the fields `relative_im_path` and `class`, and the names in `class_names`.
fn read_annotations(home: &Path) -> Result<Found, DataError> {
    let path = home.join(ANNOTATIONS);
    let wrong = |message: String| DataError::Content { path: path.clone(), message };
    let bytes = fs::read(&path).map_err(DataError::io("read", &path))?;
    let variables = mat::read(&bytes).map_err(|error| wrong(error.to_string()))?;
    let variable = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    let field = |name: &str| match variable("annotations") {
        Some(Value::Struct(fields)) => fields.iter().find(|(n, _)| n == name).map(|(_, values)| values),
        _ => None,
    };
    let (Some(paths), Some(classes)) = (field("relative_im_path"), field("class")) else {
        return Err(wrong("expected the struct array `annotations` with fields relative_im_path and class".to_owned()));
    };
    let names: Vec<&str> = match variable("class_names") {
        Some(Value::Cells(cells)) => cells.iter().filter_map(Value::text).collect(),
        _ => Vec::new(),
    };
    let count = if names.is_empty() { CLASSES } else { names.len() };
    let mut pairs = Vec::with_capacity(paths.len());
    for (i, (image, class)) in paths.iter().zip(classes).enumerate() {
        let wrong = |message: String| wrong(format!("annotations({}): {message}", i + 1));
        let image = image.text().ok_or_else(|| wrong("relative_im_path is no text".to_owned()))?;
        let class = class.number().ok_or_else(|| wrong("class is no number".to_owned()))?;
        if class.fract() != 0.0 || !(1.0..=count as f64).contains(&class) {
            return Err(wrong(format!("the class is {class}, expected an integer in 1..={count}")));
        }
        let path = below(image).map_err(wrong)?.to_owned();
        pairs.push((class as usize, Image { path, split: None, group: None }));
    }
    let listed = || pairs.iter().map(|(_, image)| image.path.as_str());
    let mut seen = BTreeMap::new();
    for (i, image) in listed().enumerate() {
        if let Some(first) = seen.insert(image, i + 1) {
            return Err(wrong(format!("annotations({}) names {image:?}, as annotations({first}) does", i + 1)));
        }
    }
    let unlisted = files::compare(home, &path, listed())?;
    let classes = Found::by_class(pairs, |&class| class_name(class, names.get(class - 1).copied()));
    Ok(Found { root: home.to_owned(), classes, unlisted, ..Found::default() })
}

/// Lines `FILE,x1,y1,x2,y2,CLASS`; the file lies in the folder of its class's name.
fn read_mirror(home: &Path) -> Result<Found, DataError> {
    let mut pairs = Vec::new();
    let mut unlisted = Vec::new();
    let mut names = BTreeMap::new();
    for (list, folder) in MIRROR {
        let path = home.join(list);
        let text = fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
        let base = home.join(folder);
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&base).min_depth(2).max_depth(2).follow_links(true) {
            let entry = entry.map_err(|e| DataError::io("read", &base)(e.into()))?;
            let below = entry.path().strip_prefix(&base).ok().and_then(Path::to_str);
            if let Some((class, file)) = below.and_then(|below| below.split_once('/'))
                && !file.starts_with('.')
            {
                places.insert(file.to_owned(), class.to_owned());
            }
        }
        let (mut missing, mut lines) = (Vec::new(), 0);
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |message: String| DataError::Line { path: path.clone(), line: i + 1, message };
            let fields: Vec<&str> = line.trim().split(',').collect();
            let &[file, _, _, _, _, class] = &fields[..] else {
                return Err(wrong(format!("expected FILE,x1,y1,x2,y2,CLASS; found {line:?}")));
            };
            let class = class.parse().ok().filter(|class| (1..=CLASSES).contains(class));
            let class = class
                .ok_or_else(|| wrong(format!("the class is {:?}, expected an integer in 1..={CLASSES}", fields[5])))?;
            lines += 1;
            match places.remove(below(file).map_err(wrong)?) {
                None => missing.push(format!("{folder}/*/{file}")),
                Some(name) => {
                    pairs.push((class, Image { path: format!("{folder}/{name}/{file}"), split: None, group: None }));
                    names.insert(class, name);
                }
            }
        }
        if !missing.is_empty() {
            let count = missing.len();
            missing.truncate(10);
            return Err(DataError::MissingImages { list: path, count, total: lines, first: missing });
        }
        unlisted.extend(places.into_iter().map(|(file, name)| format!("{folder}/{name}/{file}")));
    }
    let classes = Found::by_class(pairs, |class| class_name(*class, names.get(class).map(String::as_str)));
    Ok(Found { root: home.to_owned(), classes, unlisted, ..Found::default() })
}

fn class_name(class: usize, name: Option<&str>) -> String {
    name.map_or(format!("{class:03}"), |name| format!("{class:03}.{name}"))
}
