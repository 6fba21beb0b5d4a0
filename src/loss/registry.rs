//! All losses by name: what a pipeline may write, checked and built.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::Loss;
use super::formula::OfSamples;
use super::{
    arcface::ArcFace, binomial_deviance::BinomialDeviance, center::Center,
    class_wise_contrastive::ClassWiseContrastive, class_wise_multi_similarity::ClassWiseMultiSimilarity,
    class_wise_triplet::ClassWiseTriplet, contrastive::Contrastive, cosface::CosFace,
    cross_batch_memory::CrossBatchMemory, fast_ap::FastAp, margin::Margin,
    mean_field_binomial_deviance::MeanFieldBinomialDeviance,
    mean_field_class_wise_multi_similarity::MeanFieldClassWiseMultiSimilarity,
    mean_field_contrastive::MeanFieldContrastive, mean_field_triplet::MeanFieldTriplet,
    multi_similarity::MultiSimilarity, n_pair::NPair, normalized_softmax::NormalizedSoftmax, nt_xent::NtXent,
    proxy_anchor::ProxyAnchor, proxy_nca::ProxyNca, snr_contrastive::SnrContrastive, soft_triple::SoftTriple,
    triplet::Triplet,
};
use crate::math::real::Real;
use crate::settings::{Setting, Settings, TAG};

/// What a loss compares the samples of a batch with: the mark of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparedWith {
    /// Other samples, pair by pair or triplet by triplet, which may come from past batches too:
    /// [`cross_batch_memory`](super::cross_batch_memory) can wrap it.
    Samples,
    /// The other samples of the batch, only.
    Batch,
    /// One learned vector for each class, a mean field or proxy, and nothing else that is learned.
    ClassVector,
    /// Learned vectors of the classes in another number or beside other matrices.
    ClassVectors,
}

/// Parameters of a loss are outside their ranges.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("loss {loss}: {}", problems.iter().map(|(field, message)| format!("{field} {message}")).collect::<Vec<_>>().join("; "))]
pub struct SpecError {
    /// The loss.
    pub loss: &'static str,
    /// Each field at fault, and what is wrong with it.
    pub problems: Vec<(String, String)>,
}

/// One row for each loss: its type, its name in pipelines, and what it compares samples with.
macro_rules! losses {
    ($($loss:ident = $name:literal compared with $mark:ident),* $(,)?) => {
        /// A loss with its parameters, as a pipeline writes it: `{ kind: contrastive, neg_margin: 0.5 }`.
        ///
        /// Missing parameters have their defaults; unknown ones are an error.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "kind")]
        pub enum LossSpec {
            $(#[doc = concat!("`", $name, "`: see [`", stringify!($loss), "`].")] #[serde(rename = $name)] $loss($loss),)*
        }

        impl LossSpec {
            /// The names of all losses, as `kind` takes them.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The file of each loss.
            #[cfg(test)]
            const FILES: &'static [&'static str] = &[$(include_str!(concat!($name, ".rs"))),*];

            /// The name of this loss.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$loss(_) => $name),* }
            }

            /// The loss of that name with its defaults.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$loss($loss::default())),)* _ => None }
            }

            /// What this loss compares samples with.
            pub fn compared_with(&self) -> ComparedWith {
                match self { $(Self::$loss(_) => ComparedWith::$mark),* }
            }

            /// The names, defaults and ranges of this loss's parameters.
            pub fn settings(&self) -> &'static Settings<Value> {
                match self { $(Self::$loss(_) => Settings::of::<$loss>()),* }
            }

            /// This loss, if it compares samples with [`ComparedWith::Samples`].
            pub(super) fn of_samples<T: Real>(&self) -> Option<&dyn OfSamples<T>> {
                match self { $(Self::$loss(loss) => of_samples!($mark loss)),* }
            }

            /// The schema of those losses that compare samples with [`ComparedWith::Samples`].
            pub(super) fn of_samples_schema(generator: &mut SchemaGenerator) -> Schema {
                let mut schemas = Vec::new();
                $(if ComparedWith::$mark == ComparedWith::Samples {
                    schemas.push(variant::<$loss>($name, generator));
                })*
                json_schema!({ "oneOf": schemas })
            }

            /// The loss, if its parameters are within their ranges.
            pub fn build<T: Real>(&self) -> Result<Box<dyn Loss<T>>, SpecError> {
                let problems = self.check();
                if !problems.is_empty() {
                    return Err(SpecError { loss: self.name(), problems });
                }
                Ok(match self { $(Self::$loss(loss) => Box::new(loss.clone())),* })
            }
        }
    };
}

macro_rules! of_samples {
    (Samples $loss:ident) => {
        Some($loss)
    };
    ($other:ident $loss:ident) => {{
        let _ = $loss;
        None
    }};
}

/// The schema of one loss with its tag.
fn variant<L: JsonSchema>(name: &str, generator: &mut SchemaGenerator) -> Schema {
    let mut schema = L::json_schema(generator);
    let object = schema.ensure_object();
    let properties = object.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    properties[TAG] = json!({ "const": name });
    schema
}

