//! Matching of a file's tensors to those of a network.

use std::collections::{HashMap, HashSet};

use super::choice::Choice;
use super::contents::{TensorInfo, TensorSet};
use super::error::WeightError;
use super::file::WeightFile;
use super::prefix::bare;
use super::unmatched::{Misshapen, Missing, SHOWN, Unmatched};
use super::unread::unread_kind;

/// Longer names get no suggestion: comparing takes time in proportion to the product of the lengths.
const COMPARED: usize = 200;

/// Limits on the names of the network used to find prefixes, the prefixes tried, and the dots in a name where one may
/// end.
const PROBES: usize = 16;
const TRIED: usize = 32;
const DEPTH: usize = 16;

/// The step counters of batch normalisations: in most files, and unused here.
const COUNTER: &str = "num_batches_tracked";

/// Maps another library's name of a tensor to the network's; none if it is not a name of that library.
pub type Alias = fn(&str) -> Option<String>;

/// Tensors of a file that match those of a network.
#[derive(Debug)]
pub struct Fit<'f> {
    /// Their place in the file.
    pub choice: Choice,
    /// In the order of the wanted tensors.
    pub tensors: Vec<&'f TensorInfo>,
    /// Number of other tensors in the file.
    pub others: usize,
}

/// Finds for each wanted `(name, shape)` the tensor of the file that holds it.
///
/// The names may have any prefix and be under any key of a checkpoint: `choice` selects them, and is optional if only
/// one place in the file has all of them, or several have the same tensors. Names are equal, or are torchvision's where
/// timm and this program use others. Shapes are equal except for leading axes of length 1: the batch norms of
/// BN-Inception's file have (1, C). An unexpected tensor under the prefix is an error, except for `num_batches_tracked`
/// and names that start with one of `ignorable`, such as `fc.`: additional tensors mean a different network. Tensors
/// outside the prefix belong to something else.
///
/// # Errors
/// [`WeightError::Unmatched`] with every name that is missing, unexpected or of another shape in the closest place, and
/// with the places where all would fit; [`WeightError::Ambiguous`] with the choices; [`WeightError::Key`].
pub fn fit<'f, N: AsRef<str>, S: AsRef<[usize]>>(
    file: &'f WeightFile,
    wanted: &[(N, S)],
    ignorable: &[&str],
    alias: Alias,
    choice: &Choice,
) -> Result<Fit<'f>, WeightError> {
    let wanted: Vec<(&str, &[usize])> = wanted.iter().map(|(name, shape)| (name.as_ref(), shape.as_ref())).collect();
    let unknown = |key: &&String| !file.sets().iter().any(|set| set.is_under(key));
    if let Some(key) = choice.key.as_ref().filter(unknown) {
        let keys = file.sets().iter().map(|set| set.key.clone().unwrap_or_else(|| "none, at the top".to_owned()));
        return Err(WeightError::Key { file: file.path().to_path_buf(), key: key.clone(), keys: keys.collect() });
    }
    let places: Vec<(&TensorSet, String)> = file
        .sets()
        .iter()
        .flat_map(|set| prefixes(set, &wanted, alias).into_iter().map(move |prefix| (set, prefix)))
        .collect();
    let chosen = |place: &&(&TensorSet, String)| {
        choice.key.as_ref().is_none_or(|key| place.0.is_under(key))
            && choice.prefix.as_ref().is_none_or(|prefix| *full(place.0, &place.1) == *bare(prefix))
    };
    let attempt = |place: &(&'f TensorSet, String)| Attempt::new(place.0, &place.1, &wanted, ignorable, alias);
    let mut fits: Vec<Attempt<'_>> = Vec::new();
    for fit in places.iter().filter(chosen).map(attempt).filter(Attempt::fits) {
        if !fits.iter().any(|first| same(&first.matched, &fit.matched)) {
            fits.push(fit);
        }
    }
    match fits.len() {
        0 => {}
        1 => {
            let Attempt { set, prefix, matched, .. } = fits.swap_remove(0);
            let all: usize = file.sets().iter().map(|set| set.tensors.len()).sum();
            let choice = Choice { key: set.key.clone(), prefix: Some(full(set, &prefix)) };
            return Ok(Fit { choice, others: all - matched.len(), tensors: matched });
        }
        _ => {
            let choices = fits.iter().map(|fit| told(file, fit.set, &fit.prefix).to_string()).collect();
            return Err(WeightError::Ambiguous { file: file.path().to_path_buf(), choices });
        }
    }
    // The closest place: of the requested ones if there is any, else the main state dict as it is.
    let mut attempts: Vec<Attempt<'_>> = places.iter().filter(chosen).map(attempt).collect();
    attempts.sort_by_key(|attempt| usize::MAX - attempt.matched.len());
    let asked = file.sets().iter().find(|set| choice.key.as_ref().is_some_and(|key| set.is_under(key))).or(file.main());
    let none =
        || asked.map(|set| Attempt::new(set, choice.prefix.as_deref().unwrap_or_default(), &wanted, ignorable, alias));
    let fitting =
        places.iter().map(attempt).filter(Attempt::fits).map(|fit| told(file, fit.set, &fit.prefix)).collect();
    match attempts.into_iter().next().or_else(none) {
        Some(nearest) => Err(WeightError::Unmatched(Box::new(nearest.unmatched(file, wanted.len(), fitting)))),
        None => Err(WeightError::Key { file: file.path().to_path_buf(), key: String::new(), keys: Vec::new() }),
    }
}

