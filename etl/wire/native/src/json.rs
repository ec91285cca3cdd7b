//! A scanner of JSON that only goes on while everything is plain: each method gives `None` for what it doesn't know, and
//! then the message is the Python decoder's. What it accepts, RFC 8259 and Python accept with the same meaning.

#![forbid(unsafe_code)]

/// More digits than any Unix time or documented number has; so many fit into an i64.
const MOST_DIGITS: usize = 18;
/// Of a number in an undocumented field.
const LONGEST_NUMBER: usize = 64;
/// Of lists and objects in an undocumented field.
const DEEPEST: usize = 16;

const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// A value of a documented field.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Null,
    Text(&'a [u8]),
    /// As it was sent, which is also how Python writes it; and what it is.
    Integer(&'a [u8], i64),
}

/// Room for texts without their escapes, given out piece by piece.
pub struct Scratch<'a> {
    left: &'a mut [u8],
}

impl<'a> Scratch<'a> {
    pub fn new(room: &'a mut [u8]) -> Self {
        Scratch { left: room }
    }

    pub fn take(&mut self, length: usize) -> Option<&'a mut [u8]> {
        if length > self.left.len() {
            return None;
        }
        let (taken, left) = std::mem::take(&mut self.left).split_at_mut(length);
        self.left = left;
        Some(taken)
    }
}

pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Scanner { bytes, at: 0 }
    }

    fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Goes past `expected` if it comes next.
    #[inline]
    pub fn take(&mut self, expected: &[u8]) -> bool {
        let found = self.bytes[self.at..].starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    #[inline]
    pub fn expect(&mut self, expected: u8) -> Option<()> {
        if self.peek()? != expected {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// After a field's value: whether another field comes. The scanner is then at its name, or behind the object.
    #[inline]
    pub fn another(&mut self) -> Option<bool> {
        self.skip_blanks();
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => {
                self.skip_blanks();
                Some(true)
            }
            b'}' => Some(false),
            _ => None,
        }
    }

    /// Nothing but blanks is left.
    pub fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.at == self.bytes.len()
    }

    /// A field's name, which must have no escapes, and the colon; the scanner is then at the value.
    pub fn name(&mut self) -> Option<&'a [u8]> {
        let (name, escaped) = self.quoted()?;
        if escaped {
            return None;
        }
        self.colon()?;
        Some(name)
    }

    #[inline]
    pub fn colon(&mut self) -> Option<()> {
        self.skip_blanks();
        self.expect(b':')?;
        self.skip_blanks();
        Some(())
    }

    /// A text, an integer or null, into `value`.
    #[inline(always)]
    pub fn scalar(&mut self, value: &mut Value<'a>, scratch: &mut Scratch<'a>) -> Option<()> {
        // Each is written where it's found: handed back, it would be copied in pieces of another size.
        match self.peek()? {
            b'"' => {
                let (text, escaped) = self.quoted()?;
                *value = Value::Text(if escaped { unescaped(text, scratch)? } else { text });
            }
            b'n' => {
                self.take(b"null").then_some(())?;
                *value = Value::Null;
            }
            _ => {
                let (digits, number) = self.integer()?;
                *value = Value::Integer(digits, number);
            }
        }
        Some(())
    }

    /// Also without the escapes it is a text that can be stored.
    fn text(&mut self, scratch: &mut Scratch<'a>) -> Option<()> {
        let (text, escaped) = self.quoted()?;
        if escaped {
            unescaped(text, scratch)?;
        }
        Some(())
    }

    /// What stands between quotes, and whether it has escapes, whose meaning isn't looked at yet.
    #[inline(always)]
    fn quoted(&mut self) -> Option<(&'a [u8], bool)> {
        self.expect(b'"')?;
        let start = self.at;
        let (mut escaped, mut high) = (false, 0);
        loop {
            // Eight bytes at once, up to a quote, a backslash or a control character. Marks above the lowest may be wrong.
            while let Some(eight) = self.bytes.get(self.at..self.at + 8) {
                let word = u64::from_le_bytes(eight.try_into().ok()?);
                let marks = zero(word ^ (EACH_BYTE * b'"' as u64))
                    | zero(word ^ (EACH_BYTE * b'\\' as u64))
                    | (word.wrapping_sub(EACH_BYTE * 0x20) & !word & HIGH_BITS);
                high |= word & HIGH_BITS; // of some bytes behind the quote too: then UTF-8 is checked for nothing
                if marks != 0 {
                    self.at += marks.trailing_zeros() as usize / 8;
                    break;
                }
                self.at += 8;
            }
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                0..=0x1F => return None,
                byte => {
                    high |= byte as u64 & 0x80;
                    self.at += 1;
                }
            }
        }
        let text = self.since(start);
        self.at += 1;
        if high != 0 {
            std::str::from_utf8(text).ok()?;
        }
        Some((text, escaped))
    }

    /// As it was sent, and what it is. Not -0, which is a float to some.
    #[inline(always)]
    fn integer(&mut self) -> Option<(&'a [u8], i64)> {
        let start = self.at;
        let negative = self.take(b"-");
        let first = self.at;
        let mut number: i64 = 0;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            if self.at - first == MOST_DIGITS {
                return None;
            }
            number = number * 10 + (digit - b'0') as i64;
            self.at += 1;
        }
        let digits = self.at - first;
        let is_plain = digits > 0 && (self.bytes[first] != b'0' || digits == 1 && !negative);
        if !is_plain || matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        Some((self.since(start), if negative { -number } else { number }))
    }

    /// Any value, which is left as it was sent.
    pub fn any(&mut self, scratch: &mut Scratch<'a>) -> Option<&'a [u8]> {
        let start = self.at;
        self.skip_any(scratch, DEEPEST)?;
        Some(self.since(start))
    }

    fn skip_any(&mut self, scratch: &mut Scratch<'a>, deepest: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.text(scratch),
            b'n' => self.take(b"null").then_some(()),
            b't' => self.take(b"true").then_some(()),
            b'f' => self.take(b"false").then_some(()),
            b'{' => self.skip_members(b'}', scratch, deepest.checked_sub(1)?),
            b'[' => self.skip_members(b']', scratch, deepest.checked_sub(1)?),
            _ => self.skip_number(),
        }
    }

    fn skip_members(&mut self, end: u8, scratch: &mut Scratch<'a>, deepest: usize) -> Option<()> {
        self.at += 1;
        self.skip_blanks();
        if self.peek()? == end {
            self.at += 1;
            return Some(());
        }
        loop {
            if end == b'}' {
                self.text(scratch)?;
                self.colon()?;
            }
            self.skip_any(scratch, deepest)?;
            self.skip_blanks();
            if self.peek()? == end {
                self.at += 1;
                return Some(());
            }
            self.expect(b',')?;
            self.skip_blanks();
        }
    }

    /// Without an exponent: Postgres writes those out, and somebody must count what that makes.
    fn skip_number(&mut self) -> Option<()> {
        let start = self.at;
        self.take(b"-");
        let first = self.at;
        let digits = self.skip_digits();
        if digits == 0 || digits > 1 && self.bytes[first] == b'0' {
            return None;
        }
        if self.take(b".") && self.skip_digits() == 0 {
            return None;
        }
        let is_plain = self.at - start <= LONGEST_NUMBER && !matches!(self.peek(), Some(b'e' | b'E'));
        is_plain.then_some(())
    }

    fn skip_digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }
}

