//! Turns the forms in which history comes (exports, the AWS CLI's documents, JSON lines) into entries of one history.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use jiff::Timestamp;
use memchr::memmem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    document,
    files::File,
    instant,
    lines::{Line, Lines, MAX_LINE},
    read::Counts,
    record,
    sift::{Kept, Patience, Run, Sieve, Sifted},
    spill::{Key, Spill},
};
use crate::replay::input::{self, Input};

/// A document up to this length is read as a whole, as replay reads it.
const MAX_WHOLE: usize = 1024 * 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) patience: Patience,
    /// From when on.
    pub(super) since: Option<Timestamp>,
    /// Up to when.
    pub(super) until: Option<Timestamp>,
}

/// Reads files, one after the other.
pub(super) struct Reader {
    asked: Asked,
    spill: Spill,
    counts: Counts,
}

/// The file that is read now.
struct Now<'a> {
    index: u32,
    name: String,
    stream: Option<&'a str>,
    sieve: Sieve,
    runs: Vec<Run>,
}

/// The form of a file.
enum Form {
    /// `TIMESTAMP message`, as CloudWatch Logs exports to S3.
    Exported,
    /// A JSON value a line.
    Lines,
    /// One JSON value over many lines.
    Document,
    /// The same, and short.
    Whole,
}

/// One event of `filter-log-events`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filtered<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    timestamp: i64,
    ingestion_time: Option<i64>,
    #[serde(borrow)]
    log_stream_name: Option<Cow<'a, str>>,
}

impl Reader {
    pub(super) fn new(asked: Asked) -> Self {
        Self { asked, spill: Spill::default(), counts: Counts::default() }
    }

    pub(super) fn into_parts(self) -> (Spill, Counts) {
        (self.spill, self.counts)
    }

    /// Reads one file. What is wrong with it is counted; an error means that nothing can be put aside any more.
    pub(super) fn file(&mut self, index: u32, file: &File, from: impl Read) -> io::Result<()> {
        let mut now = Now {
            index,
            name: file.path.display().to_string(),
            stream: file.stream.as_deref(),
            sieve: Sieve::new(self.asked.patience),
            runs: Vec::new(),
        };
        let mut lines = Lines::new(from);
        let form = form(&mut lines);
        let read = match form {
            Form::Exported => self.lines(&mut lines, &mut now, Self::exported),
            Form::Lines => self.lines(&mut lines, &mut now, Self::json_line),
            Form::Document => self.document(&mut lines, &mut now),
            Form::Whole => self.whole(&mut lines, &mut now),
        };
        if let Err(error) = read {
            // A file that is cut off, or no gzip after all: what was read of it counts.
            self.counts.bad(index, lines.number() + 1, error.to_string());
        }
        self.counts.bytes += lines.bytes();
        let Now { sieve, runs, .. } = &mut now;
        sieve.finish(&mut |run| runs.push(run));
        self.put_runs(&mut now)
    }

