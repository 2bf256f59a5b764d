//! RFC 6902, with the complaints of the library that the original uses.

use serde_json::Value;

use super::PatchError;

/// The original's limit.
pub const OPERATIONS_MAX: usize = 10_000;
/// What `copy` may add in all, in bytes of JSON: the size of the largest object.
const COPIED_MAX: usize = 3 * 1024 * 1024;

const MISSING: &str = "missing value";

/// Applies the operations in order, or none of them.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".to_owned(),
        ));
    };
    if operations.len() > OPERATIONS_MAX {
        let problem = format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        );
        return Err(PatchError::DoesNotApply(problem));
    }
    let mut patched = doc.clone();
    let mut copied = 0;
    for operation in operations {
        Operation::read(operation)?.apply(&mut patched, &mut copied)?;
    }
    Ok(patched)
}

struct Operation<'a> {
    name: &'a str,
    path: Pointer<'a>,
    from: Option<Pointer<'a>>,
    value: Option<&'a Value>,
}

impl<'a> Operation<'a> {
    fn read(operation: &'a Value) -> Result<Self, PatchError> {
        let Value::Object(fields) = operation else {
            return Err(PatchError::Malformed(
                "json: cannot unmarshal value into Go value of type jsonpatch.Operation".to_owned(),
            ));
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let name = text("op").unwrap_or("unknown");
        let Some(path) = text("path") else {
            return Err(does_not_apply(format!(
                "{name} operation failed to decode path: {MISSING}"
            )));
        };
        Ok(Operation {
            name,
            path: Pointer(path),
            from: text("from").map(Pointer),
            value: fields.get("value"),
        })
    }

    fn apply(&self, doc: &mut Value, copied: &mut usize) -> Result<(), PatchError> {
        match self.name {
            "add" => self.add(doc, self.value.cloned().unwrap_or_default()),
            "remove" => self.path.remove(doc, || format!("remove operation does not apply: doc is missing path: \"{}\": {MISSING}", self.path.0), "remove").map(drop),
            "replace" => self.replace(doc),
            "move" => {
                let from = self.source()?;
                let value = from.remove(doc, || format!("move operation does not apply: doc is missing from path: {}: {MISSING}", from.0), "move")?;
                self.add(doc, value)
            }
            "copy" => {
                let from = self.source()?;
                let value = from.get(doc).cloned().ok_or_else(|| does_not_apply(format!("copy operation does not apply: doc is missing from path: {}: {MISSING}", from.0)))?;
                *copied += value.to_string().len();
                if *copied > COPIED_MAX {
                    let problem = format!("Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {COPIED_MAX}");
                    return Err(does_not_apply(problem));
                }
                self.add(doc, value)
            }
            "test" => self.test(doc),
            other => Err(does_not_apply(format!("Unexpected kind: {other}"))),
        }
    }

    fn source(&self) -> Result<Pointer<'a>, PatchError> {
        self.from.ok_or_else(|| {
            does_not_apply(format!(
                "{} operation failed to decode from: {MISSING}",
                self.name
            ))
        })
    }

    fn add(&self, doc: &mut Value, value: Value) -> Result<(), PatchError> {
        let path = self.path.0;
        let Some((parent, key)) = self.path.split() else {
            *doc = value; // The whole document.
            return Ok(());
        };
        match parent.get_mut(doc) {
            Some(Value::Object(fields)) => drop(fields.insert(key, value)),
            Some(Value::Array(elements)) if key == "-" => elements.push(value),
            Some(Value::Array(elements)) => {
                let at = index(&key, elements.len(), elements.len() + 1).map_err(|problem| {
                    does_not_apply(format!(
                        "error in {} for path: '{path}': {problem}",
                        self.name
                    ))
                })?;
                elements.insert(at, value);
            }
            _ => {
                return Err(does_not_apply(format!(
                    "{} operation does not apply: doc is missing path: \"{path}\": {MISSING}",
                    self.name
                )));
            }
        }
        Ok(())
    }