/// The highest bit of each byte that is 0.
#[inline]
fn zero(word: u64) -> u64 {
    word.wrapping_sub(EACH_BYTE) & !word & HIGH_BITS
}

/// None for an escape that stands for nothing, for NUL, and for half of a surrogate pair: nobody can store these.
fn unescaped<'a>(text: &[u8], scratch: &mut Scratch<'a>) -> Option<&'a [u8]> {
    let room = scratch.take(text.len())?; // every escape is longer than what it stands for
    let (mut from, mut to) = (0, 0);
    while let Some(&byte) = text.get(from) {
        if byte != b'\\' {
            room[to] = byte;
            (from, to) = (from + 1, to + 1);
            continue;
        }
        let plain = match text.get(from + 1)? {
            &same @ (b'"' | b'\\' | b'/') => same,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (character, length) = character(&text[from..])?;
                to += character.encode_utf8(&mut room[to..]).len();
                from += length;
                continue;
            }
            _ => return None,
        };
        room[to] = plain;
        (from, to) = (from + 2, to + 1);
    }
    Some(&room[..to])
}

/// What a `\u` stands for, and how long it is.
fn character(escape: &[u8]) -> Option<(char, usize)> {
    let first = unit(escape)?;
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first).filter(|&each| each != '\0')?, 6));
    }
    let second = unit(escape.get(6..)?)?;
    if !(0xDC00..0xE000).contains(&second) {
        return None;
    }
    Some((char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?, 12))
}

fn unit(escape: &[u8]) -> Option<u32> {
    let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |sum, &digit| Some(sum * 16 + (digit as char).to_digit(16)?))
}
