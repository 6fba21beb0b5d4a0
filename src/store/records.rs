//! Records that check themselves: `length, check, body`, one after the other.
//!
//! A record that does not check costs itself: behind it the next place where a whole record begins is sought.

/// Bytes before a body: its length and its check.
pub(super) const HEADER: usize = 4 + 8;
/// Where a record is sought, its length is at most this: a stray number must not ask for the hash of everything.
const LONGEST_SOUGHT: usize = (1 << 24) - 1;
/// Kinds, the first byte of a body, are below this.
const KINDS: u8 = 16;

/// A body with its length and its check.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + body.len());
    record.extend_from_slice(&(body.len() as u32).to_le_bytes());
    record.extend_from_slice(&blake3::hash(body).as_bytes()[..8]);
    record.extend_from_slice(body);
    record
}

/// The body of the whole record that `bytes` begin with.
pub(super) fn unframe(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (check, rest) = rest.split_first_chunk::<8>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (!body.is_empty() && blake3::hash(body).as_bytes()[..8] == *check).then_some(body)
}

/// A part of a file of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A whole record: where it begins, and its body.
    Record(usize, &'a [u8]),
    /// Bytes from here on, so many, that are not a record.
    Gap(usize, usize),
}

/// The parts of `bytes`, in order and without holes.
pub(super) fn parts(bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let start = at;
        if let Some(body) = unframe(rest) {
            at += HEADER + body.len();
            return Some(Part::Record(start, body));
        }
        let begins = |&place: &usize| likely(&bytes[place..]) && unframe(&bytes[place..]).is_some();
        at = (start + 1..bytes.len()).find(begins).unwrap_or(bytes.len());
        Some(Part::Gap(start, at - start))
    })
}

/// Whether a record may begin here, before its check is computed.
fn likely(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    let length = u32::from_le_bytes(*length) as usize;
    (1..=LONGEST_SOUGHT).contains(&length) && rest.get(8).is_some_and(|&kind| kind < KINDS) && rest.len() >= 8 + length
}

/// How many records a gap was, as far as their lengths say; at least one.
pub(super) fn lost(gap: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < gap.len() {
        count += 1;
        let Some(length) = gap[at..].first_chunk() else { break };
        at = at.saturating_add(HEADER).saturating_add(u32::from_le_bytes(*length) as usize);
    }
    if at == gap.len() { count } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever becomes of a stretch of bytes, all records outside of it are found, and no others.
        #[test]
        fn damage_costs_the_records_that_it_touches(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..9),
            from: prop::sample::Index,
            garbage in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut bytes = Vec::new();
            let mut places = Vec::new();
            for (i, tail) in bodies.iter().enumerate() {
                let body = [&[i as u8][..], tail].concat();
                places.push((bytes.len(), body.clone()));
                bytes.extend(frame(&body));
            }
            let whole = bytes.clone();
            let from = from.index(bytes.len());
            let to = (from + garbage.len()).min(bytes.len());
            bytes[from..to].copy_from_slice(&garbage[..to - from]);
            let untouched = |at: usize, body: &[u8]| {
                let span = at..at + HEADER + body.len();
                bytes[span.clone()] == whole[span]
            };
            let expected: Vec<_> = places.into_iter().filter(|(at, body)| untouched(*at, body)).collect();
            let mut found = Vec::new();
            let mut covered = 0;
            for part in parts(&bytes) {
                match part {
                    Part::Record(at, body) => {
                        prop_assert_eq!(at, covered);
                        covered += HEADER + body.len();
                        found.push((at, body.to_vec()));
                    }
                    Part::Gap(at, length) => {
                        prop_assert_eq!(at, covered);
                        prop_assert!(lost(&bytes[at..at + length]) >= 1);
                        covered += length;
                    }
                }
            }
            prop_assert_eq!(covered, bytes.len());
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(0u8..4, 0..400)) {
            prop_assert!(parts(&bytes).count() <= bytes.len());
        }
    }
}
