//! Two CDRs of one call as one, by the rules of etl/store/merge.py for a later message of the same claim.

#![forbid(unsafe_code)]

use crate::cdr::Cdr;
use crate::time::whole_second;

/// The row after `new` was merged into it. `None` if the two contradict each other, or if it isn't plain that they don't.
pub fn merged<'a>(row: &Cdr<'a>, new: &Cdr<'a>, tolerance: i64) -> Option<Cdr<'a>> {
    Some(Cdr {
        dialed_on: row.dialed_on,
        call_ref: row.call_ref,
        leg: row.leg,
        dialed_at: dialed_at(row.dialed_at, new.dialed_at, tolerance)?,
        answered_at: time(row.answered_at, new.answered_at)?,
        connected_at: time(row.connected_at, new.connected_at)?,
        ended_at: time(row.ended_at, new.ended_at)?,
        call_time: equal(row.call_time, new.call_time)?,
        hold_time: equal(row.hold_time, new.hold_time)?,
        ring_time: equal(row.ring_time, new.ring_time)?,
        call_dir: equal(row.call_dir, new.call_dir)?,
        extension: equal(row.extension, new.extension)?,
        number: equal(row.number, new.number)?,
        dial_number: equal(row.dial_number, new.dial_number)?,
        campaign_ref: equal(row.campaign_ref, new.campaign_ref)?,
        contact_ref: equal(row.contact_ref, new.contact_ref)?,
        end_reason: equal(row.end_reason, new.end_reason)?,
        end_code: equal(row.end_code, new.end_code)?,
        recording_url: equal(row.recording_url, new.recording_url)?,
        uuid: equal(row.uuid, new.uuid)?,
        extra: equal(row.extra, new.extra)?, // or Postgres joins them field by field
    })
}

fn equal<T: PartialEq>(old: Option<T>, new: Option<T>) -> Option<Option<T>> {
    match (&old, &new) {
        (Some(one), Some(other)) if one != other => None,
        _ => Some(old.or(new)),
    }
}

/// A time that is only exact to the second agrees with the same second's fraction.
fn time(old: Option<i64>, new: Option<i64>) -> Option<Option<i64>> {
    match (old, new) {
        (Some(one), Some(other)) => finer(one, other).map(Some),
        _ => Some(old.or(new)),
    }
}

/// Of two that agree, the one with a fraction, if one has it.
fn finer(one: i64, other: i64) -> Option<i64> {
    if one == other || one == whole_second(other) {
        Some(other)
    } else if other == whole_second(one) {
        Some(one)
    } else {
        None
    }
}

/// The dialects differ by as much as the tolerance: the earlier second stays, with its fraction if one has it.
fn dialed_at(old: i64, new: i64, tolerance: i64) -> Option<i64> {
    if old.abs_diff(new) > tolerance.unsigned_abs() {
        return None;
    }
    Some(finer(old, new).unwrap_or(old.min(new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_second_stays_with_its_fraction() {
        let tolerance = 10_000_000;
        assert_eq!(dialed_at(5_000_000, 5_300_000, tolerance), Some(5_300_000));
        assert_eq!(dialed_at(5_300_000, 5_000_000, tolerance), Some(5_300_000));
        assert_eq!(dialed_at(5_300_000, 5_400_000, tolerance), Some(5_300_000));
        assert_eq!(dialed_at(5_000_000, 15_000_000, tolerance), Some(5_000_000));
        assert_eq!(dialed_at(5_000_000, 15_000_001, tolerance), None);
        assert_eq!(time(Some(5_300_000), Some(5_400_000)), None);
        assert_eq!(time(Some(5_300_000), Some(5_300_000)), Some(Some(5_300_000)));
        assert_eq!(time(None, Some(5_400_000)), Some(Some(5_400_000)));
    }
}
