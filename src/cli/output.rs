//! Files that a command line names for writing: one that is there is replaced only where that is asked for.

use std::path::Path;

/// The flag of every command that writes a file it is given the name of.
#[derive(Debug, clap::Args)]
pub struct Overwrite {
    /// Replace the file that is to be written, if it is there
    #[arg(long)]
    overwrite: bool,
}

impl Overwrite {
    /// Refuses a file that is there, before any work is done for it.
    ///
    /// # Errors
    /// One sentence with the way out.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Err(format!("{} is a folder; name a file to write", path.display())),
            Ok(_) if !self.overwrite => {
                Err(format!("{} is there already; name another file, or replace it with --overwrite", path.display()))
            }
            _ => Ok(()),
        }
    }
}
