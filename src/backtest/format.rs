//! Recognizes the format of each file (S3 export, document of the AWS CLI, JSON lines) and reads its events.
//!
//! An unreadable line is counted; only an error of the temporary file stops the reading.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use jiff::Timestamp;
use memchr::memmem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    counts::ReadCounts,
    document, entry,
    external_sort::{HistoryKey, SortBuffer},
    files::HistoryFile,
    lines::{LineReader, LogLine, MAX_LINE},
    prefilter::{HeartbeatRun, LineClass, Prefilter, SavedLine, Thresholds},
    timestamp,
};
use crate::replay::input::{self, Input};

/// A document up to this size is parsed as a whole, as in a replay.
const MAX_SMALL_DOCUMENT: usize = 1024 * 1024;

/// Which events to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection {
    pub(super) thresholds: Thresholds,
    /// Inclusive.
    pub(super) since: Option<Timestamp>,
    /// Exclusive.
    pub(super) until: Option<Timestamp>,
}

/// Reads files into a sort buffer.
pub(super) struct FormatReader {
    selection: Selection,
    buffer: SortBuffer,
    counts: ReadCounts,
}

/// The file that is being read.
struct CurrentFile<'a> {
    index: u32,
    name: String,
    stream: Option<&'a str>,
    prefilter: Prefilter,
    runs: Vec<HeartbeatRun>,
}

enum FileFormat {
    /// `TIMESTAMP message` lines, as CloudWatch Logs exports to S3.
    Export,
    /// One JSON value per line.
    JsonLines,
    /// One JSON value over many lines, streamed.
    LargeDocument,
    /// One JSON value over many lines, parsed as a whole.
    SmallDocument,
}

/// One event of `filter-log-events`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilteredLogEvent<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    timestamp: i64,
    ingestion_time: Option<i64>,
    #[serde(borrow)]
    log_stream_name: Option<Cow<'a, str>>,
}

impl FormatReader {
    pub(super) fn new(selection: Selection) -> Self {
        Self { selection, buffer: SortBuffer::default(), counts: ReadCounts::default() }
    }

    pub(super) fn into_parts(self) -> (SortBuffer, ReadCounts) {
        (self.buffer, self.counts)
    }

    /// Reads one file. Errors of the file are counted; an error of this function is one of the temporary file.
    pub(super) fn file(&mut self, index: u32, file: &HistoryFile, from: impl Read) -> io::Result<()> {
        let mut current = CurrentFile {
            index,
            name: file.path.display().to_string(),
            stream: file.stream.as_deref(),
            prefilter: Prefilter::new(self.selection.thresholds),
            runs: Vec::new(),
        };
        let mut lines = LineReader::new(from);
        let read = match recognize(&mut lines) {
            FileFormat::Export => self.lines(&mut lines, &mut current, Self::export_line),
            FileFormat::JsonLines => self.lines(&mut lines, &mut current, Self::json_line),
            FileFormat::LargeDocument => self.large_document(&mut lines, &mut current),
            FileFormat::SmallDocument => self.small_document(&mut lines, &mut current),
        };
        if let Err(error) = read {
            // A truncated or damaged file: what was read before counts.
            self.counts.add_unreadable(index, lines.number() + 1, error.to_string());
        }
        self.counts.bytes += lines.bytes();
        let CurrentFile { prefilter, runs, .. } = &mut current;
        prefilter.finish(&mut |run| runs.push(run));
        self.store_runs(&mut current)
    }

