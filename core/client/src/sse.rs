//! Parser of server-sent events from a byte stream, independent of its chunks.
//!
//! Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".

use std::collections::VecDeque;

/// Limit on a line, and on the data of one message, bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Longest accepted reconnection time of a stream (`retry:`), ms.
const MAX_RETRY_MS: u64 = 60_000;

/// The stream is unreadable: connect again, or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the stream has more than {limit} bytes")]
pub struct SseError {
    /// [`MAX_MESSAGE_BYTES`].
    pub limit: usize,
}

/// One server-sent message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseMessage {
    /// Last `id` so far; empty if there was none.
    pub id: String,
    /// Event type; `message` by default.
    pub event: String,
    /// Data; lines are joined by line feeds. Invalid UTF-8 is replaced.
    pub data: String,
}

/// Splits bytes into messages. One per connection: [`Self::resumed`] keeps the lasting state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseParser {
    line: Vec<u8>,
    has_started: bool,
    /// True after a carriage return: a following line feed belongs to it.
    is_after_cr: bool,
    data: Option<String>,
    event: String,
    /// Id of the current block; takes effect at its end.
    id: String,
    last_event_id: String,
    retry_ms: Option<u64>,
    is_broken: bool,
    ready: VecDeque<SseMessage>,
}

impl SseParser {
    /// A parser for the next connection of the same stream.
    #[must_use]
    pub fn resumed(&self) -> Self {
        Self {
            id: self.last_event_id.clone(),
            last_event_id: self.last_event_id.clone(),
            retry_ms: self.retry_ms,
            ..Self::default()
        }
    }

    /// Processes more bytes; afterwards call [`Self::next_message`] until it returns `None`.
    ///
    /// # Errors
    /// [`SseError`] if a message is too long; the parser then ignores further bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        for byte in bytes {
            if self.is_broken {
                break;
            }
            match byte {
                b'\n' if self.is_after_cr => self.is_after_cr = false,
                b'\n' | b'\r' => {
                    self.is_after_cr = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.take_line(&line);
                    self.line = line;
                    self.line.clear();
                }
                byte => {
                    self.is_after_cr = false;
                    self.line.push(*byte);
                    self.is_broken |= self.line.len() > MAX_MESSAGE_BYTES;
                }
            }
        }
        if self.is_broken { Err(SseError { limit: MAX_MESSAGE_BYTES }) } else { Ok(()) }
    }

    fn take_line(&mut self, line: &[u8]) {
        let line = if std::mem::replace(&mut self.has_started, true) {
            line
        } else {
            line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line)
        };
        if line.is_empty() {
            self.end_message();
            return;
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let data = self.data.get_or_insert_default();
                if data.len() + value.len() >= MAX_MESSAGE_BYTES {
                    self.is_broken = true;
                    return;
                }
                data.push_str(value);
                data.push('\n');
            }
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = Some(value.parse().unwrap_or(u64::MAX).min(MAX_RETRY_MS));
            }
            // A comment has an empty name; other fields are not ours.
            _ => {}
        }
    }

    fn end_message(&mut self) {
        self.last_event_id.clone_from(&self.id);
        let event = std::mem::take(&mut self.event);
        let Some(mut data) = self.data.take() else { return };
        data.pop();
        let event = if event.is_empty() { "message".to_owned() } else { event };
        self.ready.push_back(SseMessage { id: self.last_event_id.clone(), event, data });
    }

    /// The next complete message, if any.
    pub fn next_message(&mut self) -> Option<SseMessage> {
        self.ready.pop_front()
    }

    /// Position to resume from: the `id` of the last complete message. Empty if there was none.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Reconnection time requested by the stream, ms; `None` if it gave none.
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<SseMessage>, SseParser) {
        let mut parser = SseParser::default();
        let mut messages = Vec::new();
        for chunk in chunks {
            parser.push(chunk).unwrap();
            messages.extend(std::iter::from_fn(|| parser.next_message()));
        }
        (messages, parser)
    }

    fn message(id: &str, event: &str, data: &str) -> SseMessage {
        SseMessage { id: id.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn what_the_standard_says() {
        let text = "\u{feff}: hello\nretry: 1000\n\nid: 1\ndata: {\"a\":1}\n\n: keep-alive\n\nid: 2\r\ndata:two\r\ndata: lines\r\n\r\n\
                    event: end\rdata\r\rid: x\0y\nretry: 1a\nother: 1\ndata:  spaced\n\nid\ndata: no id\n\ndata: unfinished\n";
        let (messages, parser) = read(&[text.as_bytes()]);
        let expected = [
            message("1", "message", "{\"a\":1}"),
            message("2", "message", "two\nlines"),
            message("2", "end", ""),
            message("2", "message", " spaced"),
            message("", "message", "no id"),
        ];
        assert_eq!(messages, expected);
        assert_eq!((parser.retry_ms(), parser.last_event_id()), (Some(1_000), ""));
    }

    #[test]
    fn an_unfinished_message_does_not_count() {
        let (messages, parser) = read(&[b"id: 7\ndata: a\n\nid: 8\ndata: b\n"]);
        assert_eq!(messages, [message("7", "message", "a")]);
        assert_eq!(parser.last_event_id(), "7", "8 was not seen as a whole");
        assert_eq!(parser.resumed().last_event_id(), "7");
    }

    #[test]
    fn too_long_is_an_end() {
        let mut parser = SseParser::default();
        assert!(parser.push(&vec![b'x'; MAX_MESSAGE_BYTES]).is_ok());
        assert!(parser.push(b"x").is_err());
        assert!(parser.push(b"\n\ndata: a\n\n").is_err());
        assert_eq!(parser.next_message(), None);
        let mut parser = SseParser::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; MAX_MESSAGE_BYTES / 2], b"\n"].concat();
        assert!(parser.push(&line).is_ok());
        assert!(parser.push(&line).is_err(), "many lines are one message");
    }

    proptest! {
        /// Chunks of streams, valid or not, and arbitrary bytes, cut anywhere: the result does not depend on the cuts.
        #[test]
        fn cuts_do_not_matter(
            pieces in vec(prop_oneof![
                Just(b"data: \xF0\x9F\x8C\x8A sea\n".to_vec()), Just(b"id: 12\r\n".to_vec()), Just(b"\n\n".to_vec()),
                Just(b"\r".to_vec()), Just(b"\r\n\r\n".to_vec()), Just(b": c\n".to_vec()), Just(b"retry: 5\n".to_vec()),
                Just(b"\xEF\xBB\xBF".to_vec()), vec(any::<u8>(), 0..12),
            ], 0..30),
            cuts in vec(any::<usize>(), 0..12),
        ) {
            let stream = pieces.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            let single: Vec<&[u8]> = stream.chunks(1).collect();
            let whole = read(&[&stream]);
            prop_assert_eq!(&read(&chunks), &whole);
            prop_assert_eq!(&read(&single).0, &whole.0);
        }
    }
}
