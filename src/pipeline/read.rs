//! Reading the files of a pipeline.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::problem::{Problem, Report, Span, nearest};

/// Reads a file of text. If that fails, the problem is in the report.
pub(super) fn read_text(path: &Path, report: &mut Report) -> Option<Arc<str>> {
    let mut refuse = |title: String, help: Option<String>| {
        let source = report.source(path, "".into());
        report.add(Problem::new("unreadable", Span { source, start: 0, end: 0 }, title).help(help));
        None
    };
    let shown = path.display();
    match crate::text::read_unnamed(path) {
        Ok(text) => Some(text.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            let mut names: Vec<String> =
                entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
            names.sort();
            let wanted = path.file_name().unwrap_or_default().to_string_lossy();
            let near = nearest(&wanted, names.iter().map(String::as_str));
            refuse(format!("there is no file `{shown}`"), near.map(|near| format!("did you mean `{near}`?")))
        }
        Err(error) => refuse(format!("`{shown}` cannot be read: {error}"), None),
    }
}
