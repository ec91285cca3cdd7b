//! Whole numbers as text. The definition is etl/wire/numbers.py.

#![forbid(unsafe_code)]

use crate::json::Value;

/// More than any Unix time has; so many fit into an i64.
const MOST_DIGITS: usize = 18;

/// Digits with a sign, a fraction of zeros, and blanks around them, all as the dialler may write them.
pub fn from_text(text: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 12 | 11);
    let start = text.iter().position(|byte| !is_blank(byte))?;
    let end = text.iter().rposition(|byte| !is_blank(byte))? + 1;
    let text = &text[start..end];
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let zeros = text.iter().take_while(|&&byte| byte == b'0').count();
    let digits = text[zeros..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if zeros + digits == 0 || digits > MOST_DIGITS || !is_fraction_of_zeros(&text[zeros + digits..]) {
        return None;
    }
    let number = text[zeros..zeros + digits].iter().fold(0, |sum, &byte| sum * 10 + (byte - b'0') as i64);
    Some(if negative { -number } else { number })
}

fn is_fraction_of_zeros(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b'.', zeros @ ..] => !zeros.is_empty() && zeros.iter().all(|&byte| byte == b'0'),
        _ => false,
    }
}

/// A number of Postgres' integer, or none: `Some(None)`.
#[inline]
pub fn int4(value: Value) -> Option<Option<i32>> {
    let number = match value {
        Value::Null | Value::Text(b"") => return Some(None),
        Value::Integer(_, number) => number,
        Value::Text(text) => from_text(text)?,
    };
    i32::try_from(number).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_many_spellings() {
        for text in ["16", " 16 ", "+16", "0016", "16.0", "16.000", "\t16\n"] {
            assert_eq!(from_text(text.as_bytes()), Some(16), "{text}");
        }
        for text in ["", " ", "1e1", "16.5", "0x10", "- 1", "--1", "16.", ".0", "1234567890123456789"] {
            assert_eq!(from_text(text.as_bytes()), None, "{text}");
        }
        assert_eq!(from_text(b"-0"), Some(0));
        assert_eq!(int4(Value::Integer(b"2147483648", 2_147_483_648)), None);
    }
}
