//! Cars-196 in each of the three forms in which it is distributed: all images in one folder and their classes in a
//! MATLAB file; the authors' own halves with a MATLAB file each; one folder per class with two CSV files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::found::{Found, Image};
use super::{below, files, help, home, names};
use crate::data::error::DataError;
use crate::data::listing::Location;
use crate::data::mat::{self, MatValue};
use crate::text;

/// The folders that may hold the set: the name of this program, that of torchvision, and none.
const HOMES: [&str; 3] = ["cars196", "stanford_cars", ""];
const ANNOTATIONS: &str = "cars_annos.mat";
/// Lists of the halves, each with the folder of its images, which one mirror has within another of that name.
const HALVES: [(&str, &str); 2] =
    [("cars_train_annos.mat", "cars_train"), ("cars_test_annos_withlabels.mat", "cars_test")];
/// Where those lists are.
const DEVKITS: [&str; 4] = ["devkit", "car_devkit/devkit", "car_devkit", ""];
/// Lists of the mirror with a folder per class, each with the folder of its images.
const MIRROR: [(&str, &str); 2] =
    [("anno_train.csv", "car_data/car_data/train"), ("anno_test.csv", "car_data/car_data/test")];
const CLASSES: usize = 196;

/// Reads the form that the folder has. Classes come in the order of their numbers.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    if let Some(home) = home(root, &HOMES, ANNOTATIONS) {
        return read_annotations(&home);
    }
    let devkits = || DEVKITS.iter().map(|kit| [kit, HALVES[0].0].join("/"));
    if let Some(home) = devkits().find_map(|list| home(root, &HOMES, list.trim_start_matches('/'))) {
        return read_halves(&home);
    }
    if let Some(home) = home(root, &HOMES, MIRROR[0].0) {
        return read_mirror(&home);
    }
    let unpack = "put it there, and next to it the folder car_ims that car_ims.tgz unpacks to (`uses: download/cars196` \
                  does), or set root; or use another form of the set: docs/data.md, Cars-196";
    Err(DataError::NoLayout {
        folder: root.to_owned(),
        set: "Cars-196",
        what: "file cars196/cars_annos.mat",
        help: help(root, &[ANNOTATIONS, HALVES[0].0, "devkit/cars_train_annos.mat", MIRROR[0].0], unpack.to_owned()),
    })
}

/// The annotations of a MATLAB file.
struct Annotations {
    path: PathBuf,
    /// Path and class of each image.
    images: Vec<(String, usize)>,
    /// Of the classes; empty if the file has none.
    names: Vec<String>,
}

/// Reads the struct array `annotations` with the text field `image` and the number `class`, and the names in `class_names`.
fn annotations(path: PathBuf, image: &str) -> Result<Annotations, DataError> {
    let wrong = |message: String| DataError::Content { path: path.clone(), message };
    let variables = variables(&path)?;
    let field = |name: &str| match variable(&variables, "annotations") {
        Some(MatValue::Struct(fields)) => fields.iter().find(|(n, _)| n == name).map(|(_, values)| values),
        _ => None,
    };
    let (Some(paths), Some(classes)) = (field(image), field("class")) else {
        return Err(wrong(format!("expected the struct array `annotations` with fields {image} and class")));
    };
    let names = class_names(&variables);
    let count = if names.is_empty() { CLASSES } else { names.len() };
    let mut images = Vec::with_capacity(paths.len());
    for (i, (image_path, class)) in paths.iter().zip(classes).enumerate() {
        let wrong = |message: String| wrong(format!("annotations({}): {message}", i + 1));
        let path = image_path.text().ok_or_else(|| wrong(format!("{image} is not text")))?;
        let class = class.number().ok_or_else(|| wrong("class is not a number".to_owned()))?;
        if class.fract() != 0.0 || !(1.0..=count as f64).contains(&class) {
            return Err(wrong(format!("the class is {class}, expected an integer in 1..={count}")));
        }
        images.push((below(path).map_err(wrong)?.to_owned(), class as usize));
    }
    Ok(Annotations { path, images, names })
}

fn variables(path: &Path) -> Result<Vec<(String, MatValue)>, DataError> {
    let bytes = fs_err::read(path)?;
    mat::read(&bytes).map_err(|error| DataError::Content { path: path.to_owned(), message: error.to_string() })
}

fn variable<'a>(variables: &'a [(String, MatValue)], name: &str) -> Option<&'a MatValue> {
    variables.iter().find(|(n, _)| n == name).map(|(_, value)| value)
}

