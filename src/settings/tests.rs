use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use smart_default::SmartDefault;

use super::*;

/// One of each kind of setting.
#[derive(Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    /// Fraction of the features
    /// dropped.
    ///
    /// Not for users.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    dropout: f64,
    /// Passes over the images.
    #[default = 20]
    #[schemars(range(min = 1, max = 1000), extend("x-unit" = "epochs"))]
    epochs: u32,
    /// A limit.
    #[schemars(extend("exclusiveMinimum" = 0))]
    limit: Option<f64>,
    /// A word.
    word: Word,
    perhaps: Option<Word>,
    /// A choice.
    choice: Choice,
    /// Smoothing constants.
    #[default([0.9, 0.999])]
    #[schemars(inner(range(min = 0, max = 1)))]
    betas: [f64; 2],
    inner: Inner,
    perhaps_inner: Option<Inner>,
    #[schemars(extend("x-type" = "seed"))]
    seed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// One.
    #[default]
    FirstOne,
    /// Two.
    Second,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Choice {
    Plain,
    Step {
        /// Epochs between two steps.
        #[schemars(range(min = 1))]
        every: u32,
        #[serde(default)]
        floor: f64,
    },
    Boxed(Inner),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Boxed(Inner::default())
    }
}

#[derive(Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    /// Depth.
    #[default = 3]
    #[schemars(range(min = 1))]
    depth: u64,
}

#[test]
fn a_rust_type_declares_names_types_docs_defaults_and_ranges() {
    let settings = Value::Object(Settings::of::<Sample>().definition());
    insta::assert_snapshot!(serde_json::to_string_pretty(&settings).unwrap());
}

#[test]
fn an_invalid_value_is_reported_with_its_path_and_what_was_expected() {
    let settings = Settings::of::<Sample>();
    let values = json!({
        "dropout": 1, "epochs": 0, "limit": 0, "word": "third", "choice": { "kind": "step", "every": 0, "at": 1 },
        "betas": [0.9, 2], "inner": { "depth": "deep" }, "seed": [], "colour": "red", "perhaps": null,
    });
    let found: Vec<String> = settings.check(&values).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(found.join("\n"));
    let found = |values: Value| settings.check(&values).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(found(json!({ "choice": "plain", "dropout": null, "seed": [1, 2] })), "");
    assert_eq!(
        found(json!({ "choice": {} })),
        "`choice` does not say its `kind`; expected `kind`, one of `plain`, `step`, `boxed`"
    );
    assert_eq!(found(json!({ "choice": "wide" })), "`choice` has no kind `wide`");
    assert_eq!(
        found(json!({ "choice": "step" })),
        "parameter `choice.every` is missing; expected `choice.every`, a whole number from 1 upwards"
    );
}

#[test]
fn a_typed_value_is_checked_in_whole_and_its_defaults_pass() {
    assert_eq!(Settings::faults_of(&Sample::default()), []);
    let found = Settings::faults_of(&Sample { dropout: f64::NAN, epochs: 2000, ..Sample::default() });
    let expected = [
        ("dropout", "is not a finite number; expected a number from 0 to below 1"),
        ("epochs", "is 2000, out of its range; expected a whole number of epochs from 1 to 1000"),
    ];
    assert_eq!(found, expected.map(|(path, message)| (path.to_owned(), message.to_owned())));
}

#[test]
fn bounds_are_shown_as_people_say_them() {
    let bounds = |least, most, above, below| Bounds { least, most, above, below }.to_string();
    let (none, one, two) = (None, Some(1.0), Some(2.0));
    assert_eq!(bounds(one, two, none, none), " from 1 to 2");
    assert_eq!(bounds(one, none, none, none), " from 1 upwards");
    assert_eq!(bounds(none, two, none, none), " up to 2");
    assert_eq!(bounds(none, none, one, none), " above 1");
    assert_eq!(bounds(none, two, one, none), " above 1 and up to 2");
    assert_eq!(bounds(one, none, none, two), " from 1 to below 2");
    assert_eq!(bounds(none, none, one, two), " above 1 to below 2");
    assert_eq!(bounds(none, none, none, none), "");
}
