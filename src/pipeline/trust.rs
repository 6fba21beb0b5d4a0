//! Where a project ends, and whose files in it are trusted as code.
//!
//! A definition holds commands, so finding one decides what runs as the user. It is searched for from the pipeline's
//! folder up to the project's root: the nearest folder that holds `pipelines/` or `.git`. Where there is none, the
//! project is the pipeline's folder. What another user owns, or every user may write to, is refused, as git does with
//! repositories. Root's files are trusted for every user, and those of the user who called `sudo` for root.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Uid, User};

use super::problem::{Problem, Span};

/// What a project's root holds: either of them.
const MARKS: [&str; 2] = ["pipelines", ".git"];

/// The folder of definitions of a pipeline file's project: the nearest `stages/`.
pub(super) fn definitions_of(file: &Path) -> Option<PathBuf> {
    let mut file = std::path::absolute(file).ok()?;
    // What comes before `..` is not above the file.
    if file.components().any(|part| part == Component::ParentDir) {
        file = file.parent()?.canonicalize().ok()?.join(file.file_name()?);
    }
    let is_root = |folder: &&Path| MARKS.iter().any(|mark| folder.join(mark).exists());
    let above = || file.ancestors().skip(1);
    let root = above().find(is_root).or_else(|| file.parent())?;
    let inside = above().take_while(|folder| folder.starts_with(root));
    inside.map(|folder| folder.join("stages")).find(|folder| folder.is_dir())
}

/// A file or folder that is not trusted as code, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file or folder.
    pub path: PathBuf,
    /// Why, as half a sentence: "belongs to bob".
    pub why: String,
    /// What to do.
    pub help: String,
}

impl Refusal {
    /// The mistake of a pipeline that uses the definition `name` of it at `span`.
    pub(super) fn problem(&self, name: &str, span: Span) -> Problem {
        let title = format!("the definition `{name}` is not used: {} {}", self.path.display(), self.why);
        Problem::new("untrusted", span, title).help(self.help.clone())
    }
}

/// Why the definition at `file` below `folder` is not trusted as code, if it is not: that of the first folder above it,
/// or of its own.
pub(super) fn refusal(folder: &Path, file: &Path) -> Option<Refusal> {
    // A project's folder may hold other people's files next to `stages/`, as `/tmp` does, where only its owner can move it away.
    let project = folder.parent().and_then(|project| refused(project, true));
    let parts = file.ancestors().take_while(|part| part.starts_with(folder));
    let parts: Vec<&Path> = parts.collect();
    project.or_else(|| parts.into_iter().rev().find_map(|part| refused(part, false)))
}

/// Why the file or folder at `path` is not trusted as code, if it is not.
pub fn refusal_of(path: &Path) -> Option<Refusal> {
    refused(path, false)
}

/// The same; `shared` lets others own the folder, and write to it if they cannot take away what is not theirs.
fn refused(path: &Path, shared: bool) -> Option<Refusal> {
    // Both count, the link and what it leads to.
    let looked = [fs::symlink_metadata(path), fs::metadata(path)];
    looked.into_iter().flatten().find_map(|metadata| why(path, &metadata, shared, Uid::effective()))
}

fn why(path: &Path, metadata: &Metadata, shared: bool, user: Uid) -> Option<Refusal> {
    let path = path.to_owned();
    let owner = Uid::from_raw(metadata.uid());
    let behind_sudo = || {
        let caller = std::env::var("SUDO_UID").ok().and_then(|number| number.parse().ok()).map(Uid::from_raw);
        user.is_root() && caller == Some(owner)
    };
    if !shared && owner != user && !owner.is_root() && !behind_sudo() {
        let name = User::from_uid(owner).ok().flatten().map_or_else(|| format!("user {owner}"), |user| user.name);
        let help = format!("read it; if you trust it, copy it into your project or `chown` it: {}", path.display());
        return Some(Refusal { path, why: format!("belongs to {name}"), help });
    }
    let (open, sticky) = (metadata.mode() & 0o002 != 0, metadata.mode() & 0o1000 != 0);
    // A link has no permissions of its own.
    if open && !metadata.is_symlink() && !(shared && sticky) {
        let help = format!("look at what is there, then `chmod o-w {}`", path.display());
        return Some(Refusal { path, why: "can be written to by every user".to_owned(), help });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folders(names: &[&str]) -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::create_dir_all(room.path().join(name)).unwrap());
        room
    }

    #[test]
    fn definitions_are_sought_up_to_the_projects_root_and_no_further() {
        for (made, file, found) in [
            (&["stages", "a"][..], "a/p.yaml", None),
            (&["stages", "a/stages"], "a/p.yaml", Some("a/stages")),
            (&["stages", "pipelines/x"], "pipelines/x/p.yaml", Some("stages")),
            (&["stages", ".git", "a/b"], "a/b/p.yaml", Some("stages")),
            (&["stages", ".git", "a/.git", "a/b"], "a/b/p.yaml", None),
            (&["stages", ".git", "a/stages", "a/b"], "a/b/p.yaml", Some("a/stages")),
            (&["stages", "a/pipelines"], "a/pipelines/p.yaml", None),
        ] {
            let room = folders(made);
            let expected = found.map(|found| room.path().join(found));
            assert_eq!(definitions_of(&room.path().join(file)), expected, "{made:?}");
        }
        let room = folders(&["a/stages", "a/b", "c/pipelines", "c/stages"]);
        let found = definitions_of(&room.path().join("a/b/../../c/pipelines/p.yaml")).unwrap();
        assert_eq!(found, room.path().canonicalize().unwrap().join("c/stages"));
        assert_eq!(definitions_of(&room.path().join("a/b/../../p.yaml")), None);
    }

    #[test]
    fn what_others_own_or_may_write_to_is_no_code() {
        let room = folders(&["p/stages/a"]);
        let (stages, file) = (room.path().join("p/stages"), room.path().join("p/stages/a/b.yaml"));
        fs::write(&file, "").unwrap();
        assert_eq!(refusal(&stages, &file), None);
        let open = |path: &Path, mode: u32| {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let found = refusal(&stages, &file).map(|refusal| refusal.path);
            fs::set_permissions(path, before).unwrap();
            found
        };
        let project = room.path().join("p");
        for (path, mode, refused) in [
            (&*file, 0o666, true),
            (&*file, 0o664, false),
            (&*file.with_file_name(""), 0o777, true),
            (&*stages, 0o1777, true),
            (&*stages, 0o775, false),
            (&*project, 0o777, true),
            (&*project, 0o1777, false),
        ] {
            let found = open(path, mode);
            assert_eq!(found.is_some(), refused, "{} {mode:o}", path.display());
        }
        // Root's files are trusted for every user.
        let _ = std::os::unix::fs::chown(&file, Some(4711), None);
        let metadata = fs::metadata(&file).unwrap();
        let found = why(&file, &metadata, false, Uid::from_raw(1234)).unwrap();
        assert!(found.why.starts_with("belongs to "), "{found:?}");
        assert_eq!(why(&file, &metadata, false, Uid::from_raw(metadata.uid())), None);
    }
}
