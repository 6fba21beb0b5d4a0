//! Searches of functions whose best place is known.

use super::*;
use crate::math::random::stream;

fn search(text: &str) -> Search {
    serde_json::from_str(text).unwrap()
}

const SPACE: &str = r#"{"a": {"range": [0, 1]}, "b": {"range": [1e-6, 1], "scale": "log"}, "c": {"range": [-2, 3]}}"#;

/// Best at a = 0.3, b = 1e-2, c = 1: 0 there, less elsewhere.
fn score(values: &Values) -> f64 {
    let parts = [(values["a"] - 0.3) / 0.5, (values["b"].log10() + 2.0) / 3.0, (values["c"] - 1.0) / 2.5];
    -parts.iter().map(|part| part * part).sum::<f64>()
}

fn trials(search: &Search, count: u32) -> Vec<Trial> {
    let mut past: Vec<Trial> = Vec::new();
    for at in 0..count {
        let values = search.suggest(at, &past);
        past.push(Trial { score: score(&values), values });
    }
    past
}

#[test]
fn the_estimator_beats_random_search() {
    let (mut estimator, mut even, mut random) = (0.0, 0.0, 0.0);
    for seed in 0..20 {
        let top = |trials: &[Trial]| trials[best(trials).unwrap()].score;
        let with = |method: &str| search(&format!(r#"{{"space": {SPACE}, "method": "{method}", "seed": {seed}}}"#));
        estimator += top(&trials(&with("tpe"), 50));
        even += top(&trials(&with("quasi_random"), 50));
        let space = with("tpe").space;
        let mut uniform = stream(seed, "test", 0, 0);
        let drawn = (0..50).map(|_| score(&space.values(&[uniform.uniform(), uniform.uniform(), uniform.uniform()])));
        random += drawn.fold(f64::NEG_INFINITY, f64::max);
    }
    assert!(estimator > 0.4 * random && estimator > 0.5 * even, "{estimator} {even} {random}");
}

#[test]
fn suggestions_are_a_pure_function_of_their_arguments() {
    let search = search(&format!(r#"{{"space": {SPACE}, "startup": 4, "seed": 7}}"#));
    let past = trials(&search, 8);
    assert_eq!(trials(&search, 8), past);
    assert_eq!(search.suggest(8, &past), search.suggest(8, &past));
    // Scores count from `startup` on, and not before.
    let mut worse = past.clone();
    worse.iter_mut().for_each(|trial| trial.score = -trial.score);
    assert_ne!(search.suggest(8, &worse), search.suggest(8, &past));
    assert_eq!(search.suggest(3, &worse), search.suggest(3, &past));
    assert_ne!(search.suggest(9, &past), search.suggest(8, &past), "two that stand side by side");
    // What has no part in the space says nothing.
    let stranger = Trial { values: Values::from([("x".to_owned(), 1.0)]), score: 9.0 };
    let more: Vec<Trial> = past.iter().cloned().chain([stranger]).collect();
    assert_eq!(search.suggest(8, &more), search.suggest(8, &past));
}

#[test]
fn values_stay_in_their_ranges_and_on_their_scales() {
    let text = r#"{"space": {"n": {"range": [2, 5], "scale": "integer"}, "r": {"range": [1e-6, 1], "scale": "log"}}}"#;
    let search = search(text);
    let all: Vec<Values> = (0..200).map(|at| search.suggest(at, &[])).collect();
    let mut counts = [0; 4];
    all.iter().for_each(|values| counts[values["n"] as usize - 2] += 1);
    assert!(counts.iter().all(|&count| (40..=60).contains(&count)), "{counts:?}");
    let small = all.iter().filter(|values| values["r"] < 1e-3).count();
    assert!((95..=105).contains(&small) && all.iter().all(|values| (1e-6..=1.0).contains(&values["r"])), "{small}");
    // Six digits.
    assert!(all.iter().all(|values| format!("{:e}", values["r"]).split('e').next().unwrap().len() <= 7));
    for values in &all {
        let point = search.space.point(values).unwrap();
        assert_eq!(search.space.values(&point), *values);
    }
}

#[test]
fn invalid_ranges_are_refused() {
    let faults = |space: &str| search(&format!(r#"{{"space": {space}}}"#)).check().len();
    assert_eq!(faults("{}"), 1);
    assert_eq!(faults(r#"{"a": {"range": [1, 1]}, "b": {"range": [0, 1], "scale": "log"}}"#), 2);
    assert_eq!(faults(r#"{"a": {"range": [1, 2.5], "scale": "integer"}, "b": {"range": [0, 1]}}"#), 1);
    let error = serde_json::from_str::<Search>(r#"{"space": {"a": {"range": [1]}}}"#).unwrap_err().to_string();
    assert!(error.contains("invalid length 1"), "{error}");
}

#[test]
fn ties_go_to_the_earliest_trial() {
    let of = |score: f64| Trial { values: Values::new(), score };
    assert_eq!(best(&[]), None);
    assert_eq!(best(&[of(0.0), of(0.5), of(0.5), of(0.1)]), Some(1));
}
