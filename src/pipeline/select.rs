//! Selectors: `model`, `model[loss=mean_field*,seed=0..2]`, `*`.

use super::axes::matching;
use super::model::{CellId, CellMap, Pipeline};
use super::problem::suggest;

/// A selector that selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The text does not follow the grammar.
    #[error("`{selector}` is not a valid selector; write `stage` or `stage[axis=value,axis=value]`")]
    Syntax {
        /// The selector as given.
        selector: String,
    },
    /// No stage has that name.
    #[error("`{selector}`: there is no stage `{stage}`{hint}")]
    UnknownStage {
        /// The selector as given.
        selector: String,
        /// The name or pattern of the stage.
        stage: String,
        /// The nearest name.
        hint: String,
    },
    /// No selected stage has that axis.
    #[error("`{selector}`: stage `{stage}` has no axis `{axis}`{hint}")]
    UnknownAxis {
        /// The selector as given.
        selector: String,
        /// The stage.
        stage: String,
        /// The name of the axis.
        axis: String,
        /// The nearest name.
        hint: String,
    },
    /// The axis has no such value.
    #[error("`{selector}`: axis `{axis}` has no value `{value}`{hint}")]
    UnknownValue {
        /// The selector as given.
        selector: String,
        /// The axis.
        axis: String,
        /// The name, range or pattern of the value.
        value: String,
        /// The nearest name.
        hint: String,
    },
    /// Everything that is named exists, but no cell has all of it.
    #[error("`{selector}` selects no cell: `include` or `exclude` leaves none of these")]
    NoCell {
        /// The selector as given.
        selector: String,
    },
}

/// The cells that at least one selector selects, ascending; every cell if there are no selectors.
///
/// ```text
/// selector = stage [ "[" axis "=" values { "," axis "=" values } "]" ]
/// values   = value { ( "|" | "," ) value }
/// value    = name | range over whole numbers, such as 0..2 or 3.. | pattern with * and ?
/// ```
/// `stage` is a name or a pattern; a pattern selects among the stages that have all the axes that follow.
///
/// # Errors
/// The first selector that names an unknown stage, axis or value, or that selects no cell.
pub fn select(pipeline: &Pipeline, selectors: &[String]) -> Result<Vec<CellId>, SelectError> {
    let mut chosen = CellMap::from(vec![selectors.is_empty(); pipeline.cells.len()]);
    for selector in selectors {
        let wanted = stages(pipeline, selector)?;
        let mut any = false;
        for (id, cell) in pipeline.cells.entries() {
            let Some(values) = &wanted[cell.stage as usize] else { continue };
            let axes = &pipeline.stages[cell.stage as usize].axes;
            let holds = |(axis, kept): &(usize, Vec<bool>)| {
                let at = axes.iter().position(|own| own == axis);
                at.is_some_and(|at| kept[cell.coordinates[at] as usize])
            };
            if values.iter().all(holds) {
                chosen[id] = true;
                any = true;
            }
        }
        if !any {
            return Err(SelectError::NoCell { selector: selector.clone() });
        }
    }
    Ok(chosen.entries().filter(|(_, chosen)| **chosen).map(|(id, _)| id).collect())
}

/// The values that a selector allows on some axes, for each stage that it names.
type Allowed = Vec<(usize, Vec<bool>)>;

fn stages(pipeline: &Pipeline, selector: &str) -> Result<Vec<Option<Allowed>>, SelectError> {
    let syntax = || SelectError::Syntax { selector: selector.to_owned() };
    let (stage, conditions) = match selector.split_once('[') {
        Some((stage, rest)) => (stage, conditions(rest.strip_suffix(']').ok_or_else(syntax)?).ok_or_else(syntax)?),
        None => (selector, Vec::new()),
    };
    let names = || pipeline.stages.iter().map(|stage| &*stage.name);
    let named = matching(names(), stage);
    if !named.contains(&true) {
        let hint = hint(stage, names());
        return Err(SelectError::UnknownStage { selector: selector.to_owned(), stage: stage.to_owned(), hint });
    }
    let mut allowed = Vec::new();
    for (axis, values) in &conditions {
        let with_axis =
            |index: &usize| pipeline.stages[*index].axes.iter().find(|a| &*pipeline.axes[**a].name == *axis);
        let mut among = named.iter().enumerate().filter(|(_, named)| **named).map(|(index, _)| index);
        let Some(index) = among.clone().find_map(|index| with_axis(&index).copied()) else {
            let known: Vec<&str> = among
                .next()
                .map(|index| pipeline.stages[index].axes.iter().map(|a| &*pipeline.axes[*a].name).collect())
                .unwrap_or_default();
            return Err(SelectError::UnknownAxis {
                selector: selector.to_owned(),
                stage: stage.to_owned(),
                axis: (*axis).to_owned(),
                hint: hint(axis, known),
            });
        };
        let names = || pipeline.axes[index].values.iter().map(|value| &*value.name);
        let mut kept = vec![false; pipeline.axes[index].values.len()];
        for value in values {
            let found = matching(names(), value);
            if !found.contains(&true) {
                return Err(SelectError::UnknownValue {
                    selector: selector.to_owned(),
                    axis: (*axis).to_owned(),
                    value: (*value).to_owned(),
                    hint: hint(value, names()),
                });
            }
            kept.iter_mut().zip(found).for_each(|(kept, found)| *kept |= found);
        }
        allowed.push((index, kept));
    }
    let has_axes = |index: usize| allowed.iter().all(|(axis, _)| pipeline.stages[index].axes.contains(axis));
    let wanted = named.into_iter().enumerate();
    Ok(wanted.map(|(index, named)| (named && has_axes(index)).then(|| allowed.clone())).collect())
}

