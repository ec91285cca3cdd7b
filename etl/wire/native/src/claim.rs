//! A claim's messages, in order, to rows and to what became of each message. CDRs of one call that contradict each other
//! nowhere become one row; if they may, all of them are left to Python.

#![forbid(unsafe_code)]

use std::collections::hash_map::{Entry, HashMap};

use crate::cdr::{Cdr, Reader, Settings};
use crate::copy::{Full, Rows, FIXED};
use crate::join;
use crate::json::Scratch;

// What became of a message: etl/wire/packed.py.
pub const REST: u8 = 0;
pub const ROW: u8 = 1;
pub const GAINED: u8 = 2;
pub const SAME: u8 = 3;

/// By message, see `Packed` in etl/wire/packed.py. Each is as long as there are messages.
pub struct Outcome<'o> {
    pub ends: &'o mut [i64],
    pub became: &'o mut [u8],
    pub into: &'o mut [i64],
    pub dialed_at: &'o mut [i64],
}

#[derive(Debug, PartialEq)]
pub enum Fault {
    /// The rows need a larger buffer: `room` bytes always suffice.
    Full,
    /// The lengths aren't those of the messages, or the numbers of the rows are too large.
    Arguments,
}

impl From<Full> for Fault {
    fn from(_: Full) -> Self {
        Fault::Full
    }
}

/// A call of the claim, joined of all messages so far, and whether these contradict each other.
struct Call<'a> {
    row: Cdr<'a>,
    first: usize,
    contradicted: bool,
}

/// Bytes that suffice for the rows of any messages that have so many bytes together: what needs more isn't plain.
pub fn room(bytes: usize, messages: usize, source: usize) -> Option<usize> {
    messages.checked_mul(FIXED.checked_add(source)?)?.checked_add(bytes)
}

/// Bytes written to `out`.
pub fn pack(
    bytes: &[u8],
    lengths: &[i64],
    settings: &Settings,
    out: &mut [u8],
    outcome: &mut Outcome,
) -> Result<usize, Fault> {
    // Texts without escapes, and `extra`: each at most as long as what was sent, and two braces.
    let mut scratch = vec![0; 2 * (bytes.len() + lengths.len())];
    let mut reader = Reader::new(settings, Scratch::new(&mut scratch));
    let mut calls: Vec<Call> = Vec::with_capacity(lengths.len());
    let mut known: HashMap<(i32, &[u8], i32), usize> = HashMap::with_capacity(lengths.len());
    let mut call_of: Vec<usize> = vec![0; lengths.len()];
    let mut rest = bytes;
    for (index, &length) in lengths.iter().enumerate() {
        let length = usize::try_from(length).ok().filter(|&length| length <= rest.len()).ok_or(Fault::Arguments)?;
        let (message, others) = rest.split_at(length);
        rest = others;
        outcome.became[index] = REST;
        let Some(cdr) = reader.read(message).filter(|cdr| size_of_texts(cdr) <= length) else { continue };
        outcome.dialed_at[index] = cdr.dialed_at;
        let (became, number) = match known.entry((cdr.dialed_on, cdr.call_ref, cdr.leg)) {
            Entry::Vacant(entry) => {
                entry.insert(calls.len());
                calls.push(Call { row: cdr, first: index, contradicted: false });
                (ROW, calls.len() - 1)
            }
            Entry::Occupied(entry) => (add(&mut calls[*entry.get()], &cdr, settings.near_midnight), *entry.get()),
        };
        outcome.became[index] = became;
        call_of[index] = number;
    }
    if !rest.is_empty() {
        return Err(Fault::Arguments);
    }
    write(&calls, &call_of, settings, out, outcome)
}

/// Joins another message of the call, and says what became of that.
fn add<'a>(call: &mut Call<'a>, cdr: &Cdr<'a>, tolerance: i64) -> u8 {
    match join::merged(&call.row, cdr, tolerance) {
        Some(row) if row == call.row => SAME,
        Some(row) => {
            call.row = row;
            GAINED
        }
        None => {
            call.contradicted = true;
            REST
        }
    }
}

fn write(
    calls: &[Call],
    call_of: &[usize],
    settings: &Settings,
    out: &mut [u8],
    outcome: &mut Outcome,
) -> Result<usize, Fault> {
    let mut rows = Rows::new(out);
    for (index, &number) in call_of.iter().enumerate() {
        if outcome.became[index] == REST || calls[number].contradicted {
            outcome.became[index] = REST;
            outcome.into[index] = -1;
            outcome.dialed_at[index] = 0;
        } else {
            let call = &calls[number];
            outcome.into[index] = i64::try_from(call.first).map_err(|_| Fault::Arguments)?;
            if outcome.became[index] == ROW {
                rows.add(&call.row, settings, numbered(index, settings)?)?;
            }
        }
        outcome.ends[index] = i64::try_from(rows.written()).map_err(|_| Fault::Full)?;
    }
    Ok(rows.written())
}

fn numbered(index: usize, settings: &Settings) -> Result<Option<i32>, Fault> {
    let Some(first) = settings.numbered_from else { return Ok(None) };
    let number = i32::try_from(index).ok().and_then(|index| first.checked_add(index));
    number.map(Some).ok_or(Fault::Arguments)
}

fn size_of_texts(cdr: &Cdr) -> usize {
    let texts = [
        Some(cdr.call_ref),
        cdr.call_dir,
        cdr.extension,
        cdr.number,
        cdr.dial_number,
        cdr.campaign_ref,
        cdr.contact_ref,
        cdr.end_reason,
        cdr.recording_url,
        cdr.uuid,
        cdr.extra,
    ];
    texts.iter().flatten().map(|text| text.len()).sum()
}
