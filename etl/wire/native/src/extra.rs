//! The JSON of the column `extra`, as msgspec writes it: fields that are in no column, in the order of etl/wire/cdr.py.

#![forbid(unsafe_code)]

use crate::fields;
use crate::json::{Scratch, Value};

/// Of undocumented fields, which are compared one by one.
const MOST_FIELDS: usize = 32;

#[derive(Default)]
pub struct Extra<'a> {
    document: Vec<u8>,
    sent: Vec<&'a [u8]>,
}

impl<'a> Extra<'a> {
    pub fn clear(&mut self) {
        self.document.clear();
        self.sent.clear();
    }

    /// An undocumented field, whose value stays as it was sent. Before all others.
    pub fn add_sent(&mut self, name: &'a [u8], value: &[u8]) -> Option<()> {
        if self.sent.len() == MOST_FIELDS || self.sent.contains(&name) {
            return None;
        }
        self.sent.push(name);
        self.begin();
        self.document.push(b'"');
        self.document.extend_from_slice(name); // there was no escape in it, and so it needs none
        self.document.extend_from_slice(b"\":");
        self.document.extend_from_slice(value);
        Some(())
    }

    pub fn add(&mut self, field: usize, value: Value) -> Option<()> {
        self.begin_field(field);
        match value {
            Value::Null => self.document.extend_from_slice(b"null"),
            Value::Integer(digits, _) => self.document.extend_from_slice(digits),
            Value::Text(text) => self.add_text(text)?,
        }
        Some(())
    }

    pub fn add_number(&mut self, field: usize, number: Option<i32>) -> Option<()> {
        self.begin_field(field);
        match number {
            None => self.document.extend_from_slice(b"null"),
            Some(number) => self.document.extend_from_slice(number.to_string().as_bytes()),
        }
        Some(())
    }

    /// Of all that was added since the last `clear`.
    pub fn document(&mut self, scratch: &mut Scratch<'a>) -> Option<Option<&'a [u8]>> {
        if self.document.is_empty() {
            return Some(None);
        }
        self.document.push(b'}');
        let room = scratch.take(self.document.len())?;
        room.copy_from_slice(&self.document);
        Some(Some(room))
    }

    fn begin(&mut self) {
        self.document.push(if self.document.is_empty() { b'{' } else { b',' });
    }

    fn begin_field(&mut self, field: usize) {
        self.begin();
        self.document.extend_from_slice(fields::quoted(field));
        self.document.push(b':');
    }

    fn add_text(&mut self, text: &[u8]) -> Option<()> {
        self.document.push(b'"');
        for &byte in text {
            match byte {
                b'"' | b'\\' => self.document.extend_from_slice(&[b'\\', byte]),
                8 => self.document.extend_from_slice(b"\\b"),
                12 => self.document.extend_from_slice(b"\\f"),
                b'\n' => self.document.extend_from_slice(b"\\n"),
                b'\r' => self.document.extend_from_slice(b"\\r"),
                b'\t' => self.document.extend_from_slice(b"\\t"),
                0..=0x1F => return None,
                _ => self.document.push(byte),
            }
        }
        self.document.push(b'"');
        Some(())
    }
}

/// What a raw disposition of old systems means.
pub fn end_reason(disposition: &[u8]) -> &[u8] {
    match disposition {
        b"ANSWER" | b"CANCEL" => b"hungup",
        b"BUSY" => b"busy",
        b"DONTCALL" => b"reject",
        b"NOANSWER" => b"timeout",
        b"CONGESTION" | b"CHANUNAVAIL" | b"TORTURE" => b"error",
        b"INVALIDARGS" => b"failed",
        _ => disposition,
    }
}
