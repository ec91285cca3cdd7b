//! Plain CDR messages to rows of Postgres' binary COPY, without making a Python object of any field; for ctypes, which
//! releases the GIL meanwhile. Whatever isn't provably plain is left to the Python decoder, which stays the definition.
//!
//! This file is the boundary, and the only one with `unsafe` in it. etl/wire/packed.py is the other side.

#![deny(unsafe_op_in_unsafe_fn)]

mod cdr;
mod claim;
mod copy;
mod extra;
mod fields;
mod join;
mod json;
mod number;
mod time;

use std::cell::RefCell;
use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use claim::{Fault, Outcome};

/// Release and sources that this was built from: packed.py refuses a library of others.
static STAMP: &str = concat!(env!("ETL_DECODER_STAMP"), "\0");

thread_local! {
    static MEMORY: RefCell<claim::Memory> = RefCell::default();
}

// Results of `plain_cdrs_pack` that aren't bytes.
const FULL: i64 = -1;
const ARGUMENTS: i64 = -2;
const PANICKED: i64 = -3;

/// As `_Settings` of packed.py.
#[repr(C)]
pub struct Settings {
    source: *const u8,
    source_bytes: usize,
    batch_id: [u8; 16],
    oldest: i64,
    latest: i64,
    near_midnight: i64,
    max_message_bytes: usize,
    utc: u8,
}

/// As `_Claim` of packed.py: messages one after the other, their lengths, and room for all that is told of them.
#[repr(C)]
pub struct Claim {
    messages: *const u8,
    messages_bytes: usize,
    lengths: *const i64,
    how_many: usize,
    rows: *mut u8,
    rows_bytes: usize,
    ends: *mut i64,
    became: *mut u8,
    into: *mut i64,
    dialed_at: *mut i64,
}

/// Text that ends with a 0.
#[no_mangle]
pub extern "C" fn plain_cdrs_stamp() -> *const c_char {
    STAMP.as_ptr().cast()
}

/// Bytes that always suffice for the rows; negative if there are no such many.
#[no_mangle]
pub extern "C" fn plain_cdrs_room(messages_bytes: usize, how_many: usize, source_bytes: usize) -> i64 {
    let room = claim::room(messages_bytes, how_many, source_bytes);
    room.and_then(|room| i64::try_from(room).ok()).unwrap_or(ARGUMENTS)
}

/// Bytes of the rows; negative if something was wrong, and then nothing that was written means anything.
///
/// # Safety
/// Both arguments point to what their types say. Of a `Claim`, `messages` has `messages_bytes` bytes and `rows` has
/// `rows_bytes`; all others have `how_many` items. Nobody writes to any of it, or reads what is written, meanwhile; and
/// what is written overlaps with nothing else.
#[no_mangle]
pub unsafe extern "C" fn plain_cdrs_pack(settings: *const Settings, claim: *const Claim) -> i64 {
    // A panic is a mistake of ours, and Python can still decode the claim: so it ends here, and not the process.
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller promises that each is valid, or null, which `as_ref` looks for.
        let (settings, claim) = unsafe { (settings.as_ref(), claim.as_ref()) };
        match (settings, claim) {
            // SAFETY: the caller promises the same of all that they point to.
            (Some(settings), Some(claim)) => unsafe { pack(settings, claim) },
            _ => Err(Fault::Arguments),
        }
    }));
    match result {
        Ok(Ok(bytes)) => i64::try_from(bytes).unwrap_or(FULL),
        Ok(Err(Fault::Full)) => FULL,
        Ok(Err(Fault::Arguments)) => ARGUMENTS,
        Err(_) => PANICKED,
    }
}

/// # Safety
/// As of `plain_cdrs_pack`.
unsafe fn pack(settings: &Settings, claim: &Claim) -> Result<usize, Fault> {
    let pointers = [
        claim.messages,
        claim.lengths.cast(),
        claim.rows,
        claim.ends.cast(),
        claim.became,
        claim.into.cast(),
        claim.dialed_at.cast(),
        settings.source,
    ];
    if pointers.iter().any(|pointer| pointer.is_null()) {
        return Err(Fault::Arguments);
    }
    // SAFETY: none is null, the caller promises their lengths, and that nobody writes to them meanwhile.
    let (source, messages, lengths) = unsafe {
        (
            slice::from_raw_parts(settings.source, settings.source_bytes),
            slice::from_raw_parts(claim.messages, claim.messages_bytes),
            slice::from_raw_parts(claim.lengths, claim.how_many),
        )
    };
    // SAFETY: likewise; and none overlaps with another, so that each may be written through its own slice.
    let (rows, mut outcome) = unsafe {
        (
            slice::from_raw_parts_mut(claim.rows, claim.rows_bytes),
            Outcome {
                ends: slice::from_raw_parts_mut(claim.ends, claim.how_many),
                became: slice::from_raw_parts_mut(claim.became, claim.how_many),
                into: slice::from_raw_parts_mut(claim.into, claim.how_many),
                dialed_at: slice::from_raw_parts_mut(claim.dialed_at, claim.how_many),
            },
        )
    };
    let settings = cdr::Settings {
        source,
        batch_id: &settings.batch_id,
        oldest: settings.oldest,
        latest: settings.latest,
        near_midnight: settings.near_midnight,
        max_message_bytes: settings.max_message_bytes,
        utc: settings.utc != 0,
    };
    MEMORY.with(|memory| claim::pack(messages, lengths, &settings, rows, &mut outcome, &mut memory.borrow_mut()))
}
