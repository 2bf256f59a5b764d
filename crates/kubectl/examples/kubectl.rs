//! The client as a program of its own: small to build when only the client changes.

fn main() -> std::process::ExitCode {
    kubectl::main(std::env::args().skip(1).collect())
}
