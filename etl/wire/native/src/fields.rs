//! The documented fields of both dialects, as they stand in a message: `"name"` with its quotes.

#![forbid(unsafe_code)]

macro_rules! fields {
    ($($constant:ident $name:literal)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Numbered { $($constant,)* HOW_MANY }
        $(pub const $constant: usize = Numbered::$constant as usize;)*
        pub const HOW_MANY: usize = Numbered::HOW_MANY as usize;
        const QUOTED: [&[u8]; HOW_MANY] = [$(concat!('"', $name, '"').as_bytes(),)*];

        /// By its name without quotes.
        pub fn named(name: &[u8]) -> Option<usize> {
            QUOTED.iter().position(|quoted| &quoted[1..quoted.len() - 1] == name)
        }
    };
}

fields! {
    CALL_REF "call_ref"
    DIALED_AT "dialed_at"
    EXTENSION "extension"
    NUMBER "number"
    DIAL_NUMBER "dial_number"
    RECORDING_URL "recording_url"
    CONTACT_REF "contact_ref"
    CALL_TIME "call_time"
    HOLD_TIME "hold_time"
    RING_TIME "ring_time"
    END_REASON "end_reason"
    END_CODE "end_code"
    CALL_DIR "call_dir"
    REF "ref"
    UUID "uuid"
    AGENT "agent"
    RECORDING_LOCATION "recording_location"
    CALLEE_ANSWERED_AT "callee_answered_at"
    AGENT_ANSWERED_AT "agent_answered_at"
    ENDED_AT "ended_at"
    CLID "clid"
    ISDN_CODE "isdn_code"
    HOLD_TIME_NUMBER "hold_time_number"
    RING_TIME_NUMBER "ring_time_number"
    CALL_TRAIL_NUMBER "call_trail_number"
    DISPOSITION "disposition"
    CALL_TYPE "call_type"
    CALL_TRAIL_REF "call_trail_ref"
    RING_TIME_EXTENSION "ring_time_extension"
}

/// As it begins in a message.
pub fn quoted(field: usize) -> &'static [u8] {
    QUOTED.get(field).copied().unwrap_or(b"\0")
}
