//! Writes the seeds of every target as files, for libFuzzer to start from.

// Everything is compiled with coverage counters, which libFuzzer's library defines.
extern crate libfuzzer_sys as _;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = std::env::args().nth(1).unwrap_or_else(|| "target/fuzz/seeds".to_owned());
    for target in fuzz::TARGETS {
        let directory = Path::new(&root).join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (at, seed) in fuzz::seeds(target.name).iter().enumerate() {
            std::fs::write(directory.join(at.to_string()), seed)?;
        }
    }
    Ok(())
}
