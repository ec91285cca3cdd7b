//! A plain message to the columns of a CDR. The definition is etl/wire/cdr.py; what it does in the slow way, and what it
//! refuses, is `None` here.

#![forbid(unsafe_code)]

use crate::extra::{self, Extra};
use crate::fields::*;
use crate::json::{Scanner, Scratch, Value};
use crate::{number, time};

/// Of a reference that an index has, in bytes: etl/wire/references.py.
const LONGEST_REFERENCE: usize = 512;

/// What the CDRs of a claim have in common. Times are microseconds since 2000.
pub struct Settings<'a> {
    pub source: &'a [u8],
    pub batch_id: &'a [u8],
    /// Of calls that were dialled before, or of any time that is later, Python says what is wrong.
    pub oldest: i64,
    pub latest: i64,
    /// A call that was dialled at most so long before or after midnight may belong to either day.
    pub near_midnight: i64,
    pub max_message_bytes: usize,
    /// A time without an offset is one of UTC; otherwise Python reads it.
    pub utc: bool,
}

/// The columns that don't come from `Settings`.
#[derive(Clone, Copy, PartialEq)]
pub struct Cdr<'a> {
    pub dialed_on: i32,
    pub call_ref: &'a [u8],
    pub leg: i32,
    pub dialed_at: i64,
    pub answered_at: Option<i64>,
    pub connected_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub call_time: Option<i32>,
    pub hold_time: Option<i32>,
    pub ring_time: Option<i32>,
    pub call_dir: Option<&'a [u8]>,
    pub extension: Option<&'a [u8]>,
    pub number: Option<&'a [u8]>,
    pub dial_number: Option<&'a [u8]>,
    pub campaign_ref: Option<&'a [u8]>,
    pub contact_ref: Option<&'a [u8]>,
    pub end_reason: Option<&'a [u8]>,
    pub end_code: Option<i32>,
    pub recording_url: Option<&'a [u8]>,
    pub uuid: Option<&'a [u8]>,
    pub extra: Option<&'a [u8]>,
}

/// Reads the messages of one claim.
pub struct Reader<'a> {
    settings: &'a Settings<'a>,
    scratch: Scratch<'a>,
    /// Of the message being read; valid are those of the fields in `seen`, a bit each.
    values: [Value<'a>; HOW_MANY],
    seen: u32,
    /// The field that came after each, last time: most messages have their fields in the order of the one before.
    after: [usize; HOW_MANY + 1],
    extra: Extra<'a>,
}

impl<'a> Reader<'a> {
    pub fn new(settings: &'a Settings<'a>, scratch: Scratch<'a>) -> Self {
        Reader {
            settings,
            scratch,
            values: [Value::Null; HOW_MANY],
            seen: 0,
            after: [0; HOW_MANY + 1],
            extra: Extra::default(),
        }
    }

    /// Its columns, if the message is a plain CDR.
    pub fn read(&mut self, message: &'a [u8]) -> Option<Cdr<'a>> {
        if message.len() > self.settings.max_message_bytes {
            return None;
        }
        self.seen = 0;
        self.extra.clear();
        self.read_envelope(message)?;
        let cdr = self.columns()?;
        let time_of_day = cdr.dialed_at % time::MICROSECONDS_PER_DAY;
        let near = self.settings.near_midnight;
        (near < time_of_day && time_of_day < time::MICROSECONDS_PER_DAY - near).then_some(cdr)
    }

    fn read_envelope(&mut self, message: &'a [u8]) -> Option<()> {
        let mut json = Scanner::new(message);
        json.skip_blanks();
        json.expect(b'{')?;
        json.skip_blanks();
        let (mut has_type, mut has_payload) = (false, false);
        loop {
            match json.name()? {
                b"type" if !has_type => {
                    has_type = json.take(b"\"cdr\"") || json.take(b"\"call_update\"") || json.take(b"null");
                    has_type.then_some(())?;
                }
                b"payload" if !has_payload => {
                    self.read_payload(&mut json)?;
                    has_payload = true;
                }
                _ => return None,
            }
            if !json.another()? {
                break;
            }
        }
        (has_type && has_payload && json.is_at_end()).then_some(())
    }

    fn read_payload(&mut self, json: &mut Scanner<'a>) -> Option<()> {
        json.expect(b'{')?;
        json.skip_blanks();
        let mut before = HOW_MANY;
        loop {
            let guess = self.after[before];
            let field = if json.take(quoted(guess)) {
                json.colon()?;
                guess
            } else {
                let name = json.name()?;
                match named(name) {
                    Some(field) => field,
                    None => {
                        self.extra.add_sent(name, json.any(&mut self.scratch)?)?;
                        if json.another()? {
                            continue;
                        }
                        return Some(());
                    }
                }
            };
            self.after[before] = field;
            before = field;
            let bit = 1 << field;
            if self.seen & bit != 0 {
                return None; // twice
            }
            self.seen |= bit;
            json.scalar(&mut self.values[field], &mut self.scratch)?;
            if !json.another()? {
                return Some(());
            }
        }
    }

    fn columns(&mut self) -> Option<Cdr<'a>> {
        let call_ref = self.reference(CALL_REF)?.filter(|each| !each.is_empty())?;
        let dialed_at = self.time(DIALED_AT, self.settings.oldest)??;
        let extension = self.reference(EXTENSION)?;
        let extension = self.either(extension, self.reference(AGENT)?, AGENT)?;
        let recording_url = self.text(RECORDING_URL)?;
        let recording_url = self.either(recording_url, self.text(RECORDING_LOCATION)?, RECORDING_LOCATION)?;
        let dial_number = self.reference(DIAL_NUMBER)?;
        let dial_number = self.either(dial_number, self.reference(CLID)?, CLID)?;
        let end_code = self.int4(END_CODE)?;
        let end_code = self.either_number(end_code, ISDN_CODE)?;
        let hold_time = self.int4(HOLD_TIME)?;
        let hold_time = self.either_number(hold_time, HOLD_TIME_NUMBER)?;
        let ring_time = self.int4(RING_TIME)?;
        let ring_time = self.either_number(ring_time, RING_TIME_NUMBER)?;
        let end_reason = self.text(END_REASON)?;
        let end_reason = self.disposed(end_reason)?;
        self.undocumented_columns()?;
        let cdr = Cdr {
            dialed_on: i32::try_from(dialed_at / time::MICROSECONDS_PER_DAY).ok()?,
            call_ref,
            leg: self.leg()?,
            dialed_at,
            answered_at: self.time(CALLEE_ANSWERED_AT, 0)?,
            connected_at: self.time(AGENT_ANSWERED_AT, 0)?,
            ended_at: self.time(ENDED_AT, 0)?,
            call_time: self.int4(CALL_TIME)?,
            hold_time,
            ring_time,
            call_dir: self.text(CALL_DIR)?,
            extension,
            number: self.reference(NUMBER)?,
            dial_number,
            campaign_ref: self.reference(REF)?,
            contact_ref: self.reference(CONTACT_REF)?,
            end_reason,
            end_code,
            recording_url,
            uuid: self.text(UUID)?,
            extra: self.extra.document(&mut self.scratch)?,
        };
        let references = [Some(call_ref), extension, cdr.campaign_ref, cdr.contact_ref, cdr.uuid];
        let are_short = references.iter().flatten().all(|each| each.len() <= LONGEST_REFERENCE);
        are_short.then_some(cdr)
    }