fn class_names(variables: &[(String, MatValue)]) -> Vec<String> {
    match variable(variables, "class_names") {
        Some(MatValue::Cells(cells)) => cells.iter().filter_map(MatValue::text).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Images with the numbers of their classes, and the paths of other images.
type Listed = (Vec<(usize, Image)>, Vec<String>);

/// The images of annotations below `home`, each once.
fn images(home: &Path, annotations: &Annotations) -> Result<Listed, DataError> {
    let Annotations { path, images, .. } = annotations;
    let matched = files::find(home, path, images.iter().map(|(path, _)| path.as_str()))?;
    let mut seen = BTreeMap::new();
    for (i, image) in matched.paths.iter().enumerate() {
        if let Some(first) = seen.insert(image, i + 1) {
            let message = format!("annotations({}) names {image:?}, as annotations({first}) does", i + 1);
            return Err(DataError::Content { path: path.clone(), message });
        }
    }
    let image = |path| Image { location: Location::File(path), split: None, group: None };
    let pairs = images.iter().map(|(_, class)| *class).zip(matched.paths.into_iter().map(image)).collect();
    Ok((pairs, matched.unlisted))
}

/// `car_ims/000001.jpg` and so on, with the annotations of all.
fn read_annotations(home: &Path) -> Result<Found, DataError> {
    let all = annotations(home.join(ANNOTATIONS), "relative_im_path")?;
    let (pairs, unlisted) = images(home, &all)?;
    let classes = Found::by_class(pairs, |&class| class_name(class, all.names.get(class - 1).map(String::as_str)));
    Ok(Found { root: home.to_owned(), classes, unlisted, ..Found::default() })
}

/// `cars_train/00001.jpg`, `cars_test/00001.jpg` and so on, with the annotations of each half; the classes' names are in a
/// file of their own.
fn read_halves(home: &Path) -> Result<Found, DataError> {
    let kit = DEVKITS.iter().map(|kit| home.join(kit)).find(|kit| kit.join(HALVES[0].0).exists());
    let kit = kit.unwrap_or_else(|| home.to_owned());
    let names = match kit.join("cars_meta.mat") {
        meta if meta.exists() => class_names(&variables(&meta)?),
        _ => Vec::new(),
    };
    let (mut pairs, mut unlisted) = (Vec::new(), Vec::new());
    for (list, folder) in HALVES {
        let Some(path) = [&kit, home].map(|folder| folder.join(list)).into_iter().find(|path| path.exists()) else {
            return Err(DataError::NoLayout {
                folder: kit,
                set: "Cars-196",
                what: "file cars_test_annos_withlabels.mat",
                help: "it has the classes of cars_test, which cars_test_annos.mat does not say: put it next to \
                       cars_train_annos.mat (docs/data.md, Cars-196, says where it is had)"
                    .to_owned(),
            });
        };
        let inner = format!("{folder}/{folder}");
        let folder = if home.join(&inner).is_dir() { &inner } else { folder };
        let mut half = annotations(path, "fname")?;
        half.images.iter_mut().for_each(|(path, _)| *path = format!("{folder}/{path}"));
        let (found, others) = images(home, &half)?;
        pairs.extend(found);
        unlisted.extend(others);
    }
    let classes = Found::by_class(pairs, |&class| class_name(class, names.get(class - 1).map(String::as_str)));
    Ok(Found { root: home.to_owned(), classes, unlisted, ..Found::default() })
}

/// Lines `FILE,x1,y1,x2,y2,CLASS`; the file is in the folder of its class's name.
fn read_mirror(home: &Path) -> Result<Found, DataError> {
    let mut pairs = Vec::new();
    let mut unlisted = Vec::new();
    let mut names = BTreeMap::new();
    for (list, folder) in MIRROR {
        let path = home.join(list);
        let text = text::read(&path)?;
        let base = home.join(folder);
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&base).min_depth(2).max_depth(2).follow_links(true) {
            let entry = entry.map_err(std::io::Error::from)?;
            let below = entry.path().strip_prefix(&base).ok().and_then(Path::to_str);
            if let Some((class, file)) = below.and_then(|below| below.split_once('/'))
                && !names::is_litter(file)
                && !names::is_litter(class)
            {
                places.insert(file.to_owned(), class.to_owned());
            }
        }
        let names_of_files = files::Names::new(places.keys().map(String::as_str));
        let (mut missing, mut lines, mut used) = (Vec::new(), 0, BTreeSet::new());
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |message: String| DataError::Line { path: path.clone(), line: i + 1, message };
            let fields: Vec<&str> = line.trim().split([',', ';']).map(|field| field.trim_matches('"')).collect();
            let &[file, _, _, _, _, class] = &fields[..] else {
                return Err(wrong(format!("expected FILE,x1,y1,x2,y2,CLASS; found {line:?}")));
            };
            let class = class.parse().ok().filter(|class| (1..=CLASSES).contains(class));
            let class = class
                .ok_or_else(|| wrong(format!("the class is {:?}, expected an integer in 1..={CLASSES}", fields[5])))?;
            lines += 1;
            let file = below(file).map_err(wrong)?;
            match names_of_files.find(file) {
                Ok(file) if used.insert(file) => {
                    let name = &places[file];
                    pairs.push((
                        class,
                        Image { location: Location::File(format!("{folder}/{name}/{file}")), split: None, group: None },
                    ));
                    names.insert(class, name.clone());
                }
                _ => missing.push(format!("{folder}/*/{file}")),
            }
        }
        if !missing.is_empty() {
            let count = missing.len();
            missing.truncate(10);
            return Err(DataError::MissingImages {
                list: path,
                count,
                total: lines,
                first: missing,
                hint: "fetch the set again, or correct the list".to_owned(),
            });
        }
        let left = places.iter().filter(|(file, _)| !used.contains(file.as_str()));
        unlisted.extend(left.map(|(file, name)| format!("{folder}/{name}/{file}")));
    }
    let classes = Found::by_class(pairs, |class| class_name(*class, names.get(class).map(String::as_str)));
    Ok(Found { root: home.to_owned(), classes, unlisted, ..Found::default() })
}

fn class_name(class: usize, name: Option<&str>) -> String {
    name.map_or(format!("{class:03}"), |name| format!("{class:03}.{name}"))
}
