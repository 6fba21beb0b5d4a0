//! What the name of a file or folder says: whether it is an image, and whether it is not data at all.

/// What desktops, file servers and notebooks leave next to data. Never a class or an image, in any layout; neither is a name
/// that begins with a dot (`._x.jpg`, `.ipynb_checkpoints`).
const LITTER: [&str; 10] = [
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Icon\r",
];

/// Whether a file or folder is not data.
pub(super) fn is_litter(name: &str) -> bool {
    name.starts_with('.') || LITTER.iter().any(|litter| litter.eq_ignore_ascii_case(name))
}

/// Extensions of the formats that are read. A file with such a name counts as an image without being opened, and its format is
/// detected when it is decoded: listing 60,000 files need not open them.
const EXTENSIONS: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "png", "gif", "bmp", "webp", "ppm", "pgm", "pbm", "pnm"];

/// Whether a file's name says that it is an image.
pub(super) fn is_image(name: &str) -> bool {
    extension(name).is_some_and(|found| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(found)))
}

/// What follows the last dot of a name.
pub(super) fn extension(name: &str) -> Option<&str> {
    name.trim_end().rsplit_once('.').map(|(_, extension)| extension)
}