    fn lines(
        &mut self,
        lines: &mut LineReader<impl Read>,
        current: &mut CurrentFile<'_>,
        one: fn(&mut Self, &[u8], u64, &mut CurrentFile<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut number = 0;
        while let Some(line) = lines.next()? {
            number += 1;
            self.counts.lines += 1;
            match line {
                LogLine::Text(text) if text.iter().all(u8::is_ascii_whitespace) => {}
                LogLine::Text(text) => one(self, text, number, current)?,
                LogLine::TooLong => {
                    self.counts.add_unreadable(current.index, number, format!("more than {MAX_LINE} bytes"));
                }
            }
        }
        Ok(())
    }

    fn export_line(&mut self, text: &[u8], line: u64, current: &mut CurrentFile<'_>) -> io::Result<()> {
        let Some((millis, length)) =
            timestamp::read(text).filter(|(_, length)| text.get(*length) == Some(&b' '))
        else {
            self.counts.add_unreadable(
                current.index,
                line,
                "not a line of an export: no timestamp at the start".to_owned(),
            );
            return Ok(());
        };
        self.message(&text[length + 1..], Some(millis), Some(millis), line, current)
    }

    fn json_line(&mut self, text: &[u8], line: u64, current: &mut CurrentFile<'_>) -> io::Result<()> {
        if let Some(millis) = own_time(text) {
            return self.message(text, Some(millis), None, line, current);
        }
        match serde_json::from_slice(text) {
            Ok(filtered) => self.filtered_event(&filtered, text, line, current),
            Err(_) => self.message(text, None, None, line, current),
        }
    }

    /// An event with the envelope of the API.
    fn filtered_event(
        &mut self,
        event: &FilteredLogEvent<'_>,
        text: &[u8],
        line: u64,
        current: &mut CurrentFile<'_>,
    ) -> io::Result<()> {
        let arrival = event.ingestion_time.unwrap_or(event.timestamp);
        if !self.is_selected(Some(arrival)) {
            return Ok(());
        }
        self.extend_span(Some(arrival));
        let stream = event.log_stream_name.as_deref();
        // A heartbeat run is stored without its stream, so the stream must be the one that the message itself names.
        let is_own_stream = stream.is_none_or(|stream| {
            !stream.starts_with("i-") || memmem::find(event.message.as_bytes(), stream.as_bytes()).is_some()
        });
        let class = if stream.is_some_and(input::is_component_log) {
            LineClass::Irrelevant
        } else if is_own_stream {
            let runs = &mut current.runs;
            current
                .prefilter
                .classify(event.message.as_bytes(), Some(arrival), line, &mut |run| runs.push(run))
        } else {
            LineClass::Relevant
        };
        self.store_runs(current)?;
        if !self.is_relevant(class) {
            return Ok(());
        }
        match serde_json::from_slice(text) {
            Ok(value) => self.store_value(value, line, current),
            Err(error) => {
                self.counts.add_unreadable(current.index, line, error.to_string());
                Ok(())
            }
        }
    }

    /// A message without an envelope, with its approximate time, and its time of arrival if known.
    fn message(
        &mut self,
        text: &[u8],
        millis: Option<i64>,
        arrival: Option<i64>,
        line: u64,
        current: &mut CurrentFile<'_>,
    ) -> io::Result<()> {
        if !self.is_selected(millis) {
            return Ok(());
        }
        self.extend_span(millis);
        let runs = &mut current.runs;
        let class = current.prefilter.classify(text, millis, line, &mut |run| runs.push(run));
        self.store_runs(current)?;
        if !self.is_relevant(class) {
            return Ok(());
        }
        let saved = SavedLine { millis: arrival.unwrap_or(i64::MIN), line, text: text.to_vec() };
        self.store_line(&saved, current.stream, None, current)
    }

    fn is_selected(&mut self, millis: Option<i64>) -> bool {
        let at = millis.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let outside = at.is_some_and(|at| {
            self.selection.since.is_some_and(|since| at < since)
                || self.selection.until.is_some_and(|until| at >= until)
        });
        self.counts.outside += u64::from(outside);
        !outside
    }

    fn extend_span(&mut self, millis: Option<i64>) {
        if let Some(at) = millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()) {
            self.counts.extend_span(at);
        }
    }

    fn is_relevant(&mut self, class: LineClass) -> bool {
        match class {
            LineClass::Relevant => return true,
            LineClass::Irrelevant => self.counts.irrelevant += 1,
            LineClass::Repeated => self.counts.repeated += 1,
        }
        false
    }

    fn store_runs(&mut self, current: &mut CurrentFile<'_>) -> io::Result<()> {
        for run in std::mem::take(&mut current.runs) {
            let reporting_until = run.last.as_ref().map(|last| last.millis);
            self.store_line(&run.first, current.stream, reporting_until, current)?;
            if let Some(last) = &run.last {
                self.store_line(last, current.stream, None, current)?;
            }
        }
        Ok(())
    }

