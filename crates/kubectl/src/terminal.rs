//! The terminal, where there is one.
//!
//! Invariant: raw mode ends with the guard that began it, however the command ends. Deliberately absent: colours.

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
