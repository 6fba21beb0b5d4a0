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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::nn::weights::write_safetensors;

    fn file(tensors: &[(&str, &[usize])]) -> WeightFile {
        let zeros = vec![0.5; 64];
        let tensors = tensors.iter().map(|&(name, shape)| (name, shape, &zeros[..shape.iter().product()]));
        WeightFile::from_bytes("some.pth", write_safetensors(tensors, &BTreeMap::new()).unwrap()).unwrap()
    }

    fn names(found: Vec<&TensorInfo>) -> Vec<&str> {
        found.into_iter().map(|tensor| tensor.name.as_str()).collect()
    }

    #[test]
    fn tensors_come_in_the_order_that_is_wanted() {
        let file = file(&[("a", &[2]), ("b", &[3]), ("fc.weight", &[1, 2]), ("bn.num_batches_tracked", &[])]);
        let wanted: [(&str, &[usize]); 2] = [("b", &[3]), ("a", &[2])];
        assert_eq!(names(match_tensors(&file, &wanted, &["fc."]).unwrap()), ["b", "a"]);
        assert_eq!(load_tensors(&file, &wanted, &["fc."]).unwrap(), [vec![0.5; 3], vec![0.5; 2]]);
        assert!(match_tensors(&file, &wanted, &["f.", "c."]).is_err());
    }

    #[test]
    fn leading_axes_of_length_one_are_no_difference() {
        let file = file(&[("row", &[1, 1, 3]), ("column", &[3, 1]), ("one", &[1])]);
        let wanted: [(&str, &[usize]); 3] = [("row", &[3]), ("column", &[1, 3, 1]), ("one", &[])];
        assert_eq!(names(match_tensors(&file, &wanted, &[]).unwrap()), ["row", "column", "one"]);
        let WeightError::Unmatched(unmatched) =
            match_tensors(&file, &[("row", vec![3, 1]), ("column", vec![3]), ("one", vec![2])], &[]).unwrap_err()
        else {
            panic!("another error");
        };
        assert_eq!(unmatched.misshapen.len(), 3);
    }

    #[test]
    fn the_names_of_torchvision_are_those_of_timm_unless_both_are_there() {
        let theirs = "encoder.layers.encoder_layer_0.ln_1.weight";
        let wanted = [("blocks.0.norm1.weight", [4])];
        assert_eq!(names(match_tensors(&file(&[(theirs, &[4])]), &wanted, &[]).unwrap()), [theirs]);
        let both = file(&[(theirs, &[4]), ("blocks.0.norm1.weight", &[4])]);
        let WeightError::Unmatched(unmatched) = match_tensors(&both, &wanted, &[]).unwrap_err() else {
            panic!("another error");
        };
        assert_eq!((unmatched.missing.len(), &unmatched.unexpected[..]), (0, &[theirs.to_owned()][..]));
    }

    #[test]
    fn one_error_lists_all_that_does_not_fit_and_the_nearest_names() {
        let many: Vec<String> = (0..40).map(|i| format!("teacher.{i:02}")).collect();
        let mut tensors: Vec<(&str, &[usize])> = many.iter().map(|name| (name.as_str(), &[1][..])).collect();
        tensors.extend([("conv1.weight", &[8, 1, 3, 1][..]), ("layer1.0.con1.weight", &[2]), ("scalar", &[])]);
        let wanted: [(&str, &[usize]); 4] =
            [("layer1.0.conv1.weight", &[2]), ("conv1.weight", &[4, 3, 7, 7]), ("scalar", &[2]), ("zzz", &[])];
        let error = match_tensors(&file(&tensors), &wanted, &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "some.pth: not the weights of this network of 4 tensors\n  \
             2 missing: layer1.0.conv1.weight (the file has layer1.0.con1.weight), zzz\n  \
             41 unexpected: layer1.0.con1.weight, teacher.00, teacher.01, teacher.02, teacher.03, teacher.04, \
             teacher.05, teacher.06 and 33 more\n  \
             2 of another shape: conv1.weight is 8x1x3x1, expected 4x3x7x7, scalar is scalar, expected 2\n\
             `meanfield weights inspect` lists what the file holds; give the architecture that it was saved from"
        );
    }
}