    fn lines(
        &mut self,
        lines: &mut Lines<impl Read>,
        now: &mut Now<'_>,
        one: fn(&mut Self, &[u8], u64, &mut Now<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut number = 0;
        while let Some(line) = lines.next()? {
            number += 1;
            self.counts.lines += 1;
            match line {
                Line::Text(text) if text.iter().all(u8::is_ascii_whitespace) => {}
                Line::Text(text) => one(self, text, number, now)?,
                Line::TooLong => {
                    self.counts.bad(now.index, number, format!("more than {MAX_LINE} bytes"));
                }
            }
        }
        Ok(())
    }

    fn exported(&mut self, text: &[u8], line: u64, now: &mut Now<'_>) -> io::Result<()> {
        let Some((millis, length)) =
            instant::read(text).filter(|(_, length)| text.get(*length) == Some(&b' '))
        else {
            self.counts.bad(now.index, line, "not a line of an export: it begins with no time".to_owned());
            return Ok(());
        };
        self.message(&text[length + 1..], Some(millis), Some(millis), line, now)
    }

    fn json_line(&mut self, text: &[u8], line: u64, now: &mut Now<'_>) -> io::Result<()> {
        if let Some(millis) = own_time(text) {
            return self.message(text, Some(millis), None, line, now);
        }
        match serde_json::from_slice(text) {
            Ok(filtered) => self.filtered(&filtered, text, line, now),
            Err(_) => self.message(text, None, None, line, now),
        }
    }

    /// An event with the envelope that the API gives it.
    fn filtered(
        &mut self,
        event: &Filtered<'_>,
        text: &[u8],
        line: u64,
        now: &mut Now<'_>,
    ) -> io::Result<()> {
        let arrival = event.ingestion_time.unwrap_or(event.timestamp);
        if !self.is_asked_for(Some(arrival)) {
            return Ok(());
        }
        self.saw(Some(arrival));
        let stream = event.log_stream_name.as_deref();
        // What is sifted out is given back without its stream, so it must be the one that the message itself names.
        let own = stream.is_none_or(|stream| {
            !stream.starts_with("i-") || memmem::find(event.message.as_bytes(), stream.as_bytes()).is_some()
        });
        let sifted = if stream.is_some_and(input::is_plain_text) {
            Sifted::Nothing
        } else if own {
            let runs = &mut now.runs;
            now.sieve.sift(event.message.as_bytes(), Some(arrival), line, &mut |run| runs.push(run))
        } else {
            Sifted::Keep
        };
        self.put_runs(now)?;
        if !self.is_kept(sifted) {
            return Ok(());
        }
        match serde_json::from_slice(text) {
            Ok(value) => self.take(value, line, now),
            Err(error) => {
                self.counts.bad(now.index, line, error.to_string());
                Ok(())
            }
        }
    }

    /// A message by itself: about when it was written, and when it arrived if that was told.
    fn message(
        &mut self,
        text: &[u8],
        millis: Option<i64>,
        arrival: Option<i64>,
        line: u64,
        now: &mut Now<'_>,
    ) -> io::Result<()> {
        if !self.is_asked_for(millis) {
            return Ok(());
        }
        self.saw(millis);
        let runs = &mut now.runs;
        let sifted = now.sieve.sift(text, millis, line, &mut |run| runs.push(run));
        self.put_runs(now)?;
        if !self.is_kept(sifted) {
            return Ok(());
        }
        let kept = Kept { millis: arrival.unwrap_or(i64::MIN), line, text: text.to_vec() };
        self.keep(&kept, now.stream, None, now)
    }

    fn is_asked_for(&mut self, millis: Option<i64>) -> bool {
        let at = millis.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let outside = at.is_some_and(|at| {
            self.asked.since.is_some_and(|since| at < since)
                || self.asked.until.is_some_and(|until| at >= until)
        });
        self.counts.outside += u64::from(outside);
        !outside
    }

    fn saw(&mut self, millis: Option<i64>) {
        if let Some(at) = millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()) {
            self.counts.saw(at);
        }
    }

    fn is_kept(&mut self, sifted: Sifted) -> bool {
        match sifted {
            Sifted::Keep => return true,
            Sifted::Nothing => self.counts.nothing += 1,
            Sifted::InRun => self.counts.in_runs += 1,
        }
        false
    }

    fn put_runs(&mut self, now: &mut Now<'_>) -> io::Result<()> {
        for run in std::mem::take(&mut now.runs) {
            let heard_until = run.last.as_ref().map(|last| last.millis);
            self.keep(&run.first, now.stream, heard_until, now)?;
            if let Some(last) = &run.last {
                self.keep(last, now.stream, None, now)?;
            }
        }
        Ok(())
    }

