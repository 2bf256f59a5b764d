//! Draws the steps of something long: a line each, redrawn in place on a terminal, plain when piped.

use std::io::{IsTerminal, Write};
use std::time::Instant;

const FRAMES: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇", "⠏", "⠹"];

pub struct Progress {
    started: Instant,
    terminal: bool,
    frame: usize,
}

impl Progress {
    pub fn start() -> Progress {
        Progress { started: Instant::now(), terminal: std::io::stdout().is_terminal(), frame: 0 }
    }

    /// Called again and again while a step goes on; draws on a terminal only.
    pub fn tick(&mut self, step: &str) {
        if self.terminal {
            self.frame = (self.frame + 1) % FRAMES.len();
            self.write(&format!("\r\x1b[K  {} {step} \x1b[2m{:.1}s\x1b[0m", FRAMES[self.frame], self.seconds()));
        }
    }

    pub fn done(&mut self, step: &str) {
        match self.terminal {
            true => self.write(&format!("\r\x1b[K  \x1b[32m✓\x1b[0m {step:<44} \x1b[2m{:.2}s\x1b[0m\n", self.seconds())),
            false => self.write(&format!("  ok {step:<44} {:.2}s\n", self.seconds())),
        }
    }

    pub fn failed(&mut self, step: &str) {
        match self.terminal {
            true => self.write(&format!("\r\x1b[K  \x1b[31m✗\x1b[0m {step}\n")),
            false => self.write(&format!("  failed {step}\n")),
        }
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// A closed pipe must not stop what is being done.
    fn write(&self, text: &str) {
        let mut out = std::io::stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
