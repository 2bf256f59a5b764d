//! Links the binary to a fixed address: a shim stays with every pod and a client starts with every command, and each of
//! them would otherwise hold its own relocated copy of the program's tables, 4 MiB.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
