//! Writes the table as Rust source: one static per definition, references by address.

use std::collections::HashMap;
use std::fmt::Write;

use crate::join::{FieldRow, Kind, Row};

pub fn source(rows: &[Row]) -> String {
    let index: HashMap<&str, usize> = rows
        .iter()
        .enumerate()
        .map(|(position, row)| (row.name.as_str(), position))
        .collect();
    let mut text = String::new();
    for (position, row) in rows.iter().enumerate() {
        definition(&mut text, position, row, &index);
    }
    let references: Vec<String> = (0..rows.len())
        .map(|position| format!("&D{position}"))
        .collect();
    writeln!(
        text,
        "pub(super) static DEFINITIONS: [&Definition; {}] = [{}];",
        rows.len(),
        references.join(",")
    )
    .expect("strings grow");
    text
}

fn definition(text: &mut String, position: usize, row: &Row, index: &HashMap<&str, usize>) {
    let fields: Vec<String> = row.fields.iter().map(|row| field(row, index)).collect();
    let inlined: Vec<String> = row
        .inlined
        .iter()
        .map(|(tag, name)| format!("({tag},&D{})", index[name.as_str()]))
        .collect();
    let mut wire: Vec<(u32, usize)> = row
        .fields
        .iter()
        .enumerate()
        .map(|(at, field)| (field.tag, at))
        .filter(|(tag, _)| *tag > 0)
        .collect();
    wire.extend(
        row.inlined
            .iter()
            .enumerate()
            .map(|(at, (tag, _))| (*tag, row.fields.len() + at)),
    );
    wire.sort_unstable();
    let wire: Vec<String> = wire
        .iter()
        .map(|(tag, at)| format!("({tag},{at})"))
        .collect();
    let kinds: Vec<String> = row.kinds.iter().map(|kind| format!("{kind:?}")).collect();
    let map_type = if row.atomic {
        "Some(MapType::Atomic)"
    } else if row.granular {
        "Some(MapType::Granular)"
    } else {
        "None"
    };
    writeln!(
        text,
        "static D{position}: Definition = Definition {{ name: {:?}, description: {:?}, published: {}, map_type: {map_type}, fields: &[{}], inlined: &[{}], wire: &[{}], group_version_kinds: &[{}] }};",
        row.name,
        row.description,
        row.published,
        fields.join(","),
        inlined.join(","),
        wire.join(","),
        kinds.join(",")
    )
    .expect("strings grow");
}

/// Only what differs from `FIELD`, the blank one: the source stays small to compile.
fn field(row: &FieldRow, index: &HashMap<&str, usize>) -> String {
    let mut parts = vec![
        format!("name: {:?}", row.name),
        format!("kind: {}", kind(&row.kind, index)),
    ];
    let mut part = |differs: bool, text: String| {
        if differs {
            parts.push(text);
        }
    };
    part(row.tag > 0, format!("tag: {}", row.tag));
    part(
        !row.description.is_empty(),
        format!("description: {:?}", row.description),
    );
    part(row.required, "required: true".into());
    part(row.pointer, "pointer: true".into());
    part(row.written, "always_written: true".into());
    part(row.by_value, "by_value: true".into());
    part(row.wrapped, "wrapped: true".into());
    let list_type = match row.list_type.as_str() {
        "map" => "Map",
        "set" => "Set",
        _ => "Atomic",
    };
    part(
        !row.list_type.is_empty(),
        format!("list_type: Some(ListType::{list_type})"),
    );
    part(
        !row.list_map_keys.is_empty(),
        format!("list_map_keys: &{:?}", row.list_map_keys),
    );
    let map_type = if row.map_type == "atomic" {
        "Atomic"
    } else {
        "Granular"
    };
    part(
        !row.map_type.is_empty(),
        format!("map_type: Some(MapType::{map_type})"),
    );
    part(
        !row.patch_strategy.is_empty(),
        format!("patch_strategy: {:?}", row.patch_strategy),
    );
    part(
        !row.patch_merge_key.is_empty(),
        format!("patch_merge_key: {:?}", row.patch_merge_key),
    );
    part(
        !row.default.is_empty(),
        format!("default: {:?}", row.default),
    );
    format!("Field {{ {}, ..FIELD }}", parts.join(", "))
}

fn kind(value: &Kind, index: &HashMap<&str, usize>) -> String {
    match value {
        Kind::Scalar(name) => format!("Type::{name}"),
        Kind::Object(name) => format!(
            "Type::Object(&D{})",
            index
                .get(name.as_str())
                .unwrap_or_else(|| panic!("{name} is not defined"))
        ),
        Kind::List(inner) => format!("Type::List(&{})", kind(inner, index)),
        Kind::Map(inner) => format!("Type::Map(&{})", kind(inner, index)),
    }
}
