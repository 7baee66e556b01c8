//! Keeps from the AMQP library what it cannot read. Anybody who may publish can send properties that are not UTF-8, or headers
//! nested so deeply that reading them overflows a thread's stack. The library would give up its connection, or end the process,
//! and the message would come again. Such properties are handed on as bytes, in a header, in the place of themselves.
//!
//! The layout of frames and properties is that of AMQP 0-9-1
//! (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>, sections 2.3.5, 4.2.3 to 4.2.6).

use std::collections::HashMap;

/// Holds the properties of a message that could not be read, as they came: property flags and property list.
pub(crate) const UNREADABLE_HEADER: &str = "x-overdue-unreadable";

/// Holds the routing key of a message, if it is not UTF-8.
pub(crate) const UNREADABLE_KEY_HEADER: &str = "x-overdue-unreadable-key";

/// What comes from the broker, on its way to the library. Takes bytes in pieces of any size.
pub(crate) struct Guard {
    /// A frame that has not come as a whole yet.
    partial: Vec<u8>,
    /// How many bytes are still to be let through as they are.
    passing: usize,
    /// By channel: the raw routing key of the message whose properties are about to come.
    unreadable_keys: HashMap<u16, Vec<u8>>,
    frame_bytes_max: usize,
}

/// How deep tables and lists in headers may be nested.
const DEPTH_MAX: u32 = 32;

/// A frame's type, channel and length, before its payload.
const FRAME_HEADER: usize = 7;
const FRAME_END: u8 = 0xce;
const METHOD: u8 = 1;
const HEADER: u8 = 2;

/// A method frame, or one of properties, that is larger than this is no such thing. It is left to the library.
const LOOKED_AT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest frame unless the broker says otherwise.
const FRAME_BYTES_MAX: usize = 128 * 1024;

/// Flags of the properties `headers` and `delivery-mode`.
const FLAG_HEADERS: u16 = 1 << 13;
const FLAG_DELIVERY_MODE: u16 = 1 << 12;

impl Guard {
    /// `frame_bytes_max` is what we ask the broker for; 0: as much as it likes.
    pub(crate) fn new(frame_bytes_max: u32) -> Self {
        let asked = usize::try_from(frame_bytes_max).unwrap_or(0);
        let frame_bytes_max = if asked == 0 { FRAME_BYTES_MAX } else { asked };
        Self { partial: Vec::new(), passing: 0, unreadable_keys: HashMap::new(), frame_bytes_max }
    }

    /// Takes what has come, and adds to `out` what may go on.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, later) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                bytes = later;
                continue;
            }
            // As much as the frame's header says, once that is known.
            let wanted = match self.partial.get(..FRAME_HEADER) {
                None => FRAME_HEADER,
                Some(header) => frame_bytes(header),
            };
            let (now, later) = bytes.split_at((wanted - self.partial.len()).min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if self.partial.len() < wanted {
                return;
            }
            if wanted == FRAME_HEADER {
                self.begin_frame(out);
            } else {
                let frame = std::mem::take(&mut self.partial);
                self.frame(&frame, out);
            }
        }
    }

    /// A frame of a message's body, or a heartbeat, is let through as it comes.
    fn begin_frame(&mut self, out: &mut Vec<u8>) {
        let looked_at = matches!(self.partial[0], METHOD | HEADER);
        let bytes = frame_bytes(&self.partial);
        if !looked_at || bytes > LOOKED_AT_BYTES_MAX {
            self.passing = bytes - FRAME_HEADER;
            out.append(&mut self.partial);
        }
    }

    fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let channel = u16::from_be_bytes([frame[1], frame[2]]);
        let payload = &frame[FRAME_HEADER..frame.len() - 1];
        let replaced = match frame[0] {
            METHOD => self.method(channel, payload),
            _ => self.properties(channel, payload),
        };
        match replaced {
            None => out.extend_from_slice(frame),
            Some(payload) => {
                out.push(frame[0]);
                out.extend_from_slice(&channel.to_be_bytes());
                out.extend_from_slice(&length(&payload));
                out.extend_from_slice(&payload);
                out.push(FRAME_END);
            }
        }
    }

    /// `None`: it can be read.
    fn method(&mut self, channel: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let mut rest = Reader(payload);
        let (class, method) = (rest.u16()?, rest.u16()?);
        match (class, method) {
            // connection.tune
            (10, 30) => {
                let (_, frame_bytes_max) = (rest.u16()?, rest.u32()?);
                if frame_bytes_max > 0 {
                    self.frame_bytes_max = self.frame_bytes_max.min(usize::try_from(frame_bytes_max).ok()?);
                }
                None
            }
            // basic.deliver: consumer tag, delivery tag and a flag, exchange, routing key.
            (60, 60) => {
                rest.short()?;
                rest.take(9)?;
                self.names(channel, payload, rest)
            }
            // basic.get-ok: delivery tag and a flag, exchange, routing key.
            (60, 71) => {
                rest.take(9)?;
                self.names(channel, payload, rest)
            }
            // basic.return: a code, a text, exchange, routing key.
            (60, 50) => {
                rest.take(2)?;
                rest.short()?;
                self.names(channel, payload, rest)
            }
            _ => None,
        }
    }

    /// An exchange and a routing key, of which the publisher chooses the key.
    fn names(&mut self, channel: u16, payload: &[u8], mut rest: Reader<'_>) -> Option<Vec<u8>> {
        rest.short()?;
        let before = payload.len() - rest.0.len();
        let key = rest.short()?;
        if std::str::from_utf8(key).is_ok() {
            return None;
        }
        self.unreadable_keys.insert(channel, key.to_vec());
        let shown = escaped(key);
        let mut replaced = payload[..before].to_vec();
        replaced.push(u8::try_from(shown.len()).unwrap_or(0));
        replaced.extend_from_slice(shown.as_bytes());
        replaced.extend_from_slice(rest.0);
        Some(replaced)
    }

    /// `None`: they can be read.
    fn properties(&mut self, channel: u16, payload: &[u8]) -> Option<Vec<u8>> {
        const CLASS_WEIGHT_SIZE: usize = 12;
        let key = self.unreadable_keys.remove(&channel);
        let (start, properties) = payload.split_at_checked(CLASS_WEIGHT_SIZE)?;
        if key.is_none() && is_readable(properties) {
            return None;
        }
        let mut table = Vec::new();
        if let Some(key) = key {
            add_bytes(&mut table, UNREADABLE_KEY_HEADER, &key);
        }
        // What they came in was one frame; with what stands around them they may no longer fit.
        let room = self.frame_bytes_max.saturating_sub(table.len() + 128);
        add_bytes(&mut table, UNREADABLE_HEADER, &properties[..properties.len().min(room)]);
        let mut replaced = start.to_vec();
        replaced.extend_from_slice(&(FLAG_HEADERS | FLAG_DELIVERY_MODE).to_be_bytes());
        replaced.extend_from_slice(&length(&table));
        replaced.extend_from_slice(&table);
        replaced.push(2);
        Some(replaced)
    }
}

