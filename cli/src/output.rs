//! The terminal: the one place that writes to it.

use crate::failure::{FAILED, Failure};
use crate::render;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// How answers are written.
pub(crate) struct Output {
    is_json: bool,
    is_coloured: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Output {
        // https://no-color.org: set and not empty means no colour.
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            is_json,
            is_coloured: !is_plain && io::stdout().is_terminal(),
        }
    }

    /// One answer: the JSON document or the text, whichever was asked for.
    pub(crate) fn answer(
        &self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<u8, Failure> {
        let rendered = if self.is_json {
            format!("{:#}\n", json())
        } else {
            self.dress(&text())
        };
        self.bytes(rendered.as_bytes()).map(|()| 0)
    }

    /// One line of a stream; JSON stays on one line.
    pub(crate) fn line(
        &self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let rendered = if self.is_json {
            format!("{}\n", json())
        } else {
            self.dress(&text())
        };
        self.bytes(rendered.as_bytes())
    }

    /// Text from scripts and other servers ends here: nothing in it may steer the terminal.
    fn dress(&self, text: &str) -> String {
        let clean = render::clean(text);
        if self.is_coloured {
            render::paint(&clean)
        } else {
            clean
        }
    }

    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // The reader has seen enough, as in `skcli ... | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            written => written.map_err(|source| Failure::Io {
                action: "write",
                path: "standard output".into(),
                source,
            }),
        }
    }

    /// Tells a failure: as a JSON document on standard output, else on standard error. The answer is the exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> u8 {
        let written = if self.is_json {
            self.bytes(format!("{:#}\n", render::failure_json(failure)).as_bytes())
                .is_ok()
        } else {
            io::stderr()
                .write_all(render::clean(&render::failure(failure)).as_bytes())
                .is_ok()
        };
        if written { failure.exit_code() } else { FAILED }
    }
}
