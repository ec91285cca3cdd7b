//! The commonest spellings of a point in time, as microseconds since 2000-01-01T00:00:00Z; `None` for all others. The
//! definition is etl/wire/times.py.

#![forbid(unsafe_code)]

use crate::json::Value;
use crate::number;

const UNIX_SECONDS_AT_EPOCH: i64 = 946_684_800;
const MICROSECONDS_PER_SECOND: i64 = 1_000_000;
pub const MICROSECONDS_PER_DAY: i64 = 86_400 * MICROSECONDS_PER_SECOND;
/// Unix time from here on is milliseconds.
const FIRST_MILLISECONDS: i64 = 100_000_000_000;
/// Of 2000-01-01, counted from the first day of the year 0.
const DAYS_AT_EPOCH: i64 = 730_485;
const DAYS_BEFORE_MONTH: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

/// `utc`: a time without an offset is one of UTC.
pub fn microseconds(value: Value, utc: bool) -> Option<i64> {
    match value {
        Value::Integer(_, number) => from_unix(number),
        Value::Text(text) if text.get(4) == Some(&b'-') => from_date_and_time(text, utc),
        // With a fraction Python reads a float, and rounds.
        Value::Text(text) if text.contains(&b'.') => None,
        Value::Text(text) => from_unix(number::from_text(text)?),
        Value::Null => None,
    }
}

/// The whole second of a time that is not before 2000.
pub fn whole_second(time: i64) -> i64 {
    time - time % MICROSECONDS_PER_SECOND
}

fn from_unix(value: i64) -> Option<i64> {
    let unit = if value < FIRST_MILLISECONDS { MICROSECONDS_PER_SECOND } else { 1_000 };
    value.checked_mul(unit)?.checked_sub(UNIX_SECONDS_AT_EPOCH * MICROSECONDS_PER_SECOND)
}

/// `2015-02-19 23:06:00 +0200`, `2015-02-19 21:06:00 UTC`, `2015-02-19T23:06:00.354+02:00`, `2015-02-19T21:06:00Z`.
fn from_date_and_time(text: &[u8], utc: bool) -> Option<i64> {
    let (shape, rest) = (text.get(..19)?, text.get(19..)?);
    if shape[7] != b'-' || !matches!(shape[10], b'T' | b' ') || shape[13] != b':' || shape[16] != b':' {
        return None;
    }
    let (year, month) = (two(shape, 0)? * 100 + two(shape, 2)?, two(shape, 5)?);
    let day = two(shape, 8)?;
    let (hour, minute, second) = (two(shape, 11)?, two(shape, 14)?, two(shape, 17)?);
    if day < 1 || day > days_in(year, month)? || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, rest) = fraction(rest)?;
    let offset = offset(rest, utc)?;
    let seconds = (days_until(year, month) + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some(seconds * MICROSECONDS_PER_SECOND + fraction)
}

fn two(text: &[u8], at: usize) -> Option<i64> {
    Some(digit(text[at])? * 10 + digit(text[at + 1])?)
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then_some((byte.wrapping_sub(b'0')) as i64)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> Option<i64> {
    match month {
        2 => Some(if is_leap(year) { 29 } else { 28 }),
        4 | 6 | 9 | 11 => Some(30),
        1..=12 => Some(31),
        _ => None,
    }
}

/// Days from 2000-01-01 up to the month's first.
fn days_until(year: i64, month: i64) -> i64 {
    // Leap years before this one; the year 0 would be one.
    let leap_years = (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let leap_day = (month > 2 && is_leap(year)) as i64;
    year * 365 + leap_years + DAYS_BEFORE_MONTH[month as usize - 1] + leap_day - DAYS_AT_EPOCH
}

/// In microseconds, of one to six digits; and what comes behind it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    if text.first() != Some(&b'.') {
        return Some((0, text));
    }
    let digits = text[1..].iter().take_while(|each| each.is_ascii_digit()).count();
    if !(1..=6).contains(&digits) {
        return None;
    }
    let number = text[1..=digits].iter().fold(0, |sum, &each| sum * 10 + (each - b'0') as i64);
    Some((number * 10_i64.pow(6 - digits as u32), &text[1 + digits..]))
}

/// In seconds.
fn offset(text: &[u8], utc: bool) -> Option<i64> {
    let offset = match text {
        b"" => return utc.then_some(0),
        b" UTC" => return Some(0),
        [b' ', rest @ ..] => rest,
        _ => text,
    };
    let (sign, hours, minutes) = match offset {
        b"Z" => return Some(0),
        [sign, a, b, c, d] | [sign, a, b, b':', c, d] => (sign, two(&[*a, *b], 0)?, two(&[*c, *d], 0)?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    match sign {
        b'+' => Some((hours * 60 + minutes) * 60),
        b'-' => Some(-(hours * 60 + minutes) * 60),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<i64> {
        microseconds(Value::Text(text.as_bytes()), true)
    }

    #[test]
    fn the_spellings_of_the_protocol_are_one_moment() {
        let moment = Some(477_695_160_000_000);
        for text in [
            "2015-02-19 23:06:00 +0200",
            "2015-02-19 21:06:00 UTC",
            "2015-02-19T21:06:00Z",
            "2015-02-19T23:06:00.000+02:00",
            "2015-02-19 21:06:00",
            "1424379960",
            " +1424379960000 ",
        ] {
            assert_eq!(read(text), moment, "{text}");
        }
        assert_eq!(microseconds(Value::Text(b"2015-02-19 21:06:00"), false), None);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = -MICROSECONDS_PER_DAY * 366 * 2;
        for year in 1998..2402 {
            for month in 1..=12 {
                for day in 1..=days_in(year, month).unwrap() {
                    let text = format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
                    if year == 1998 && month == 1 && day == 1 {
                        expected = read(&text).unwrap();
                    }
                    assert_eq!(read(&text), Some(expected), "{text}");
                    expected += MICROSECONDS_PER_DAY;
                }
            }
        }
        assert_eq!(read("2000-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2015-02-29T00:00:00Z"), None);
    }
}
