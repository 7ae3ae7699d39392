//! `<user>`: the scripts in `bin/` and what they are given.

use super::reading::{Reading, is_macro_name};
use crate::error::{ConfigError, Problem};
use crate::xml::Element;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a script may take when the file does not say.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);
/// Most variables.
const VARIABLES_MAX: usize = 256;
/// Sidekick sets these itself.
const RESERVED_PREFIXES: &[&str] = &["SAFE", "SK_"];

/// `<user>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Deadline of a start script. Sidekick's own attribute `starttimeout`, 300 s without it.
    pub start_timeout: Duration,
    /// Deadline of a stop script, then it is run again with `force`.
    pub nice_stop_timeout: Duration,
    /// Deadline of a stop script with `force`, then everything of the module is killed.
    pub force_stop_timeout: Duration,
    /// Whether the output of scripts is kept.
    pub logging: bool,
    /// Variables for the scripts.
    pub variables: BTreeMap<String, String>,
}

impl User {
    pub(super) fn read(element: &Element, reading: &mut Reading) -> Result<User, ConfigError> {
        reading.attributes(
            element,
            &[
                "nicestoptimeout",
                "forcestoptimeout",
                "starttimeout",
                "logging",
                "userlogsize",
            ],
        )?;
        reading.children(element, &["var"], &[])?;
        let timeout = |name: &'static str| -> Result<Duration, ConfigError> {
            let value = reading.value(element, name)?;
            Ok(value
                .map(|value| value.duration("s"))
                .transpose()?
                .unwrap_or(SCRIPT_TIMEOUT))
        };
        let (start_timeout, nice_stop_timeout, force_stop_timeout) = (
            timeout("starttimeout")?,
            timeout("nicestoptimeout")?,
            timeout("forcestoptimeout")?,
        );
        let logging = match reading.value(element, "logging")? {
            Some(value) => value.word(&["userlog", "none"])? == "userlog",
            None => true,
        };
        if let Some(size) = reading.value(element, "userlogsize")? {
            size.number(1..=1_048_576)?;
            reading.without_effect(
                element,
                "userlogsize",
                "the size of script logs is the same for all modules",
            );
        }
        let variables = read_variables(element, reading)?;
        Ok(User {
            start_timeout,
            nice_stop_timeout,
            force_stop_timeout,
            logging,
            variables,
        })
    }
}

fn read_variables(
    element: &Element,
    reading: &Reading,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut variables = BTreeMap::new();
    let mut lines: BTreeMap<String, u32> = BTreeMap::new();
    for variable in reading.all(element, "var") {
        reading.attributes(variable, &["name", "value"])?;
        reading.childless(variable)?;
        let name = reading.needed(variable, "name")?;
        if !is_macro_name(&name.text) {
            return Err(name.wrong("a name of letters, digits and _, not starting with a digit"));
        }
        if RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.text.starts_with(prefix))
        {
            return Err(name
                .wrong("a name that does not start with SAFE or SK_, which Sidekick sets itself"));
        }
        if let Some(first_line) = lines.get(&name.text) {
            let problem = Problem::Duplicate {
                what: "variable",
                name: name.text.clone(),
                first_line: *first_line,
            };
            return Err(ConfigError {
                at: name.at,
                problem,
            });
        }
        if lines.len() == VARIABLES_MAX {
            let limit = VARIABLES_MAX.to_string();
            return Err(ConfigError {
                at: name.at,
                problem: Problem::Limit {
                    what: "the number of variables",
                    limit,
                },
            });
        }
        let value = reading.needed(variable, "value")?;
        lines.insert(name.text.clone(), name.at.line);
        variables.insert(name.text, value.text);
    }
    Ok(variables)
}
