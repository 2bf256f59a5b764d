//! Volume mounts and devices of a container.

use serde_json::Value;

use super::Context;
use super::volumes::relative_path;
use crate::kinds::cursor::walk;
use crate::kinds::{Cursor, Problems, checks};

pub fn validate(container: &Cursor, context: &Context, problems: &mut Problems) {
    let (mounts, devices) = (container.at("volumeMounts"), container.at("volumeDevices"));
    validate_mounts(container, &mounts, devices.array(), context, problems);
    validate_devices(&devices, mounts.array(), context, problems);
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    walk(value, field).as_str().unwrap_or("")
}

fn validate_mounts(container: &Cursor, mounts: &Cursor, devices: &[Value], context: &Context, problems: &mut Problems) {
    let mut paths: Vec<&str> = Vec::new();
    for mount in mounts.items() {
        let (name, path) = (mount.at("name"), mount.at("mountPath"));
        if name.is_empty() {
            problems.required(&name, "");
        }
        let volume = context.volumes.iter().find(|(own, _)| *own == name.str());
        if volume.is_none() && !context.claims.contains(&name.str()) {
            problems.not_found_str(&name, name.str());
        }
        if path.is_empty() {
            problems.required(&path, "");
        }
        if paths.contains(&path.str()) {
            problems.invalid_str(&path, path.str(), "must be unique");
        }
        paths.push(path.str());
        if devices.iter().any(|device| text(device, "name") == name.str()) {
            problems.invalid(&name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| text(device, "devicePath") == path.str()) {
            problems.invalid(&path, "must not already exist as a path in volumeDevices");
        }
        validate_sub_path(mounts, &mount, problems);
        validate_propagation(container, mounts, &mount, problems);
        validate_recursive_read_only(mounts, &mount, problems);
    }
}

/// The original names the list, not the item, for these.
fn validate_sub_path(mounts: &Cursor, mount: &Cursor, problems: &mut Problems) {
    let (sub_path, expression) = (mount.at("subPath"), mount.at("subPathExpr"));
    if !sub_path.is_empty() {
        relative_path(&mounts.at("subPath").with(sub_path.value), problems);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            problems.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
        }
        relative_path(&mounts.at("subPathExpr").with(expression.value), problems);
    }
}

fn validate_propagation(container: &Cursor, mounts: &Cursor, mount: &Cursor, problems: &mut Problems) {
    let own = mount.at("mountPropagation");
    if !own.exists() {
        return;
    }
    let at = mounts.at("mountPropagation");
    let at = at.with(own.value);
    checks::one_of(&at, &["Bidirectional", "HostToContainer", "None"], problems);
    let privileged = container.at("securityContext.privileged").bool();
    if own.str() == "Bidirectional" && !privileged {
        problems.forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn validate_recursive_read_only(mounts: &Cursor, mount: &Cursor, problems: &mut Problems) {
    let own = mounts.at("recursiveReadOnly");
    let own = own.with(mount.at("recursiveReadOnly").value);
    match own.str() {
        "" if !own.exists() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.at("readOnly").bool() {
                problems.forbidden(&own, "may only be specified when readOnly is true");
            }
            if !matches!(mount.at("mountPropagation").str(), "" | "None") {
                problems.forbidden(&own, "may only be specified when mountPropagation is None or not specified");
            }
        }
        _ => checks::one_of(&own, &["Disabled", "Enabled", "IfPossible"], problems),
    }
}

fn validate_devices(devices: &Cursor, mounts: &[Value], context: &Context, problems: &mut Problems) {
    let (mut paths, mut names): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for device in devices.items() {
        let (name, path) = (device.at("name"), device.at("devicePath"));
        if name.is_empty() {
            problems.required(&name, "");
        }
        if names.contains(&name.str()) {
            problems.invalid(&name, "must be unique");
        }
        let volume = context.volumes.iter().find(|(own, _)| *own == name.str());
        let claim = |volume: &Value| volume.get("persistentVolumeClaim").or_else(|| volume.get("ephemeral")).is_some();
        match volume {
            Some((_, volume)) if !claim(volume) => problems
                .invalid(&name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"),
            None if !context.claims.contains(&name.str()) => problems.not_found_str(&name, name.str()),
            _ => {}
        }
        if path.is_empty() {
            problems.required(&path, "");
        }
        if paths.contains(&path.str()) {
            problems.invalid(&path, "must be unique");
        }
        if path.str().split('/').any(|part| part == "..") {
            problems.invalid(&path, "can not contain backsteps ('..')");
        } else {
            paths.push(path.str());
        }
        if mounts.iter().any(|mount| text(mount, "name") == name.str()) {
            problems.invalid(&name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == path.str()) {
            problems.invalid(&path, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.push(name.str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    fn mounts(mounts: Value) -> Value {
        json!({"containers": [{"name": "c", "image": "nginx", "volumeMounts": mounts}], "volumes": [{"name": "v"}]})
    }

    #[test]
    fn mounts_need_their_volumes() {
        check(mounts(json!([{"name": "v", "mountPath": "/a"}])), "");
        check(
            mounts(json!([{"name": "x", "mountPath": "/a"}])),
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
        );
        check(
            mounts(json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}])),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        );
        check(
            mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "../b"}])),
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../b\": must not contain '..'",
        );
        check(
            mounts(json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}])),
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        );
    }
}