/// A prefix, after the one stripped from all names of the set.
fn full(set: &TensorSet, prefix: &str) -> String {
    format!("{}{prefix}", bare(&set.stripped))
}

/// A place in the notation of pipelines: the key if the file has several, and always the prefix.
fn told(file: &WeightFile, set: &TensorSet, prefix: &str) -> Choice {
    let key = set.key.clone().filter(|_| file.sets().len() > 1);
    Choice { key, prefix: Some(full(set, prefix)) }
}

/// Whether these are the same tensors of the file.
fn same(a: &[&TensorInfo], b: &[&TensorInfo]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.region == b.region && a.layout == b.layout)
}

/// The prefixes under which a set has names of the network, the most likely first; no more than [`TRIED`].
fn prefixes(set: &TensorSet, wanted: &[(&str, &[usize])], alias: Alias) -> Vec<String> {
    let probes: HashSet<&str> = wanted.iter().step_by(wanted.len() / PROBES + 1).map(|(name, _)| *name).collect();
    let mut counts: Vec<(&str, usize)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for tensor in &set.tensors {
        let starts = std::iter::once(0).chain(tensor.name.match_indices('.').map(|(dot, _)| dot + 1));
        for start in starts.take(DEPTH) {
            let (prefix, rest) = tensor.name.split_at(start);
            if probes.contains(rest) || alias(rest).is_some_and(|name| probes.contains(name.as_str())) {
                let place = *places.entry(prefix).or_insert(counts.len());
                match counts.get_mut(place) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((prefix, 1)),
                }
            }
        }
    }
    // The sort is stable: among equals the first in the file comes first.
    counts.sort_by_key(|(_, count)| usize::MAX - count);
    counts.into_iter().take(TRIED).map(|(prefix, _)| prefix.to_owned()).collect()
}

/// The tensors of a set under a prefix, compared with those of a network.
struct Attempt<'f> {
    set: &'f TensorSet,
    prefix: String,
    matched: Vec<&'f TensorInfo>,
    missing: Vec<Missing>,
    unexpected: Vec<String>,
    misshapen: Vec<Misshapen>,
}

impl<'f> Attempt<'f> {
    fn new(set: &'f TensorSet, prefix: &str, wanted: &[(&str, &[usize])], ignorable: &[&str], alias: Alias) -> Self {
        let names: HashSet<&str> = wanted.iter().map(|(name, _)| *name).collect();
        let inside = set.tensors.iter().filter_map(|tensor| Some((tensor.name.strip_prefix(prefix)?, tensor)));
        let (exact, others): (Vec<_>, Vec<_>) = inside.partition(|(name, _)| names.contains(name));
        let mut found: HashMap<String, &TensorInfo> =
            exact.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let mut unexpected = Vec::new();
        for (rest, tensor) in others {
            match alias(rest) {
                Some(name) if names.contains(name.as_str()) && !found.contains_key(&name) => {
                    found.insert(name, tensor);
                }
                _ if is_ignorable(rest, ignorable) => {}
                _ => unexpected.push(rest.to_owned()),
            }
        }
        let mut attempt = Self {
            set,
            prefix: prefix.to_owned(),
            matched: Vec::with_capacity(wanted.len()),
            missing: Vec::new(),
            unexpected,
            misshapen: Vec::new(),
        };
        for &(name, shape) in wanted {
            match found.get(name) {
                Some(tensor) if squeezed(&tensor.shape) == squeezed(shape) => attempt.matched.push(tensor),
                Some(tensor) => attempt.misshapen.push(Misshapen {
                    name: name.to_owned(),
                    found: tensor.shape.clone(),
                    expected: shape.to_vec(),
                }),
                None => attempt.missing.push(Missing { name: name.to_owned(), nearest: None, unread: None }),
            }
        }
        attempt
    }

    fn fits(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }

    fn unmatched(mut self, file: &WeightFile, wanted: usize, fitting: Vec<Choice>) -> Unmatched {
        let unread = |name: &str| {
            let whole = format!("{}{name}", full(self.set, &self.prefix));
            let unread = self.set.unread.iter().find(|unread| *bare(&unread.name) == *whole)?;
            unread_kind(&unread.class).map(|(what, help)| format!("{what}; {help}"))
        };
        for missing in self.missing.iter_mut().take(SHOWN) {
            missing.unread = unread(&missing.name);
            missing.nearest = nearest(&missing.name, &self.unexpected);
        }
        let place = match (told(file, self.set, &self.prefix), file.sets().len()) {
            (Choice { prefix: Some(prefix), .. }, 1) if prefix.is_empty() => None,
            (place, _) => Some(place),
        };
        let hint = hint(&self);
        Unmatched {
            file: file.path().to_path_buf(),
            wanted,
            place,
            missing: self.missing,
            unexpected: self.unexpected,
            misshapen: self.misshapen,
            fitting,
            hint,
        }
    }
}

