//! A claim's messages, in order, to rows and to what became of each message. CDRs of one call that contradict each other
//! nowhere become one row; if they may, all of them are left to Python.

#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

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

/// What a thread keeps for its next claim: to get as much afresh from the system takes as long as decoding.
#[derive(Default)]
pub struct Memory {
    scratch: Vec<u8>,
    calls: Vec<Call<'static>>,
    call_of: Vec<usize>,
    slots: Vec<u32>,
    hasher: RandomState,
}

/// Bytes of scratch: what a claim needs beyond them isn't plain. And of calls that are kept; what an unusually large claim
/// took for its own is given back.
const MOST: usize = 16 << 20;

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
    memory: &mut Memory,
) -> Result<usize, Fault> {
    if lengths.len() >= u32::MAX as usize {
        return Err(Fault::Arguments);
    }
    let Memory { mut scratch, calls, mut call_of, mut slots, hasher } = std::mem::take(memory);
    // Texts without escapes, and `extra`: each at most as long as what was sent, and two braces.
    let needed = bytes.len().saturating_add(lengths.len()).saturating_mul(2).min(MOST);
    if scratch.len() < needed {
        scratch = vec![0; needed];
    }
    call_of.clear();
    call_of.resize(lengths.len(), 0);
    let mut known = Known::new(&mut slots, lengths.len(), &hasher, emptied(calls));
    let mut reader = Reader::new(settings, Scratch::new(&mut scratch));
    let mut rest = bytes;
    for (index, &length) in lengths.iter().enumerate() {
        let length = usize::try_from(length).ok().filter(|&length| length <= rest.len()).ok_or(Fault::Arguments)?;
        let (message, others) = rest.split_at(length);
        rest = others;
        outcome.became[index] = REST;
        if let Some(cdr) = reader.read(message) {
            if size_of_texts(&cdr) <= length {
                outcome.dialed_at[index] = cdr.dialed_at;
                (outcome.became[index], call_of[index]) = known.add(cdr, index, settings.near_midnight);
            }
        }
    }
    if !rest.is_empty() {
        return Err(Fault::Arguments);
    }
    let calls = known.calls;
    let written = write(&calls, &call_of, settings, out, outcome)?;
    let calls = emptied(calls);
    if calls.capacity() <= MOST / std::mem::size_of::<Call>() {
        *memory = Memory { scratch, calls, call_of, slots, hasher };
    }
    Ok(written)
}

/// The same memory, for calls of another claim.
fn emptied<'b>(mut calls: Vec<Call>) -> Vec<Call<'b>> {
    calls.clear();
    calls.into_iter().map(|_| unreachable!()).collect()
}

/// The calls so far, found by their keys: an open hash table of their numbers, each and 1; a 0 is free.
struct Known<'a, 'm> {
    slots: &'m mut Vec<u32>,
    hasher: &'m RandomState,
    calls: Vec<Call<'a>>,
}

impl<'a, 'm> Known<'a, 'm> {
    fn new(slots: &'m mut Vec<u32>, most: usize, hasher: &'m RandomState, calls: Vec<Call<'a>>) -> Self {
        slots.clear();
        slots.resize((2 * most).next_power_of_two(), 0);
        Known { slots, hasher, calls }
    }

    /// What became of the message, and the number of its call.
    fn add(&mut self, cdr: Cdr<'a>, index: usize, tolerance: i64) -> (u8, usize) {
        let key = |cdr: &Cdr<'a>| (cdr.dialed_on, cdr.leg, cdr.call_ref);
        // Whoever makes up call_refs can't know which of them meet in one slot.
        let mut hasher = self.hasher.build_hasher();
        key(&cdr).hash(&mut hasher);
        let last = self.slots.len() - 1;
        let mut slot = hasher.finish() as usize & last;
        while self.slots[slot] != 0 {
            let number = self.slots[slot] as usize - 1;
            if key(&self.calls[number].row) == key(&cdr) {
                return (add(&mut self.calls[number], &cdr, tolerance), number);
            }
            slot = (slot + 1) & last;
        }
        self.calls.push(Call { row: cdr, first: index, contradicted: false });
        self.slots[slot] = self.calls.len() as u32; // `pack` takes no more messages than that holds
        (ROW, self.calls.len() - 1)
    }
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
                rows.add(&call.row, settings)?;
            }
        }
        outcome.ends[index] = i64::try_from(rows.written()).map_err(|_| Fault::Full)?;
    }
    Ok(rows.written())
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