    /// Null is as good as absent, but where it's asked for.
    #[inline]
    fn value(&self, field: usize) -> Value<'a> {
        if self.seen & 1 << field != 0 {
            self.values[field]
        } else {
            Value::Null
        }
    }

    fn is_there(&self, field: usize) -> bool {
        self.seen & 1 << field != 0
    }

    #[inline]
    fn text(&self, field: usize) -> Option<Option<&'a [u8]>> {
        match self.value(field) {
            Value::Null => Some(None),
            Value::Text(text) => Some(Some(text)),
            Value::Integer(..) => None,
        }
    }

    #[inline]
    fn reference(&self, field: usize) -> Option<Option<&'a [u8]>> {
        match self.value(field) {
            Value::Null => Some(None),
            Value::Text(text) | Value::Integer(text, _) => Some(Some(text)),
        }
    }

    #[inline]
    fn int4(&self, field: usize) -> Option<Option<i32>> {
        number::int4(self.value(field))
    }

    #[inline]
    fn time(&self, field: usize, oldest: i64) -> Option<Option<i64>> {
        match self.value(field) {
            Value::Null => Some(None),
            value => {
                let moment = time::microseconds(value, self.settings.utc)?;
                // Before 2000 there is nothing, whatever the oldest may be.
                (oldest.max(0) <= moment && moment <= self.settings.latest).then_some(Some(moment))
            }
        }
    }

    /// No leg and 1 are the call's first, which is stored as 0.
    fn leg(&self) -> Option<i32> {
        match self.int4(CALL_TRAIL_NUMBER)? {
            None | Some(1) => Some(0),
            Some(leg) => (leg > 1).then_some(leg),
        }
    }

    /// A column that two fields name: the first one with a value wins, and a second that differs is kept in `extra`.
    fn either(&mut self, value: Option<&'a [u8]>, other: Option<&'a [u8]>, field: usize) -> Option<Option<&'a [u8]>> {
        if let (Some(one), Some(two)) = (value, other) {
            if one != two {
                self.extra.add(field, self.value(field))?;
            }
        }
        Some(value.or(other))
    }

    fn either_number(&mut self, value: Option<i32>, field: usize) -> Option<Option<i32>> {
        let other = self.int4(field)?;
        if let (Some(one), Some(two)) = (value, other) {
            if one != two {
                self.extra.add_number(field, other)?;
            }
        }
        Some(value.or(other))
    }

    /// The end_reason; if there is a disposition, that is kept in `extra`, and its meaning stands in.
    fn disposed(&mut self, end_reason: Option<&'a [u8]>) -> Option<Option<&'a [u8]>> {
        match self.text(DISPOSITION)? {
            None => Some(end_reason),
            Some(disposition) => {
                self.extra.add(DISPOSITION, self.value(DISPOSITION))?;
                Some(end_reason.or_else(|| Some(extra::end_reason(disposition))))
            }
        }
    }

    /// What is documented and has no column is kept in `extra`, null too.
    fn undocumented_columns(&mut self) -> Option<()> {
        for field in [CALL_TYPE, CALL_TRAIL_REF] {
            if self.is_there(field) {
                self.extra.add(field, self.value(field))?;
            }
        }
        if self.is_there(RING_TIME_EXTENSION) {
            let number = self.int4(RING_TIME_EXTENSION)?;
            self.extra.add_number(RING_TIME_EXTENSION, number)?;
        }
        Some(())
    }
}
