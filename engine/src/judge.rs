//! What the end of the newest segment means: an ordinary crash, a clean end, or lost data.
//!
//! One exhaustive table. An ordinary power cut at any instant, again during recovery, must always
//! open; acknowledged data that is damaged must never be taken for one. The same table stands in
//! `docs/format.md` (F-16).
//!
//! Not here: finding the facts, and acting on the verdict (`recover`).

/// The last valid entry before the place where no valid entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Any other entry.
    Ordinary,
    /// The engine was closed after it.
    Close,
    /// The journal went on in the segment that it names.
    Seal,
}

/// What stands behind it, as far as entries in flight can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// No entry of this segment.
    Nothing,
    /// Only entries that were written before the missing one was durable.
    NotAcked,
    /// An entry whose watermark says that the missing one was durable.
    Acked,
}

/// What stands in segments with a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newer {
    /// There is none.
    None,
    /// Their header or manifest is not whole, and no records stand in them: a roll that a crash
    /// interrupted, or a file that was only prepared.
    Unfinished,
    /// Records stand in one, but its header or manifest is not whole.
    Records,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same segment goes on.
    GoOn,
    /// The journal ends here. What is behind was never acknowledged. A fresh segment follows.
    EndHere,
    /// Acknowledged records are damaged or missing; the text says how that is known.
    Refuse(&'static str),
}

/// The table.
#[must_use]
pub fn judge(last: Last, later: Later, newer: Newer) -> Verdict {
    match (last, later, newer) {
        (Last::Ordinary | Last::Close | Last::Seal, Later::Acked, _) => {
            Verdict::Refuse("an entry is damaged that a later one proves to have been durable")
        }
        (Last::Ordinary | Last::Close | Last::Seal, _, Newer::Records) => {
            Verdict::Refuse("records stand in a later segment whose header or manifest is damaged")
        }
        (Last::Seal, Later::Nothing | Later::NotAcked, Newer::None) => {
            Verdict::Refuse("the segment was sealed but the next one is missing")
        }
        // Nothing is ever written behind a seal.
        (Last::Seal, Later::NotAcked, Newer::Unfinished) => {
            Verdict::Refuse("an entry stands behind the seal of its segment")
        }
        // The crash came between the seal and the next segment's manifest: no record is there yet.
        (Last::Seal, Later::Nothing, Newer::Unfinished) => Verdict::EndHere,
        // Nothing that was written after the close is there, and what is not there after a sync
        // can never come back: new entries may take its place.
        (Last::Close, Later::Nothing, Newer::None | Newer::Unfinished) => Verdict::GoOn,
        // A crash cut the tail. Nobody was told that these records exist. What stands behind could
        // come back to life behind new entries of this segment, so a fresh one follows.
        (Last::Close, Later::NotAcked, Newer::None | Newer::Unfinished)
        | (Last::Ordinary, Later::Nothing | Later::NotAcked, Newer::None | Newer::Unfinished) => {
            Verdict::EndHere
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_facts_has_its_verdict() {
        let mut seen = [0; 3];
        for last in [Last::Ordinary, Last::Close, Last::Seal] {
            for later in [Later::Nothing, Later::NotAcked, Later::Acked] {
                for newer in [Newer::None, Newer::Unfinished, Newer::Records] {
                    let verdict = judge(last, later, newer);
                    let facts = (last, later, newer);
                    // Proof that something acknowledged is gone, and only that, refuses.
                    let proof = later == Later::Acked
                        || newer == Newer::Records
                        || last == Last::Seal && (newer == Newer::None || later == Later::NotAcked);
                    assert_eq!(matches!(verdict, Verdict::Refuse(_)), proof, "{facts:?}");
                    // Only an untouched end goes on in the same segment.
                    let untouched =
                        last == Last::Close && later == Later::Nothing && newer != Newer::Records;
                    assert_eq!(verdict == Verdict::GoOn, untouched, "{facts:?}");
                    seen[match verdict {
                        Verdict::GoOn => 0,
                        Verdict::EndHere => 1,
                        Verdict::Refuse(_) => 2,
                    }] += 1;
                }
            }
        }
        assert_eq!(seen, [2, 7, 18]);
    }
}
