//! Files that can be read to their end: a named pipe waits for a writer for ever, and a device may never end.

use std::fs::{File, FileType};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// What a file of this type is in words, if it is none that can be read to its end.
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
/// opened: opening a pipe can wait for ever.
pub fn open(path: &Path) -> Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    match special(kind).or(kind.is_dir().then_some("a folder")) {
        Some(what) => Err(Error::new(ErrorKind::InvalidInput, format!("it is {what}, expected a file"))),
        None => File::open(path),
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
            assert!(message.contains(what), "{message}");
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(open(&file).is_ok());
    }
}
