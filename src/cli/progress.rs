//! Live progress: bars on a terminal, plain lines elsewhere.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use crate::{OperationView, TransferId, TransferStatus};

/// Shows what a service does.
pub(super) struct Progress {
    kind: Kind,
    /// Where there is one download only, its waits are said too. A list would fill the terminal with them.
    only: Option<TransferId>,
    said: Option<TransferStatus>,
}

enum Kind {
    None,
    Lines,
    Bars {
        all: MultiProgress,
        bars: HashMap<TransferId, ProgressBar>,
    },
}

impl Progress {
    pub(super) fn new(quiet: bool, ids: &[TransferId]) -> Self {
        let kind = match (quiet, output::stderr_is_terminal()) {
            (true, _) => Kind::None,
            (false, true) => {
                let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5));
                Kind::Bars {
                    all,
                    bars: HashMap::new(),
                }
            }
            (false, false) => Kind::Lines,
        };
        Self {
            kind,
            only: if let [id] = ids { Some(*id) } else { None },
            said: None,
        }
    }

    /// Nothing is ever said or shown.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.kind, Kind::None)
    }

    /// Says what has ended since the last time.
    pub(super) fn say(&self, ends: &[OperationView]) {
        if ends.is_empty() || self.is_silent() {
            return;
        }
        let lines: Vec<String> = ends.iter().map(output::end_line).collect();
        self.line(&lines.join("\n"));
    }

    /// Draws what runs.
    /// `running`: those that an attempt is made of; `open`: what has not ended, where that is known.
    pub(super) fn show(&mut self, running: &[OperationView], open: &[OperationView]) {
        if self.is_silent() {
            return;
        }
        let only = self.only;
        if let Some(view) = open.iter().find(|view| Some(view.id) == only) {
            self.wait(view);
        }
        if let Kind::Bars { all, bars } = &mut self.kind {
            draw(all, bars, running);
        }
    }

    /// Takes the bars off the terminal.
    pub(super) fn clear(&self) {
        if let Kind::Bars { all, .. } = &self.kind {
            // A terminal that is gone needs no clearing.
            let _ = all.clear();
        }
    }

    /// Says once why a single download does not move.
    fn wait(&mut self, view: &OperationView) {
        let moves = matches!(view.status, TransferStatus::Running | TransferStatus::Queued);
        if self.said.replace(view.status) == Some(view.status) || moves || view.status.is_ended() {
            return;
        }
        let reason = view.reason.map(|reason| reason.to_string()).unwrap_or_default();
        let error = view
            .error
            .as_ref()
            .map(|error| format!(": {}", error.message))
            .unwrap_or_default();
        self.line(&output::harmless(&format!("waits ({reason}){error}")));
    }

    fn line(&self, line: &str) {
        match &self.kind {
            Kind::None => {}
            Kind::Lines => output::say(line),
            Kind::Bars { all, .. } => {
                let _ = all.println(line);
            }
        }
    }
}

fn draw(all: &MultiProgress, bars: &mut HashMap<TransferId, ProgressBar>, running: &[OperationView]) {
    bars.retain(|id, bar| {
        let runs = running.iter().any(|view| view.id == *id);
        if !runs {
            bar.finish_and_clear();
            all.remove(bar);
        }
        runs
    });
    for view in running {
        let bar = bars.entry(view.id).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(view.bytes_total.unwrap_or(0)));
            // What was there before this attempt does not count for the rate.
            bar.reset_eta();
            bar.with_style(style())
                .with_prefix(name(view))
                .with_position(view.bytes_done)
        });
        bar.set_length(view.bytes_total.unwrap_or(view.bytes_done));
        bar.set_position(view.bytes_done);
        bar.set_message(view.status.to_string());
    }
}

fn name(view: &OperationView) -> String {
    let name = view.destination.file_name().unwrap_or_default().to_string_lossy();
    name.chars().filter(|letter| !letter.is_control()).take(28).collect()
}

fn style() -> ProgressStyle {
    let template =
        "{prefix:28} {bar:20} {binary_bytes:>11}/{binary_total_bytes:<11} {binary_bytes_per_sec:>13} {eta:>4} {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
