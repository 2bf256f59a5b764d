//! YAML in and out, as `sigs.k8s.io/yaml` has it: a detour to JSON, YAML 1.1 where Go's parser follows it.
//!
//! Invariant: aliases cannot make a small text large. Deliberately absent: comments and styles; what goes out is
//! written anew.

mod read;
mod scalar;
mod write;

use serde_json::Value;

use crate::json::DecodeError;

pub use write::to_yaml;

/// The first document, and what a strict reader complains of (duplicate keys, in one sentence).
pub fn to_json(text: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    read::read(&String::from_utf8_lossy(text))
}

/// Splits a stream at its `---` lines. Empty documents are left out; each piece keeps its own line numbers.
pub fn documents(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let separator = line.strip_prefix("---").is_some_and(|rest| {
            let rest = rest.trim_end();
            rest.is_empty()
                || rest.starts_with(char::is_whitespace) && rest.trim_start().starts_with('#')
        });
        if separator {
            documents.push(String::new());
        } else {
            documents
                .last_mut()
                .expect("there is always a document")
                .push_str(line);
        }
    }
    let filled = |document: &String| {
        document
            .lines()
            .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.retain(filled);
    documents
}

#[cfg(test)]
mod tests;
