//! Times and amounts as people read them.

/// "0.3 s", "12 s", "5 min", "3 h", "2 d".
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// "0.3 s ago"; the largest number stands for "never".
pub(super) fn age(ms: u64) -> String {
    if ms == u64::MAX {
        "never".to_owned()
    } else {
        format!("{} ago", duration(ms))
    }
}

/// "0.3 s old"; the largest number stands for "nobody knows".
pub(super) fn old(ms: u64) -> String {
    if ms == u64::MAX {
        "never in touch with a majority".to_owned()
    } else {
        format!("{} old", duration(ms))
    }
}

/// "2026-03-01 12:00:00.250Z": one clock for all servers of a cluster.
pub(super) fn moment(unix_ms: u64) -> String {
    let (days, rest) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

/// Days since 1970 to a date of the Gregorian calendar. Counts from March, so that the leap day is the last of its
/// year; 400 years have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// "512 B", "1.5 MiB".
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| count >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, bytes, moment};

    #[test]
    fn times_and_amounts() {
        assert_eq!(age(0), "0.0 s ago");
        assert_eq!(age(1_250), "1.2 s ago");
        assert_eq!(age(119_000), "119 s ago");
        assert_eq!(age(7_199_000), "119 min ago");
        assert_eq!(age(u64::MAX), "never");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
        assert_eq!(moment(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(moment(1_772_366_399_250), "2026-03-01 11:59:59.250Z");
    }
}