    /// Puts a message aside as the input that replay would make of it.
    fn keep(
        &mut self,
        kept: &Kept,
        stream: Option<&str>,
        heard_until: Option<i64>,
        now: &Now<'_>,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(&kept.text);
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => {
                self.counts.bad(now.index, kept.line, error.to_string());
                return Ok(());
            }
        };
        let is_bare = value.get("v").is_some() || value.get("verb").is_some();
        if !is_bare {
            return self.take(value, kept.line, now);
        }
        match input::bare(&text, &value, stream) {
            Ok((at, what)) => {
                let at = Timestamp::from_millisecond(kept.millis).unwrap_or(at);
                let place = format!("{}:{}", now.name, kept.line);
                self.put(&Input { at, place, what }, kept.line, 0, heard_until, now)
            }
            Err(why) => {
                self.counts.bad(now.index, kept.line, why);
                Ok(())
            }
        }
    }

    /// Anything else that replay reads.
    fn take(&mut self, value: Value, line: u64, now: &Now<'_>) -> io::Result<()> {
        let mut read = input::Read::default();
        let number = usize::try_from(line).unwrap_or(usize::MAX);
        input::take(value, &now.name, number, &mut read);
        for why in read.bad {
            let why = why.strip_prefix(&format!("{}:{line}", now.name)).unwrap_or(&why).to_owned();
            self.counts.bad(now.index, line, why.trim_start_matches(": ").to_owned());
        }
        for (element, input) in read.inputs.iter().enumerate() {
            self.put(input, line, element as u64, None, now)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        input: &Input,
        line: u64,
        element: u64,
        heard_until: Option<i64>,
        now: &Now<'_>,
    ) -> io::Result<()> {
        if self.asked.since.is_some_and(|since| input.at < since)
            || self.asked.until.is_some_and(|until| input.at >= until)
        {
            self.counts.outside += 1;
            return Ok(());
        }
        // A control message of CloudWatch Logs has no time.
        if input.at > Timestamp::MIN {
            self.counts.saw(input.at);
        }
        let place = input.place.strip_prefix(&now.name).map_or(&*input.place, |rest| &rest[1..]);
        let key = Key { at: input.at, file: now.index, ordinal: (line << 20) + element };
        self.spill.push(key, &record::write(&input.what, place, heard_until))
    }

    fn whole(&mut self, lines: &mut Lines<impl Read>, now: &mut Now<'_>) -> io::Result<()> {
        let mut text = Vec::new();
        loop {
            let chunk = lines.take_chunk()?;
            if chunk.is_empty() {
                break;
            }
            text.extend_from_slice(chunk);
        }
        self.counts.lines += memchr::memchr_iter(b'\n', &text).count() as u64;
        match serde_json::from_slice(&text) {
            Ok(value) => self.take(value, 1, now),
            Err(error) => {
                self.counts.bad(now.index, error.line() as u64, error.to_string());
                Ok(())
            }
        }
    }

    fn document(&mut self, lines: &mut Lines<impl Read>, now: &mut Now<'_>) -> io::Result<()> {
        let mut failed = Ok(());
        let cut_off = document::elements(lines, |element| {
            if failed.is_err() {
                return;
            }
            self.counts.lines += 1;
            let Some(json) = element.json else {
                self.counts.bad(now.index, element.line, "longer than any event".to_owned());
                return;
            };
            let filtered = match element.list {
                None | Some("events") => serde_json::from_slice(json).ok(),
                Some(_) => None,
            };
            failed = match filtered {
                Some(event) => self.filtered(&event, json, element.line, now),
                None => match (serde_json::from_slice::<Value>(json), element.list) {
                    (Ok(value), Some(list)) => self.take(json!({ list: [value] }), element.line, now),
                    (Ok(value), None) => self.take(value, element.line, now),
                    (Err(error), _) => {
                        self.counts.bad(now.index, element.line, error.to_string());
                        Ok(())
                    }
                },
            };
        })?;
        failed?;
        if cut_off > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the document is cut off"));
        }
        Ok(())
    }
}

/// Tells the form of a file by its first line.
fn form(lines: &mut Lines<impl Read>) -> Form {
    let mut wanted = 64 * 1024;
    loop {
        let known = lines.peek(wanted);
        let ended = known.len() < wanted;
        let blank = known.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let rest = &known[blank..];
        let line = memchr::memchr(b'\n', rest).map(|end| &rest[..end]);
        let first = match line {
            Some(line) => line,
            None if ended => rest,
            None if wanted > MAX_LINE => return Form::Document,
            None => {
                wanted *= 2;
                continue;
            }
        };
        if instant::read(first).is_some() {
            return Form::Exported;
        }
        let opens = matches!(first.first(), Some(b'{' | b'['));
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok();
        if !opens || is_json {
            return Form::Lines;
        }
        return if lines.peek(MAX_WHOLE).len() < MAX_WHOLE { Form::Whole } else { Form::Document };
    }
}

/// The time that a bare report or audit event gives itself, in whole milliseconds.
fn own_time(text: &[u8]) -> Option<i64> {
    let after = if text.starts_with(br#"{"v":"#) {
        const AT: &[u8] = br#","at":""#;
        memmem::find(text, AT)? + AT.len()
    } else if text.starts_with(br#"{"kind":"Event""#) {
        const AT: &[u8] = br#","stageTimestamp":""#;
        memmem::rfind(text, AT)? + AT.len()
    } else {
        return None;
    };
    let time = &text[after..];
    if let Some((millis, _)) = instant::read(time) {
        return Some(millis);
    }
    let time = std::str::from_utf8(&time[..memchr::memchr(b'"', time)?]).ok()?;
    time.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