/// Splits `loss=a|b,c,seed=0..2`: a part without `=` is one more value of the axis before it.
fn conditions(text: &str) -> Option<Vec<(&str, Vec<&str>)>> {
    let mut conditions: Vec<(&str, Vec<&str>)> = Vec::new();
    for part in text.split(',') {
        let values = match part.split_once('=').filter(|(axis, _)| super::interpolate::is_name(axis)) {
            Some((axis, values)) => {
                conditions.push((axis, Vec::new()));
                values
            }
            None => part,
        };
        conditions.last_mut()?.1.extend(values.split('|'));
    }
    conditions.iter().all(|(_, values)| values.iter().all(|value| !value.is_empty())).then_some(conditions)
}

fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    suggest(name, known).map_or_else(String::new, |hint| format!("; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::load_good;
    use super::*;

    const TEXT: &str = "axes: { loss: [contrastive, mean_field_a, mean_field_b], seed: 0..4 }
exclude: [{ loss: contrastive, seed: 2.. }]
stages:
  model: { run: 'echo ${loss} ${seed}', out: [x] }
  table: { uses: report, in: { m: model } }
";

    fn names(selectors: &[&str]) -> Result<Vec<String>, String> {
        let pipeline = load_good(TEXT, &[]);
        let selectors: Vec<String> = selectors.iter().map(|selector| (*selector).to_owned()).collect();
        let cells = select(&pipeline, &selectors).map_err(|error| error.to_string())?;
        Ok(cells.into_iter().map(|cell| pipeline.cell_name(cell)).collect())
    }

    #[test]
    fn selectors_select() {
        assert_eq!(names(&[]).unwrap().len(), 11);
        assert_eq!(names(&["*"]).unwrap().len(), 11);
        assert_eq!(names(&["model"]).unwrap().len(), 10);
        assert_eq!(names(&["*[seed=0]"]).unwrap().len(), 3, "a pattern passes over stages without the axis");
        let some = ["model[loss=mean_field_a,seed=0]", "model[loss=mean_field_b,seed=0]", "table"];
        assert_eq!(names(&["table", "model[loss=mean_field*,seed=..1]"]).unwrap(), some);
        let alternatives = ["model[loss=contrastive,seed=1]", "model[loss=mean_field_b,seed=1]"];
        assert_eq!(names(&["model[seed=1,loss=contrastive|*_b]"]).unwrap(), alternatives);
        assert_eq!(names(&["model[loss=contrastive,*_b,seed=1]"]).unwrap(), alternatives);
    }

    #[test]
    fn a_selector_without_cells_says_why() {
        for (selector, message) in [
            ("modle", "`modle`: there is no stage `modle`; did you mean `model`?"),
            ("model[sed=1]", "`model[sed=1]`: stage `model` has no axis `sed`; did you mean `seed`?"),
            ("table[seed=1]", "`table[seed=1]`: stage `table` has no axis `seed`"),
            ("model[seed=7]", "`model[seed=7]`: axis `seed` has no value `7`; known here: `0`, `1`, `2`, `3`"),
            ("model[loss=contrastiv]", "axis `loss` has no value `contrastiv`; did you mean `contrastive`?"),
            ("model[loss=contrastive,seed=3]", "selects no cell"),
            ("model[seed=1", "is not a valid selector"),
            ("model[seed=]", "is not a valid selector"),
            ("model[]", "is not a valid selector"),
        ] {
            let error = names(&[selector]).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
