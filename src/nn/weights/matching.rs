//! Which tensor of a file is which of a network, and one error that names everything that does not fit.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use super::error::WeightError;
use super::file::{TensorInfo, WeightFile};
use super::naming::timm_name;

/// Names that one message shows of each kind.
const SHOWN: usize = 8;

/// Names longer than this get no suggestion: comparing takes the product of the lengths.
const COMPARED: usize = 200;

/// The step counts of batch norms: in most files, used by nothing here.
const COUNTER: &str = "num_batches_tracked";

/// For each wanted `(name, shape)` the tensor of the file that holds it, in the order of `wanted`.
///
/// Names are equal, or are torchvision's for what timm, and this program, calls otherwise. Shapes are equal but for
/// leading axes of length 1: the batch norms of BN-Inception's file have (1, C). A tensor of the file that nobody wants
/// is an error, except for `num_batches_tracked` and names that start with one of `ignorable`, such as `fc.`.
///
/// # Errors
/// [`WeightError::Unmatched`] with every name that is missing, unexpected or of another shape.
pub fn match_tensors<'f, N: AsRef<str>, S: AsRef<[usize]>>(
    file: &'f WeightFile,
    wanted: &[(N, S)],
    ignorable: &[&str],
) -> Result<Vec<&'f TensorInfo>, WeightError> {
    let names: HashSet<&str> = wanted.iter().map(|(name, _)| name.as_ref()).collect();
    let mut found: HashMap<String, &TensorInfo> = HashMap::new();
    let mut unexpected = Vec::new();
    let (exact, others): (Vec<_>, Vec<_>) =
        file.tensors().iter().partition(|tensor| names.contains(tensor.name.as_str()));
    found.extend(exact.into_iter().map(|tensor| (tensor.name.clone(), tensor)));
    for tensor in others {
        match timm_name(&tensor.name) {
            Some(name) if names.contains(name.as_str()) && !found.contains_key(&name) => {
                found.insert(name, tensor);
            }
            _ if is_ignorable(&tensor.name, ignorable) => {}
            _ => unexpected.push(tensor.name.clone()),
        }
    }

    let (mut matched, mut missing, mut misshapen) = (Vec::with_capacity(wanted.len()), Vec::new(), Vec::new());
    for (name, shape) in wanted {
        let (name, shape) = (name.as_ref(), shape.as_ref());
        match found.get(name) {
            Some(tensor) if squeezed(&tensor.shape) == squeezed(shape) => matched.push(*tensor),
            Some(tensor) => misshapen.push(Misshapen {
                name: name.to_owned(),
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
            }),
            None => missing.push(Missing { name: name.to_owned(), nearest: None }),
        }
    }
    if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
        return Ok(matched);
    }
    for missing in missing.iter_mut().take(SHOWN) {
        missing.nearest = nearest(&missing.name, &unexpected);
    }
    let (file, wanted) = (file.path().to_path_buf(), wanted.len());
    Err(WeightError::Unmatched(Box::new(Unmatched { file, wanted, missing, unexpected, misshapen })))
}

/// The values of each wanted `(name, shape)`, row-major, in the order of `wanted`; [`match_tensors`] says which.
///
/// # Errors
/// As [`match_tensors`] and [`WeightFile::values`].
pub fn load_tensors<N: AsRef<str>, S: AsRef<[usize]>>(
    file: &WeightFile,
    wanted: &[(N, S)],
    ignorable: &[&str],
) -> Result<Vec<Vec<f32>>, WeightError> {
    match_tensors(file, wanted, ignorable)?.into_iter().map(|tensor| file.values(tensor)).collect()
}

fn is_ignorable(name: &str, ignorable: &[&str]) -> bool {
    name.rsplit('.').next() == Some(COUNTER) || ignorable.iter().any(|prefix| name.starts_with(prefix))
}

/// A shape without its leading axes of length 1.
fn squeezed(shape: &[usize]) -> &[usize] {
    let leading = shape.iter().take_while(|&&length| length == 1).count();
    shape.get(leading..).unwrap_or_default()
}

fn nearest(name: &str, candidates: &[String]) -> Option<String> {
    let limit = (name.len() / 3).max(2);
    candidates
        .iter()
        .filter(|candidate| name.len() <= COMPARED && candidate.len().abs_diff(name.len()) <= limit)
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate.clone())
}

/// The tensors of a file against those of a network.
#[derive(Debug, PartialEq)]
pub struct Unmatched {
    pub file: PathBuf,
    /// How many tensors the network has.
    pub wanted: usize,
    pub missing: Vec<Missing>,
    /// Tensors of the file that the network lacks, in the order of the file.
    pub unexpected: Vec<String>,
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of the network that the file lacks.
#[derive(Debug, PartialEq)]
pub struct Missing {
    pub name: String,
    /// The unexpected name most like it, for the first few.
    pub nearest: Option<String>,
}

/// A tensor whose shape in the file is not the network's.
#[derive(Debug, PartialEq)]
pub struct Misshapen {
    pub name: String,
    pub found: Vec<usize>,
    pub expected: Vec<usize>,
}

impl std::error::Error for Unmatched {}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: not the weights of this network of {} tensors", self.file.display(), self.wanted)?;
        list(f, "missing", &self.missing, |Missing { name, nearest }| match nearest {
            Some(nearest) => format!("{name} (the file has {nearest})"),
            None => name.clone(),
        })?;
        list(f, "unexpected", &self.unexpected, |name| name.escape_debug().to_string())?;
        list(f, "of another shape", &self.misshapen, |Misshapen { name, found, expected }| {
            format!("{name} is {}, expected {}", shape_words(found), shape_words(expected))
        })?;
        write!(
            f,
            "\n`meanfield weights inspect` lists what the file holds; give the architecture that it was saved from"
        )
    }
}

/// One line of the message, cut.
fn list<T>(f: &mut fmt::Formatter<'_>, what: &str, items: &[T], words: impl Fn(&T) -> String) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = items.iter().take(SHOWN).map(words).collect();
    write!(f, "\n  {} {what}: {}", items.len(), shown.join(", "))?;
    match items.len() - shown.len() {
        0 => Ok(()),
        left => write!(f, " and {left} more"),
    }
}

/// A shape as people write it: `64x3x7x7`, and `scalar` for none.
pub fn shape_words(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".to_owned();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