    fn replace(&self, doc: &mut Value) -> Result<(), PatchError> {
        let path = self.path.0;
        let value = self.value.cloned().unwrap_or_default();
        let Some((parent, _)) = self.path.split() else {
            *doc = value;
            return Ok(());
        };
        if !matches!(parent.get(doc), Some(Value::Object(_) | Value::Array(_))) {
            return Err(does_not_apply(format!(
                "replace operation does not apply: doc is missing path: {path}: {MISSING}"
            )));
        }
        match self.path.get_mut(doc) {
            Some(slot) => {
                *slot = value;
                Ok(())
            }
            None => Err(does_not_apply(format!(
                "replace operation does not apply: doc is missing key: {path}: {MISSING}"
            ))),
        }
    }

    fn test(&self, doc: &Value) -> Result<(), PatchError> {
        let found = self.path.get(doc).unwrap_or(&Value::Null);
        let wanted = self.value.unwrap_or(&Value::Null);
        if equal(found, wanted) {
            Ok(())
        } else {
            Err(does_not_apply(format!(
                "testing value {} failed: test failed",
                self.path.0
            )))
        }
    }
}

/// `1` and `1.0` are the same number.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right || left.as_f64() == right.as_f64()
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(name, left)| right.get(name).is_some_and(|right| equal(left, right)))
        }
        _ => left == right,
    }
}

fn does_not_apply(problem: String) -> PatchError {
    PatchError::DoesNotApply(problem)
}

/// RFC 6901: `/spec/containers/0`.
#[derive(Clone, Copy)]
struct Pointer<'a>(&'a str);

impl<'a> Pointer<'a> {
    /// The parent and the unescaped last key; nothing at the root.
    fn split(&self) -> Option<(Pointer<'a>, String)> {
        let (parent, key) = self.0.rsplit_once('/')?;
        Some((Pointer(parent), unescape(key)))
    }

    fn get<'v>(&self, doc: &'v Value) -> Option<&'v Value> {
        self.keys().try_fold(doc, |value, key| match value {
            Value::Object(fields) => fields.get(&key),
            Value::Array(elements) => {
                elements.get(index(&key, elements.len(), elements.len()).ok()?)
            }
            _ => None,
        })
    }

    fn get_mut<'v>(&self, doc: &'v mut Value) -> Option<&'v mut Value> {
        self.keys().try_fold(doc, |value, key| match value {
            Value::Object(fields) => fields.get_mut(&key),
            Value::Array(elements) => {
                let at = index(&key, elements.len(), elements.len()).ok()?;
                elements.get_mut(at)
            }
            _ => None,
        })
    }

    fn keys(&self) -> impl Iterator<Item = String> + 'a {
        self.0.split('/').skip(1).map(unescape)
    }

    fn remove(
        &self,
        doc: &mut Value,
        missing: impl Fn() -> String,
        operation: &str,
    ) -> Result<Value, PatchError> {
        let (parent, key) = self.split().ok_or_else(|| does_not_apply(missing()))?;
        let wrapped = |problem: String| {
            does_not_apply(format!(
                "error in {operation} for path: '{}': {problem}",
                self.0
            ))
        };
        match parent.get_mut(doc) {
            Some(Value::Object(fields)) => fields.remove(&key).ok_or_else(|| {
                wrapped(format!(
                    "unable to remove nonexistent key: {key}: {MISSING}"
                ))
            }),
            Some(Value::Array(elements)) => {
                let at = index(&key, elements.len(), elements.len()).map_err(wrapped)?;
                Ok(elements.remove(at))
            }
            _ => Err(does_not_apply(missing())),
        }
    }
}

fn unescape(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

/// An index below `limit`; negative ones count from the end.
fn index(key: &str, length: usize, limit: usize) -> Result<usize, String> {
    let number: i64 = key
        .parse()
        .map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let at = if number < 0 {
        number + length as i64
    } else {
        number
    };
    match usize::try_from(at) {
        Ok(at) if at < limit => Ok(at),
        _ => Err(format!(
            "Unable to access invalid index: {number}: invalid index referenced"
        )),
    }
}