    /// Stores a message as the input that a replay would make of it.
    fn store_line(
        &mut self,
        saved: &SavedLine,
        stream: Option<&str>,
        reporting_until: Option<i64>,
        current: &CurrentFile<'_>,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(&saved.text);
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => {
                self.counts.add_unreadable(current.index, saved.line, error.to_string());
                return Ok(());
            }
        };
        let is_bare = value.get("v").is_some() || value.get("verb").is_some();
        if !is_bare {
            return self.store_value(value, saved.line, current);
        }
        match input::bare_event(&text, &value, stream) {
            Ok((at, payload)) => {
                let at = Timestamp::from_millisecond(saved.millis).unwrap_or(at);
                let source = format!("{}:{}", current.name, saved.line);
                self.store(&Input { at, source, payload }, saved.line, 0, reporting_until, current)
            }
            Err(why) => {
                self.counts.add_unreadable(current.index, saved.line, why);
                Ok(())
            }
        }
    }

    /// Stores the events of any other document that a replay reads.
    fn store_value(&mut self, value: Value, line: u64, current: &CurrentFile<'_>) -> io::Result<()> {
        let mut read = input::Inputs::default();
        let number = usize::try_from(line).unwrap_or(usize::MAX);
        input::read_value(value, &current.name, number, &mut read);
        for why in read.unreadable {
            let why = why.strip_prefix(&format!("{}:{line}", current.name)).unwrap_or(&why).to_owned();
            self.counts.add_unreadable(current.index, line, why.trim_start_matches(": ").to_owned());
        }
        for (element, input) in read.inputs.iter().enumerate() {
            self.store(input, line, element as u64, None, current)?;
        }
        Ok(())
    }

    fn store(
        &mut self,
        input: &Input,
        line: u64,
        element: u64,
        reporting_until: Option<i64>,
        current: &CurrentFile<'_>,
    ) -> io::Result<()> {
        if self.selection.since.is_some_and(|since| input.at < since)
            || self.selection.until.is_some_and(|until| input.at >= until)
        {
            self.counts.outside += 1;
            return Ok(());
        }
        // A control message of CloudWatch Logs has no time of its own.
        if input.at > Timestamp::MIN {
            self.counts.extend_span(input.at);
        }
        let source = input.source.strip_prefix(&current.name).map_or(&*input.source, |rest| &rest[1..]);
        let key = HistoryKey { at: input.at, file: current.index, ordinal: (line << 20) + element };
        self.buffer.push(key, &entry::write(&input.payload, source, reporting_until))
    }

    fn small_document(
        &mut self,
        lines: &mut LineReader<impl Read>,
        current: &mut CurrentFile<'_>,
    ) -> io::Result<()> {
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
            Ok(value) => self.store_value(value, 1, current),
            Err(error) => {
                self.counts.add_unreadable(current.index, error.line() as u64, error.to_string());
                Ok(())
            }
        }
    }

    fn large_document(
        &mut self,
        lines: &mut LineReader<impl Read>,
        current: &mut CurrentFile<'_>,
    ) -> io::Result<()> {
        let mut failed = Ok(());
        let incomplete = document::elements(lines, |element| {
            if failed.is_err() {
                return;
            }
            self.counts.lines += 1;
            let Some(json) = element.json else {
                self.counts.add_unreadable(
                    current.index,
                    element.line,
                    "longer than any log event".to_owned(),
                );
                return;
            };
            let filtered = match element.list {
                None | Some("events") => serde_json::from_slice(json).ok(),
                Some(_) => None,
            };
            failed = match filtered {
                Some(event) => self.filtered_event(&event, json, element.line, current),
                None => match (serde_json::from_slice::<Value>(json), element.list) {
                    (Ok(value), Some(list)) => {
                        self.store_value(json!({ list: [value] }), element.line, current)
                    }
                    (Ok(value), None) => self.store_value(value, element.line, current),
                    (Err(error), _) => {
                        self.counts.add_unreadable(current.index, element.line, error.to_string());
                        Ok(())
                    }
                },
            };
        })?;
        failed?;
        if incomplete > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the document is incomplete"));
        }
        Ok(())
    }
}

/// Recognizes the format of a file by its first line.
fn recognize(lines: &mut LineReader<impl Read>) -> FileFormat {
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
            None if wanted > MAX_LINE => return FileFormat::LargeDocument,
            None => {
                wanted *= 2;
                continue;
            }
        };
        if timestamp::read(first).is_some() {
            return FileFormat::Export;
        }
        let opens = matches!(first.first(), Some(b'{' | b'['));
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok();
        if !opens || is_json {
            return FileFormat::JsonLines;
        }
        return if lines.peek(MAX_SMALL_DOCUMENT).len() < MAX_SMALL_DOCUMENT {
            FileFormat::SmallDocument
        } else {
            FileFormat::LargeDocument
        };
    }
}

/// The time within a report or audit event without an envelope, in milliseconds.
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
    if let Some((millis, _)) = timestamp::read(time) {
        return Some(millis);
    }
    let time = std::str::from_utf8(&time[..memchr::memchr(b'"', time)?]).ok()?;
    time.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
