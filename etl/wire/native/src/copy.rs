//! Rows of Postgres' binary COPY, as psycopg writes the tuples of etl/wire/cdr.py.

#![forbid(unsafe_code)]

use crate::cdr::{Cdr, Settings};

const COLUMNS: u16 = 23;
/// Of jsonb.
const VERSION: u8 = 1;
/// Of a row without its texts, and with the 24th column: how many columns, their lengths, and what has a fixed size.
pub const FIXED: usize = 2 + 24 * 4 + 4 * 6 + 8 * 4 + 16 + 4 + 1;

/// The rows would go beyond their buffer.
pub struct Full;

pub struct Rows<'o> {
    out: &'o mut [u8],
    written: usize,
}

impl<'o> Rows<'o> {
    pub fn new(out: &'o mut [u8]) -> Self {
        Rows { out, written: 0 }
    }

    pub fn written(&self) -> usize {
        self.written
    }

    pub fn add(&mut self, cdr: &Cdr, settings: &Settings) -> Result<(), Full> {
        self.put(&COLUMNS.to_be_bytes())?;
        self.int4(Some(cdr.dialed_on))?;
        self.bytes(Some(settings.source))?;
        self.bytes(Some(cdr.call_ref))?;
        self.int4(Some(cdr.leg))?;
        for time in [Some(cdr.dialed_at), cdr.answered_at, cdr.connected_at, cdr.ended_at] {
            self.int8(time)?;
        }
        for seconds in [cdr.call_time, cdr.hold_time, cdr.ring_time] {
            self.int4(seconds)?;
        }
        for text in [cdr.call_dir, cdr.extension, cdr.number, cdr.dial_number, cdr.campaign_ref, cdr.contact_ref] {
            self.bytes(text)?;
        }
        self.bytes(cdr.end_reason)?;
        self.int4(cdr.end_code)?;
        self.bytes(cdr.recording_url)?;
        self.bytes(cdr.uuid)?;
        self.jsonb(cdr.extra)?;
        self.bytes(Some(settings.batch_id))
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.written.checked_add(bytes.len()).ok_or(Full)?;
        self.out.get_mut(self.written..end).ok_or(Full)?.copy_from_slice(bytes);
        self.written = end;
        Ok(())
    }

    #[inline]
    fn length(&mut self, length: usize) -> Result<(), Full> {
        let length = i32::try_from(length).map_err(|_| Full)?; // or it's none of a row that Postgres would take
        self.put(&length.to_be_bytes())
    }

    fn null(&mut self) -> Result<(), Full> {
        self.put(&(-1_i32).to_be_bytes())
    }

    fn int4(&mut self, value: Option<i32>) -> Result<(), Full> {
        match value {
            None => self.null(),
            Some(value) => self.put(&(4_u64 << 32 | value as u32 as u64).to_be_bytes()), // the length, too
        }
    }

    fn int8(&mut self, value: Option<i64>) -> Result<(), Full> {
        match value {
            None => self.null(),
            Some(value) => {
                self.put(&8_i32.to_be_bytes())?;
                self.put(&value.to_be_bytes())
            }
        }
    }

    fn bytes(&mut self, value: Option<&[u8]>) -> Result<(), Full> {
        match value {
            None => self.null(),
            Some(value) => {
                self.length(value.len())?;
                self.put(value)
            }
        }
    }

    fn jsonb(&mut self, document: Option<&[u8]>) -> Result<(), Full> {
        match document {
            None => self.null(),
            Some(document) => {
                self.length(document.len() + 1)?;
                self.put(&[VERSION])?;
                self.put(document)
            }
        }
    }
}