/// What names or shapes that do not fit indicate about the file.
fn hint(attempt: &Attempt<'_>) -> Option<&'static str> {
    let has = |part: &str| attempt.set.tensors.iter().any(|tensor| tensor.name.contains(part));
    if has("attention.attention.query.weight") {
        return Some(
            "the names are those of Hugging Face's transformers; timm has the same networks under the names that are read",
        );
    }
    if has("dist_token") {
        return Some("a distilled DeiT has one token more than this network; the file without distillation fits");
    }
    let positions =
        |misshapen: &Misshapen| misshapen.name == "pos_embed" && misshapen.found.len() == misshapen.expected.len();
    if attempt.misshapen.len() == 1 && attempt.misshapen.iter().any(positions) {
        return Some(
            "positions are learned for one size of image: train at the size that the file was made with (often 224)",
        );
    }
    None
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::nn::weights::naming::timm_name;
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
        assert_eq!(names(fit(&file, &wanted, &["fc."], timm_name, &Choice::default()).unwrap().tensors), ["b", "a"]);
        assert!(fit(&file, &wanted, &["f.", "c."], timm_name, &Choice::default()).is_err());
    }

    #[test]
    fn leading_axes_of_length_one_are_no_difference() {
        let file = file(&[("row", &[1, 1, 3]), ("column", &[3, 1]), ("one", &[1])]);
        let wanted: [(&str, &[usize]); 3] = [("row", &[3]), ("column", &[1, 3, 1]), ("one", &[])];
        assert_eq!(
            names(fit(&file, &wanted, &[], timm_name, &Choice::default()).unwrap().tensors),
            ["row", "column", "one"]
        );
        let WeightError::Unmatched(unmatched) = fit(
            &file,
            &[("row", vec![3, 1]), ("column", vec![3]), ("one", vec![2])],
            &[],
            timm_name,
            &Choice::default(),
        )
        .unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(unmatched.misshapen.len(), 3);
    }

    #[test]
    fn the_names_of_torchvision_are_those_of_timm_unless_both_are_there() {
        let theirs = "encoder.layers.encoder_layer_0.ln_1.weight";
        let wanted = [("blocks.0.norm1.weight", [4])];
        assert_eq!(
            names(fit(&file(&[(theirs, &[4])]), &wanted, &[], timm_name, &Choice::default()).unwrap().tensors),
            [theirs]
        );
        let both = file(&[(theirs, &[4]), ("blocks.0.norm1.weight", &[4])]);
        let WeightError::Unmatched(unmatched) = fit(&both, &wanted, &[], timm_name, &Choice::default()).unwrap_err()
        else {
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
        let error = fit(&file(&tensors), &wanted, &[], timm_name, &Choice::default()).unwrap_err().to_string();
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

    proptest! {
        #[test]
        fn names_are_found_behind_any_prefix_and_beside_anything(
            prefix in prop::collection::vec(prop::sample::select(vec!["module", "model", "backbone", "net", "0"]), 0..4),
            beside in prop::collection::vec(prop::sample::select(vec!["step", "other.a.w", "b", "a"]), 0..3),
        ) {
            let prefix: String = prefix.iter().map(|part| format!("{part}.")).collect();
            let mut tensors = vec![(format!("{prefix}a.w"), 2), (format!("{prefix}a.b"), 3)];
            tensors.extend(beside.iter().map(|name| (format!("zz.{name}"), 5)));
            tensors.sort();
            tensors.dedup();
            let values = [0.5; 5];
            let named = tensors.iter().map(|(name, len)| (name.as_str(), std::slice::from_ref(len), &values[..*len]));
            let file = WeightFile::from_bytes("f", write_safetensors(named, &BTreeMap::new()).unwrap()).unwrap();
            let found = fit(&file, &[("a.w", [2]), ("a.b", [3])], &[], timm_name, &Choice::default());
            // At the top level everything is under the prefix, and must be wanted.
            if prefix.is_empty() && tensors.len() > 2 {
                prop_assert!(found.is_err());
            } else {
                let fit = found.unwrap();
                prop_assert_eq!(fit.choice.prefix.as_deref(), Some(&*prefix));
                prop_assert_eq!(fit.others, tensors.len() - 2);
                let shapes: Vec<&[usize]> = fit.tensors.iter().map(|tensor| &tensor.shape[..]).collect();
                prop_assert_eq!(shapes, [&[2][..], &[3]]);
            }
        }
    }
}
