//! Every loss by name: what a pipeline may write, checked and built.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Loss;
use super::fields::Field;
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

/// A loss and its parameters are outside their ranges.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("loss {loss}: {}", problems.iter().map(|(field, message)| format!("{field} {message}")).collect::<Vec<_>>().join("; "))]
pub struct SpecError {
    /// The loss.
    pub loss: &'static str,
    /// Each field at fault, and what is wrong with it.
    pub problems: Vec<(String, String)>,
}

macro_rules! losses {
    ($($loss:ident = $name:literal),* $(,)?) => {
        /// A loss with its parameters, as a pipeline writes it: `{ kind: contrastive, neg_margin: 0.5 }`.
        ///
        /// A parameter not given has its default; one that the loss does not have is refused.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

            /// Names, defaults and ranges of this loss's parameters.
            pub fn fields(&self) -> &'static [Field] {
                match self { $(Self::$loss(_) => $loss::FIELDS),* }
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

losses! {
    Contrastive = "contrastive",
    MultiSimilarity = "multi_similarity",
    ClassWiseMultiSimilarity = "class_wise_multi_similarity",
    MeanFieldContrastive = "mean_field_contrastive",
    MeanFieldClassWiseMultiSimilarity = "mean_field_class_wise_multi_similarity",
    ProxyAnchor = "proxy_anchor",
    Triplet = "triplet",
    NtXent = "nt_xent",
    SnrContrastive = "snr_contrastive",
    FastAp = "fast_ap",
    Margin = "margin",
    ProxyNca = "proxy_nca",
    NormalizedSoftmax = "normalized_softmax",
    CosFace = "cosface",
    ArcFace = "arcface",
    SoftTriple = "soft_triple",
    NPair = "n_pair",
    Center = "center",
    CrossBatchMemory = "cross_batch_memory",
    ClassWiseContrastive = "class_wise_contrastive",
    BinomialDeviance = "binomial_deviance",
    MeanFieldBinomialDeviance = "mean_field_binomial_deviance",
    ClassWiseTriplet = "class_wise_triplet",
    MeanFieldTriplet = "mean_field_triplet",
}

impl LossSpec {
    /// The losses that compare the samples of a batch pair by pair or triplet by triplet, which
    /// [`cross_batch_memory`](super::cross_batch_memory) can wrap.
    pub const OF_SAMPLES: &'static [&'static str] =
        &["contrastive", "multi_similarity", "triplet", "nt_xent", "snr_contrastive", "fast_ap", "margin"];

    /// This loss, if it is one of [`LossSpec::OF_SAMPLES`].
    pub(super) fn of_samples<T: Real>(&self) -> Option<&dyn OfSamples<T>> {
        match self {
            Self::Contrastive(loss) => Some(loss),
            Self::MultiSimilarity(loss) => Some(loss),
            Self::Triplet(loss) => Some(loss),
            Self::NtXent(loss) => Some(loss),
            Self::SnrContrastive(loss) => Some(loss),
            Self::FastAp(loss) => Some(loss),
            Self::Margin(loss) => Some(loss),
            _ => None,
        }
    }

    /// Each parameter outside its range, as a path, and what is wrong with it; empty if all is well.
    pub fn check(&self) -> Vec<(String, String)> {
        let values = serde_json::to_value(self).unwrap_or_default();
        let fault = |field: &Field| Some((field.name.to_owned(), field.range.fault(&values[field.name])?));
        let mut faults: Vec<_> = self.fields().iter().filter_map(fault).collect();
        if let Self::CrossBatchMemory(wrapper) = self {
            faults.extend(wrapper.loss.check().into_iter().map(|(path, message)| (format!("loss.{path}"), message)));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::fields::Value;
    use serde_json::json;

    #[test]
    fn every_name_parses_to_its_defaults_and_these_are_the_table() {
        for name in LossSpec::NAMES {
            let spec: LossSpec = serde_json::from_value(json!({ "kind": name })).unwrap();
            assert_eq!(Some(&spec), LossSpec::named(name).as_ref());
            assert_eq!(spec.name(), *name);
            assert_eq!(spec.check(), [], "{name}");
            let mut values = serde_json::to_value(&spec).unwrap();
            let values = values.as_object_mut().unwrap();
            assert_eq!(values.shift_remove("kind"), Some(json!(name)));
            let table: serde_json::Map<_, _> = spec
                .fields()
                .iter()
                .map(|field| {
                    let value = match field.default {
                        Value::Number(x) => json!(x),
                        Value::Count(x) => json!(x),
                        Value::Word(x) => json!(x),
                        Value::Loss(x) => json!(LossSpec::named(x).unwrap()),
                    };
                    assert_eq!(field.range.fault(&value), None, "{name}.{}", field.name);
                    (field.name.to_owned(), value)
                })
                .collect();
            assert_eq!(*values, table, "{name}");
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
    fn the_losses_of_samples_are_those_with_such_a_formula() {
        let has = |name: &&str| LossSpec::named(name).unwrap().of_samples::<f32>().is_some();
        assert_eq!(LossSpec::NAMES.iter().copied().filter(has).collect::<Vec<_>>(), LossSpec::OF_SAMPLES);
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
            "loss proxy_anchor: margin is not finite, expected a number in [-2.0, 4.0]; \
             alpha is 0.0, expected a number in [1e-6, 1000000.0]"
        );
    }
}
