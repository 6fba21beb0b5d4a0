//! The disk space that a download may use: one of unknown length ends before the disk is full.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// What a download of unknown length leaves: a twentieth of the disk, at most 1 GiB.
const RESERVE: u64 = 1 << 30;
const SHARE: u64 = 20;

/// Bytes that are written between two checks of the disk.
const STEP: u64 = 64 << 20;

/// Free bytes and all bytes of a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) free: u64,
    pub(super) all: u64,
}

impl Disk {
    /// The disk of `folder`; `None` where the file system does not say.
    pub(super) fn of(folder: &Path) -> Option<Disk> {
        let disk = statvfs(folder).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
        let found = Disk { free: bytes(disk.blocks_available()), all: bytes(disk.blocks()) };
        (found.all > 0).then_some(found)
    }
}

/// The disk space that one download may still use.
pub(super) struct Room {
    /// Whether the number of bytes to come is known and was found to fit.
    known: bool,
    /// Bytes before the next check.
    left: u64,
}

impl Room {
    /// # Errors
    /// The free bytes, if the `rest` of a file does not fit.
    pub(super) fn of(disk: Option<Disk>, rest: Option<u64>) -> Result<Room, u64> {
        match (disk, rest) {
            (Some(disk), Some(rest)) if disk.free < rest => Err(disk.free),
            _ => Ok(Room { known: rest.is_some(), left: 0 }),
        }
    }

    /// Reserves space for `bytes` more; `look` returns how full the disk is.
    ///
    /// # Errors
    /// The free bytes, if the reserve would be touched.
    pub(super) fn take(&mut self, bytes: u64, look: impl FnOnce() -> Option<Disk>) -> Result<(), u64> {
        if self.known {
            return Ok(());
        }
        if bytes > self.left {
            self.left = match look() {
                None => STEP,
                Some(disk) => {
                    let usable = disk.free.saturating_sub(RESERVE.min(disk.all / SHARE));
                    if usable < bytes {
                        return Err(disk.free);
                    }
                    usable.min(STEP).max(bytes)
                }
            };
        }
        self.left = self.left.saturating_sub(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_known_must_fit_and_another_one_leaves_a_reserve() {
        let disk = |free| Some(Disk { free, all: 1000 });
        assert_eq!(Room::of(disk(99), Some(100)).err(), Some(99));
        assert!(Room::of(disk(100), Some(100)).unwrap().take(100, || disk(0)).is_ok());
        let mut room = Room::of(disk(1000), None).unwrap();
        assert!(room.take(40, || disk(100)).is_ok());
        assert!(room.take(10, || unreachable!()).is_ok());
        assert_eq!(room.take(10, || disk(59)), Err(59));
        assert!(Room::of(None, None).unwrap().take(1, || None).is_ok());
    }
}
