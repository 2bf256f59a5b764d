//! The terminal, where there is one.
//!
//! Invariant: raw mode ends with the guard that began it, however the command ends. Deliberately absent: what is shown.

use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

pub trait Terminal {
    fn size(&self) -> Option<Size>;
    /// Raw until the guard is dropped.
    fn raw(&self) -> std::io::Result<Box<dyn RawGuard>>;
}

pub trait RawGuard {}

/// How large the terminal is that standard output goes to; None when it goes elsewhere.
pub fn screen() -> Option<Size> {
    let output = std::io::stdout();
    if !termios::isatty(output.as_fd()) {
        return None;
    }
    let size = termios::tcgetwinsize(output.as_fd()).ok()?;
    // A terminal that does not say is taken for a common one.
    Some(if size.ws_col == 0 { Size { width: 80, height: 24 } } else { Size { width: size.ws_col, height: size.ws_row } })
}

/// The terminal that standard input is.
pub struct StandardTerminal {
    input: OwnedFd,
}

impl StandardTerminal {
    /// None when standard input is no terminal.
    pub fn open() -> Option<Self> {
        let input = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        termios::isatty(&input).then_some(StandardTerminal { input })
    }
}

impl Terminal for StandardTerminal {
    fn size(&self) -> Option<Size> {
        let size = termios::tcgetwinsize(&self.input).ok()?;
        Some(Size { width: size.ws_col, height: size.ws_row })
    }

    fn raw(&self) -> std::io::Result<Box<dyn RawGuard>> {
        let before = termios::tcgetattr(&self.input)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&self.input, OptionalActions::Drain, &raw)?;
        Ok(Box::new(Restore { input: self.input.try_clone()?, before }))
    }
}

struct Restore {
    input: OwnedFd,
    before: Termios,
}

impl RawGuard for Restore {}

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no mending.
        let _ = termios::tcsetattr(&self.input, OptionalActions::Drain, &self.before);
    }
}
