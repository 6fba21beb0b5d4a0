//! Regular files only: opening a named pipe can block forever, and a device may never end.

use std::fs::{File, FileType};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The name of a file type that cannot be read to its end; none for other types.
pub fn special(kind: FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_fifo() => Some("a named pipe"),
        kind if kind.is_socket() => Some("a socket"),
        kind if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        _ => None,
    }
}

/// Opens the regular file at `path`; links are followed.
///
/// # Errors
/// The file system's, and [`ErrorKind::InvalidInput`] for a folder, a named pipe, a socket or a device, which is not
/// opened: opening a pipe can block forever. Both name the path.
pub fn open(path: &Path) -> Result<File> {
    // Where there is nothing to look at, opening says so.
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type()).ok();
    match kind.and_then(|kind| special(kind).or(kind.is_dir().then_some("a folder"))) {
        Some(what) => {
            let message = format!("{}: it is {what}, expected a file", path.display());
            Err(Error::new(ErrorKind::InvalidInput, message))
        }
        None => fs_err::File::open(path).map(fs_err::File::into_file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_sockets_devices_and_folders_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (&*pipe, "a named pipe"),
            (&*socket, "a socket"),
            (Path::new("/dev/null"), "a device"),
            (folder.path(), "a folder"),
        ] {
            let message = open(path).unwrap_err().to_string();
            assert_eq!(message, format!("{}: it is {what}, expected a file", path.display()));
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(open(&file).is_ok());
    }
}
