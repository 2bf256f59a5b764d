//! A crate imports only from floors below its own, as ARCHITECTURE.md draws them.

use std::collections::BTreeMap;
use std::path::Path;

/// Crate to floor. `sim` hosts the other rooms of its floor.
const FLOORS: &[(&str, u32)] = &[
    ("api", 0),
    ("store", 1),
    ("client", 2),
    ("runtime", 2),
    ("net", 2),
    ("apiserver", 3),
    ("controllers", 3),
    ("scheduler", 3),
    ("kubelet", 3),
    ("proxy", 3),
    ("dns", 3),
    ("kubectl", 3),
    ("sim", 3),
    ("coracle", 4),
];

#[test]
fn no_crate_imports_from_its_own_floor_or_above() {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/").to_path_buf();
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&crates).expect("crates/ can be listed") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let manifest = std::fs::read_to_string(path.join("Cargo.toml")).expect("a manifest");
        let floor = *floors.get(name.as_str()).unwrap_or_else(|| panic!("crate {name} has no floor: add it here"));
        for (imported, imported_floor) in &floors {
            let imports = manifest.lines().any(|line| {
                let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
                dependency == *imported && !line.starts_with("name")
            });
            let hosted_by_sim = name == "sim" && *imported_floor == 3 && *imported != "sim";
            if imports && *imported_floor >= floor && !hosted_by_sim {
                wrong.push(format!("{name} (floor {floor}) imports {imported} (floor {imported_floor})"));
            }
            let reaches_the_store = imports && *imported == "store";
            if reaches_the_store && !["apiserver", "sim", "coracle"].contains(&name.as_str()) {
                wrong.push(format!("{name} imports the store: only the API server may"));
            }
        }
        seen.push(name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen.len(), FLOORS.len(), "a crate is gone: {seen:?}");
}
