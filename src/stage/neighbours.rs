//! `neighbours`: query images and the images nearest to them, as a picture and a page.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smart_default::SmartDefault;
use thiserror::Error;

use super::groups::Groups;
use super::job::{JobError, output, parameters, parsed, problems, required};
use super::vectors::{self, Part};
use crate::data::images::EvalImages;
use crate::data::shard::ImageSet;
use crate::data::split::Split;
use crate::engine::execute::KindJob;
use crate::eval::neighbours::neighbours;
use crate::eval::sheet::{self, Line, Picture, SIDE};
use crate::eval::{Options, Scores, retrieval};
use crate::math::random::stream;
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "neighbours",
    version: 1,
    inputs: Inputs::Named(&[
        InputSpec { name: "vectors", required: true },
        InputSpec { name: "images", required: true },
    ]),
    outputs: &[("page", "neighbours.html"), ("picture", "neighbours.png")],
    publish: true,
    continues: &[],
    secrets: 0,
    check,
};

#[derive(Debug, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    /// Split that the vectors are of.
    #[default(Split::Test)]
    split: Split,
    /// Number of queries.
    #[default = 10]
    #[schemars(range(min = 1, max = 1000))]
    queries: usize,
    /// Number of nearest images for each query.
    #[default = 10]
    #[schemars(range(min = 1, max = 100))]
    neighbours: usize,
    /// Which queries: drawn by `seed`, or those of the lowest or the highest MAP@R.
    choose: Choose,
    /// Random seed of the queries.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991u64))]
    seed: u64,
    /// Group of the images used as queries; required with `gallery`.
    query: Option<String>,
    /// Group of the images used as gallery.
    gallery: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Choose {
    #[default]
    Random,
    Worst,
    Best,
}

#[derive(Debug, Error)]
enum SheetError {
    #[error(
        "there are {vectors} vectors and {images} images in the split `{split}`: give the images and the split that the vectors were made of"
    )]
    Rows { vectors: usize, images: usize, split: &'static str },
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    match parsed::<Parameters>(map) {
        Ok(found) => problems(Groups { query: found.query, gallery: found.gallery }.check()),
        Err(found) => found,
    }
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let wanted: Parameters = parameters(&job.parameters)?;
    let all = vectors::read(required(job, "vectors")?)?;
    let images = ImageSet::open(required(job, "images")?)?;
    let view = images.split(wanted.split);
    if view.labels != all.rows.labels {
        let split = wanted.split.name();
        return Err(SheetError::Rows { vectors: all.rows.labels.len(), images: view.len(), split }.into());
    }
    let groups = Groups { query: wanted.query.clone(), gallery: wanted.gallery.clone() };
    let (asked, searched) = groups.of_vectors(&all)?;
    let found = retrieval(asked.labelled(), searched.as_ref().map(Part::labelled), &Options::default())?;
    let chosen = choose(&wanted, &found.per_query);
    let vectors: Vec<f32> =
        chosen.iter().flat_map(|&query| &asked.vectors[query * all.dim..][..all.dim]).copied().collect();
    let gallery = searched.as_ref().unwrap_or(&asked);
    let own: Vec<Option<usize>> = chosen.iter().map(|&query| searched.is_none().then_some(query)).collect();
    let near = neighbours(&vectors, &gallery.vectors, all.dim, &own, wanted.neighbours)?;

    let source = EvalImages::new(&view, [SIDE, SIDE], SIDE);
    let picture = |row: usize| -> Result<Picture, JobError> {
        let mut pixels = vec![0; source.image_bytes()];
        source.write(row..row + 1, &mut pixels)?;
        let label = view.labels[row];
        let class = view.class_names.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
        Ok(Picture { pixels, class, path: view.items[row].path.clone() })
    };
    let mut lines = Vec::new();
    for (&query, near) in chosen.iter().zip(near) {
        let found = near.iter().map(|near| {
            let right = gallery.labels[near.row] == asked.labels[query];
            Ok((picture(gallery.positions[near.row])?, right, near.similarity))
        });
        lines.push(Line { query: picture(asked.positions[query])?, found: found.collect::<Result<_, JobError>>()? });
    }
    fs_err::write(output(job, "page")?, sheet::html(&lines)?)?;
    fs_err::write(output(job, "picture")?, sheet::png(&lines)?)?;
    Ok(())
}

/// Positions of queries that have a match.
fn choose(wanted: &Parameters, scores: &[Option<Scores>]) -> Vec<usize> {
    let mut found: Vec<(usize, f64)> =
        scores.iter().enumerate().filter_map(|(query, scores)| Some((query, (*scores)?.map_at_r))).collect();
    match wanted.choose {
        Choose::Random => {
            let drawn = stream(wanted.seed, "neighbours", 0, 0).distinct(found.len(), wanted.queries);
            return drawn.into_iter().map(|at| found[at].0).collect();
        }
        // Both sorts keep the order of equals.
        Choose::Worst => found.sort_by(|a, b| a.1.total_cmp(&b.1)),
        Choose::Best => found.sort_by(|a, b| b.1.total_cmp(&a.1)),
    }
    found.into_iter().map(|(query, _)| query).take(wanted.queries).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn queries_are_chosen_by_their_scores_or_by_the_seed() {
        let score =
            |map_at_r| Some(Scores { matches: 1, first_match: 1, r_precision: 0.0, map_at_r, average_precision: None });
        let scores = [score(0.5), None, score(1.0), score(0.0), score(0.5)];
        let chosen = |choose: &str, seed: u64| {
            let map = json!({ "split": "test", "queries": 2, "neighbours": 3, "choose": choose, "seed": seed });
            super::choose(&serde_json::from_value(map).unwrap(), &scores)
        };
        assert_eq!((chosen("worst", 0), chosen("best", 0)), (vec![3, 0], vec![2, 0]));
        let drawn: Vec<Vec<usize>> = (0..20).map(|seed| chosen("random", seed)).collect();
        assert_eq!(drawn[3], chosen("random", 3));
        assert!(drawn.iter().any(|other| *other != drawn[0]));
        assert!(drawn.iter().flatten().all(|query| *query != 1));
    }
}