/// Whether the library can read these properties: flags and list.
fn is_readable(properties: &[u8]) -> bool {
    let mut rest = Reader(properties);
    let read = |rest: &mut Reader<'_>| {
        let flags = rest.u16()?;
        let has = |bit: u32| flags & (1 << bit) != 0;
        // In the order of the specification, from the highest bit: content type, content encoding, headers, delivery mode,
        // priority, correlation ID, reply-to, expiration, message ID, timestamp, type, user ID, app ID, cluster ID.
        for bit in (2..16).rev().filter(|bit| has(*bit)) {
            match bit {
                13 => rest.table(DEPTH_MAX)?,
                11 | 12 => drop(rest.take(1)?),
                6 => drop(rest.take(8)?),
                _ => drop(rest.text()?),
            }
        }
        // Another word of flags would follow, of which the specification knows none.
        (flags & 3 == 0 && rest.0.is_empty()).then_some(())
    };
    read(&mut rest).is_some()
}

/// Bytes, read from the front. `None`: there is not what there should be.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.short()?).ok()
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn table(&mut self, depth: u32) -> Option<()> {
        let mut entries = Reader(self.long()?);
        while !entries.0.is_empty() {
            entries.text()?;
            entries.value(depth)?;
        }
        Some(())
    }

    /// By the types that RabbitMQ uses (<https://www.rabbitmq.com/amqp-0-9-1-errata#section_3>).
    fn value(&mut self, depth: u32) -> Option<()> {
        let bytes = match self.u8()? {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' => {
                self.long()?;
                0
            }
            b'F' => {
                self.table(depth.checked_sub(1)?)?;
                0
            }
            b'A' => {
                let depth = depth.checked_sub(1)?;
                let mut values = Reader(self.long()?);
                while !values.0.is_empty() {
                    values.value(depth)?;
                }
                0
            }
            _ => return None,
        };
        self.take(bytes).map(drop)
    }
}

/// How many bytes the frame has whose first seven these are.
fn frame_bytes(header: &[u8]) -> usize {
    let payload = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    FRAME_HEADER + usize::try_from(payload).unwrap_or(usize::MAX - FRAME_HEADER - 1) + 1
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()
}

/// An entry of a table: bytes, as a long string.
fn add_bytes(table: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    table.push(u8::try_from(name.len()).unwrap_or(0));
    table.extend_from_slice(name.as_bytes());
    table.push(b'S');
    table.extend_from_slice(&length(bytes));
    table.extend_from_slice(bytes);
}

/// A text in the place of bytes that are none: what is not ASCII stands as `\xff`. At most 255 bytes, as a key may have.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let shown = match byte {
            0x20..0x7f => char::from(*byte).to_string(),
            other => format!("\\x{other:02x}"),
        };
        if text.len() + shown.len() > 255 {
            break;
        }
        text.push_str(&shown);
    }
    text
}

#[cfg(test)]
mod tests;
