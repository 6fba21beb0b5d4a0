//! Prefixes that wrappers put before the names of a network's tensors.

use std::borrow::Cow;
use std::collections::HashSet;

/// Prefixes of `DataParallel`, `torch.compile` and Lightning, stripped if every name has them.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// Parts of names that wrappers insert anywhere, and that no network has itself.
const INNER: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// The wrapper prefix that every name has, empty if there is none.
pub(super) fn common_prefix(names: &[&str]) -> String {
    let mut prefix = String::new();
    let have = |prefix: &str| {
        !names.is_empty() && names.iter().all(|name| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()))
    };
    while let Some(longer) = PREFIXES.iter().map(|part| format!("{prefix}{part}")).find(|longer| have(longer)) {
        prefix = longer;
    }
    prefix
}

/// A name, or a prefix, without the [`INNER`] parts.
pub(super) fn bare(name: &str) -> Cow<'_, str> {
    let mut bare = Cow::Borrowed(name);
    for part in INNER {
        let part = part.trim_end_matches('.');
        if bare.split('.').any(|found| found == part) {
            bare = bare.split('.').filter(|found| *found != part).collect::<Vec<_>>().join(".").into();
        }
    }
    bare
}

/// The names without the prefix common to all and without the [`INNER`] parts; the latter stay where two names would
/// become equal.
pub(super) fn strip<'n>(names: &[&'n str]) -> (String, Vec<Cow<'n, str>>) {
    let prefix = common_prefix(names);
    let rest = names.iter().map(|name| name.strip_prefix(&*prefix).unwrap_or(name));
    let plain: Vec<Cow<'n, str>> = rest.clone().map(bare).collect();
    let distinct: HashSet<&str> = plain.iter().map(|name| &**name).collect();
    let clash = distinct.len() < plain.len() || distinct.contains("");
    let names = if clash { rest.map(Cow::Borrowed).collect() } else { plain };
    (prefix, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_common_to_all_names_or_none() {
        assert_eq!(common_prefix(&["module.model.a", "module.model.b.c"]), "module.model.");
        assert_eq!(common_prefix(&["model.module.a"]), "model.module.");
        assert_eq!(common_prefix(&["_orig_mod.module.a"]), "_orig_mod.module.");
        assert_eq!(common_prefix(&["module.a", "b"]), "");
        assert_eq!(common_prefix(&["module.a", "module."]), "");
        assert_eq!(common_prefix(&["modules.a"]), "");
        assert_eq!(common_prefix(&[]), "");
    }

    #[test]
    fn wrappers_in_the_middle_go_unless_two_names_would_become_one() {
        let stripped = |names: &[&str]| {
            let (prefix, names) = strip(names);
            format!("{prefix}|{}", names.join(" "))
        };
        assert_eq!(stripped(&["module.a._orig_mod.w", "module.b.w"]), "module.|a.w b.w");
        assert_eq!(stripped(&["a._orig_mod.w", "a.w"]), "|a._orig_mod.w a.w");
        assert_eq!(stripped(&["n", "module._orig_mod.w"]), "|n module.w");
        assert_eq!(bare("module._orig_mod."), "module.");
        assert_eq!(bare("_fsdp_wrapped_module.layer1._checkpoint_wrapped_module.0.w"), "layer1.0.w");
    }
}
