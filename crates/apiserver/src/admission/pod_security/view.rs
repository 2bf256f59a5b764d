//! A pod as the checks look at it.

use serde_json::Value;

/// Since when what means nothing on Windows is not asked of its pods.
const WINDOWS_FROM: u32 = 25;

pub struct PodView<'v> {
    pub annotations: &'v Value,
    pub spec: &'v Value,
    /// The minor version whose rules hold.
    pub minor: u32,
    /// All of them: init, ordinary and ephemeral.
    pub containers: Vec<&'v Value>,
}

impl<'v> PodView<'v> {
    pub fn new(metadata: &'v Value, spec: &'v Value, minor: u32) -> Self {
        let containers = ["initContainers", "containers", "ephemeralContainers"]
            .iter()
            .flat_map(|list| spec[*list].as_array().into_iter().flatten())
            .collect();
        PodView { annotations: &metadata["annotations"], spec, minor, containers }
    }

    /// Names of the containers for which something holds, quoted.
    pub fn names_where(&self, mut holds: impl FnMut(&Value) -> bool) -> Vec<String> {
        self.containers.iter().filter(|container| holds(container)).map(|container| name(container)).collect()
    }

    pub fn is_windows(&self) -> bool {
        self.minor >= WINDOWS_FROM && self.spec["os"]["name"] == "windows"
    }
}

pub fn name(object: &Value) -> String {
    format!("{:?}", object["name"].as_str().unwrap_or(""))
}

/// `container "a"`, `containers "a", "b"`.
pub fn containers(names: &[String]) -> String {
    plural("container", "containers", names)
}

pub fn plural(one: &str, many: &str, list: &[String]) -> String {
    format!("{} {}", if list.len() == 1 { one } else { many }, list.join(", "))
}

pub fn quoted(texts: &[String]) -> String {
    texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
}
