//! The voice of the demo: lines with times, and the table at the end.

use std::io::Write as _;
use std::time::Instant;

/// Tells a person what happens.
#[derive(Debug)]
pub(super) struct Narrator {
    began: Instant,
}

impl Narrator {
    pub(super) fn new() -> Narrator {
        Narrator {
            began: Instant::now(),
        }
    }

    /// One sentence, with the time since the beginning.
    pub(super) fn say(&mut self, sentence: &str) {
        self.raw(&format!(
            "{:7.2} s  {sentence}\n",
            self.began.elapsed().as_secs_f64()
        ));
    }

    /// Text as it is. A terminal that is gone must not end the demo.
    pub(super) fn raw(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// The final table.
    pub(super) fn table(&mut self, rows: &[(&str, String)]) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        for (what, value) in rows {
            let mut cell = comfy_table::Cell::new(value);
            cell = cell.set_alignment(comfy_table::CellAlignment::Right);
            table.add_row(vec![comfy_table::Cell::new(what), cell]);
        }
        self.raw(&format!("\n{table}\n"));
    }
}