losses! {
    Contrastive = "contrastive" compared with Samples,
    MultiSimilarity = "multi_similarity" compared with Samples,
    ClassWiseMultiSimilarity = "class_wise_multi_similarity" compared with Batch,
    MeanFieldContrastive = "mean_field_contrastive" compared with ClassVector,
    MeanFieldClassWiseMultiSimilarity = "mean_field_class_wise_multi_similarity" compared with ClassVector,
    ProxyAnchor = "proxy_anchor" compared with ClassVector,
    Triplet = "triplet" compared with Samples,
    NtXent = "nt_xent" compared with Samples,
    SnrContrastive = "snr_contrastive" compared with Samples,
    FastAp = "fast_ap" compared with Samples,
    Margin = "margin" compared with Samples,
    ProxyNca = "proxy_nca" compared with ClassVector,
    NormalizedSoftmax = "normalized_softmax" compared with ClassVector,
    CosFace = "cosface" compared with ClassVector,
    ArcFace = "arcface" compared with ClassVector,
    SoftTriple = "soft_triple" compared with ClassVectors,
    NPair = "n_pair" compared with Batch,
    Center = "center" compared with ClassVectors,
    CrossBatchMemory = "cross_batch_memory" compared with Batch,
    ClassWiseContrastive = "class_wise_contrastive" compared with Batch,
    BinomialDeviance = "binomial_deviance" compared with Batch,
    MeanFieldBinomialDeviance = "mean_field_binomial_deviance" compared with ClassVector,
    ClassWiseTriplet = "class_wise_triplet" compared with Batch,
    MeanFieldTriplet = "mean_field_triplet" compared with ClassVector,
}

impl LossSpec {
    /// The names of the losses that compare samples with `mark`.
    pub fn names_compared_with(mark: ComparedWith) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .iter()
            .copied()
            .filter(move |name| Self::named(name).is_some_and(|loss| loss.compared_with() == mark))
    }

    /// Each parameter outside its range, as a path, and what is wrong with it; empty if there are none.
    pub fn check(&self) -> Vec<(String, String)> {
        Setting::faults_of(self)
    }
}

impl Default for LossSpec {
    fn default() -> Self {
        Self::Contrastive(Contrastive::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::has_class_vectors;

    #[test]
    fn every_name_parses_to_its_defaults_which_are_declared_and_in_their_ranges() {
        for name in LossSpec::NAMES {
            let spec: LossSpec = serde_json::from_value(json!({ "kind": name })).unwrap();
            assert_eq!(Some(&spec), LossSpec::named(name).as_ref());
            assert_eq!(spec.name(), *name);
            assert_eq!(spec.check(), [], "{name}");
            let settings = spec.settings();
            assert_eq!(settings.check(&json!({})).len(), 0, "{name} has a parameter without a default");
            for (field, setting) in &settings.0 {
                let default = setting.default.as_ref().unwrap();
                assert_eq!(setting.check(default, field).len(), 0, "{name}.{field}");
                assert!(setting.doc.is_some(), "{name}.{field} has no doc");
            }
        }
        assert_eq!(LossSpec::named("contrastiv"), None);
    }

    #[test]
    fn every_loss_says_its_formula_shapes_parameters_gradient_cost_and_source() {
        for (name, file) in LossSpec::NAMES.iter().zip(LossSpec::FILES) {
            let mut rest = *file;
            for part in ["```text", "# Shapes", "# Parameters", "# Gradient", "# Cost\n/// ", "# Source"] {
                let at =
                    rest.find(&format!("\n/// {part}")).unwrap_or_else(|| panic!("{name} lacks {part} in its place"));
                rest = &rest[at + 1..];
            }
            let cost = file.split("/// # Cost\n").nth(1).unwrap().split("/// # Source").next().unwrap();
            assert!(cost.contains("O(") && ['C', 'D'].iter().all(|letter| cost.contains(*letter)), "{name}: {cost}");
        }
    }

    #[test]
    fn the_marks_of_a_row_are_those_that_the_loss_shows() {
        for name in LossSpec::NAMES {
            let spec = LossSpec::named(name).unwrap();
            let loss = spec.build::<f32>().unwrap();
            let learns = !loss.parameters(5, 3).is_empty();
            let (mark, vector) = (spec.compared_with(), has_class_vectors(&*loss));
            assert_eq!(vector, mark == ComparedWith::ClassVector, "{name}");
            assert_eq!(learns, vector || mark == ComparedWith::ClassVectors, "{name}");
            let parent = loss.parent();
            assert_eq!(parent.is_some(), name.starts_with("mean_field"), "{name}");
            assert!(parent.is_none_or(|parent| vector && parent.parameters(5, 3).is_empty()), "{name}");
        }
    }

    #[test]
    fn an_unknown_loss_or_parameter_is_refused_by_name() {
        for name in LossSpec::NAMES {
            let error =
                serde_json::from_value::<LossSpec>(json!({ "kind": name, "marginn": 1 })).unwrap_err().to_string();
            assert!(error.contains("unknown field `marginn`"), "{name}: {error}");
        }
        let error = serde_json::from_value::<LossSpec>(json!({ "kind": "contrastiv" })).unwrap_err().to_string();
        assert!(error.contains("unknown variant `contrastiv`"), "{error}");
    }

    #[test]
    fn values_outside_their_range_are_all_named_and_not_built() {
        let spec = LossSpec::ProxyAnchor(ProxyAnchor { margin: f64::NAN, alpha: 0.0 });
        let error = spec.build::<f32>().err().unwrap();
        assert_eq!(
            error.to_string(),
            "loss proxy_anchor: margin is not a finite number; expected a number from -2 to 4; \
             alpha is 0.0, out of its range; expected a number from 0.000001 to 1000000"
        );
    }
}
