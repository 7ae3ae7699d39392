//! Text to a small tree of elements that know their place.
//!
//! Everything that makes XML dangerous is refused here: document types, entities, processing instructions, and sizes,
//! counts and depths beyond what a configuration can need. quick-xml splits the text; it neither checks the root nor
//! tells lines, so both are done here.

mod builder;
mod element;

pub(crate) use element::{Attribute, Element};

use crate::error::{ConfigError, Malformed, Problem};
use crate::position::Lines;
use builder::Builder;
use quick_xml::events::{BytesDecl, Event};
use quick_xml::reader::Reader;

/// Largest file that is looked at.
pub(crate) const XML_BYTES_MAX: usize = 1024 * 1024;

/// Reads one document; the answer is its root element, whatever its name.
pub(crate) fn parse(text: &str) -> Result<Element, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::of(text);
    let fail = |offset: usize, problem| ConfigError {
        at: lines.position(offset),
        problem,
    };
    if text.len() > XML_BYTES_MAX {
        let limit = format!("{XML_BYTES_MAX} bytes");
        return Err(fail(
            0,
            Problem::Limit {
                what: "the file",
                limit,
            },
        ));
    }
    if let Some((offset, character)) = text.char_indices().find(|(_, c)| is_forbidden(*c)) {
        return Err(fail(
            offset,
            Problem::Malformed(Malformed::Control(character.into())),
        ));
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_comments = true;
    let mut builder = Builder::new(&lines);
    loop {
        let start = offset(reader.buffer_position());
        let event = reader.read_event().map_err(|error| {
            fail(
                offset(reader.error_position()),
                Problem::Malformed(error.into()),
            )
        })?;
        match event {
            Event::Start(tag) => builder.open(&tag, start)?,
            Event::Empty(tag) => {
                builder.open(&tag, start)?;
                builder.close();
            }
            Event::End(_) => builder.close(),
            Event::Text(text) => builder.text(&text, start)?,
            Event::CData(text) => builder.text(&text, start)?,
            Event::Comment(_) => {}
            Event::Decl(declaration) => {
                check_declaration(&declaration, start).map_err(|problem| fail(start, problem))?;
            }
            Event::PI(_) => return Err(fail(start, Problem::Instruction)),
            Event::DocType(_) => return Err(fail(start, Problem::Doctype)),
            Event::GeneralRef(reference) => {
                let text = format!("&{};", &*reference);
                builder.text(&text, start)?;
            }
            Event::Eof => return builder.finish(text.len()),
        }
    }
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// XML 1.0 allows of the control characters only tab, line feed and carriage return.
fn is_forbidden(character: char) -> bool {
    character < ' ' && !matches!(character, '\t' | '\n' | '\r')
}

fn check_declaration(declaration: &BytesDecl<'_>, start: usize) -> Result<(), Problem> {
    if start != 0 {
        return Err(Problem::Malformed(Malformed::LateDeclaration));
    }
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(name)) if ["utf-8", "utf8", "us-ascii"].contains(&name.to_lowercase().as_str()) => {
            Ok(())
        }
        Some(Ok(name)) => Err(Problem::Encoding {
            found: name.into_owned(),
        }),
        Some(Err(_)) => Err(Problem::Encoding {
            found: String::new(),
        }),
    }
}
