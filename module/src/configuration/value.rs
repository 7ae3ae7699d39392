//! One attribute value and the types it may be read as.

use super::reading::not_yet;
use crate::error::{ConfigError, Problem};
use crate::nearest::nearest;
use crate::position::Position;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest duration of the language: nothing in a cluster waits a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Units of a duration, in microseconds.
const UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// The text of an attribute, macros expanded, and where it stands.
pub(super) struct Value {
    pub(super) text: String,
    pub(super) element: String,
    pub(super) attribute: String,
    pub(super) at: Position,
}

impl Value {
    /// The error that tells what should stand here.
    pub(super) fn wrong(&self, expected: impl Into<String>) -> ConfigError {
        let problem = Problem::Value {
            element: self.element.clone(),
            attribute: self.attribute.clone(),
            value: self.text.clone(),
            expected: expected.into(),
        };
        ConfigError {
            at: self.at,
            problem,
        }
    }

    /// The error that tells that this value comes later.
    pub(super) fn later(&self, because: &'static str) -> ConfigError {
        not_yet(
            self.at,
            format!("{}=\"{}\" of <{}>", self.attribute, self.text, self.element),
            because,
        )
    }

    /// One word of a closed list.
    pub(super) fn word(&self, allowed: &[&'static str]) -> Result<&'static str, ConfigError> {
        allowed
            .iter()
            .find(|word| **word == self.text)
            .copied()
            .ok_or_else(|| {
                let problem = Problem::Word {
                    element: self.element.clone(),
                    attribute: self.attribute.clone(),
                    value: self.text.clone(),
                    allowed: allowed.to_vec(),
                    nearest: nearest(&self.text, allowed),
                };
                ConfigError {
                    at: self.at,
                    problem,
                }
            })
    }

    /// `on` or `off`.
    pub(super) fn on_off(&self) -> Result<bool, ConfigError> {
        Ok(self.word(&["on", "off"])? == "on")
    }

    /// A whole number.
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let number = self
            .text
            .parse::<u64>()
            .ok()
            .filter(|number| range.contains(number));
        number.ok_or_else(|| {
            self.wrong(format!(
                "a whole number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }

    /// A duration above zero: a bare number counts `native` units, else the unit follows the number. A value that
    /// rounds to zero in the native unit is refused, since it would mean "never" or "always" by accident.
    pub(super) fn duration(&self, native: &'static str) -> Result<Duration, ConfigError> {
        let duration = self.duration_or_zero(native)?;
        if duration.is_zero() {
            return Err(self.wrong(format!("a duration above zero, {}", forms(native))));
        }
        Ok(duration)
    }

    /// As `duration`, but a plain zero is allowed.
    pub(super) fn duration_or_zero(&self, native: &'static str) -> Result<Duration, ConfigError> {
        let digits = self.text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.text.split_at(digits);
        let unit = if unit.is_empty() { native } else { unit };
        let wrong = || self.wrong(format!("a duration, {}", forms(native)));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let micros = micros_of(unit)
            .and_then(|unit| number.checked_mul(unit))
            .ok_or_else(wrong)?;
        let duration = Duration::from_micros(micros);
        if duration > DURATION_MAX {
            return Err(self.wrong("a duration of at most 365d"));
        }
        let native_micros = micros_of(native).unwrap_or(1);
        // Rounded as SafeKit does: half a unit counts as one.
        let is_lost = micros > 0 && micros.saturating_mul(2) < native_micros;
        if is_lost {
            return Err(self.wrong(format!("a duration that does not round to 0{native}")));
        }
        Ok(duration)
    }
}

fn micros_of(unit: &str) -> Option<u64> {
    UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, micros)| *micros)
}

fn forms(native: &str) -> String {
    format!("a number with unit d, h, m, s, ms or us (without: {native})")
}
