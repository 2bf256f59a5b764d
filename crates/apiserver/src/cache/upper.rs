//! An object's upper two levels, which is as far as selectable fields look; what is deeper is passed over unread.
//!
//! Every write is read for its selectable fields: of a pod they are a dozen of some two hundred values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;
use serde_json::{Map, Value};

/// `fields` are paths like `status.podIPs`; what they name is read whole. None: no JSON object.
pub fn read(bytes: &[u8], fields: &'static [&'static str]) -> Option<Value> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    Upper { levels: 2, fields }.deserialize(&mut text).ok().filter(Value::is_object)
}

#[derive(Clone, Copy)]
struct Upper {
    levels: u8,
    fields: &'static [&'static str],
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Upper {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Upper {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        if self.levels == 0 {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let mut read = Map::new();
        while let Some(Name(name)) = map.next_key()? {
            let is_wanted = self.fields.iter().any(|field| field.rsplit('.').next() == Some(&*name));
            let value = match is_wanted {
                true => map.next_value()?,
                false => map.next_value_seed(Upper { levels: self.levels - 1, ..self })?,
            };
            if !value.is_null() {
                read.insert(name.into_owned(), value);
            }
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(object: Value, expected: Value) {
        assert_eq!(read(object.to_string().as_bytes(), &["spec.nodeName", "status.podIPs"]), Some(expected));
    }

    #[test]
    fn what_is_deep_is_left_out() {
        check(json!({}), json!({}));
        check(json!({"type": "Opaque", "list": [1], "none": null}), json!({"type": "Opaque"}));
        check(
            json!({"spec": {"nodeName": "n\"1", "hostNetwork": true, "count": -1, "containers": [{"name": "c"}], "affinity": {"a": {}}}}),
            json!({"spec": {"nodeName": "n\"1", "hostNetwork": true, "count": -1}}),
        );
        let status = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}], "phase": "Running"}});
        check(status.clone(), status);
        assert_eq!(read(b"[1]", &[]), None);
        assert_eq!(read(b"{", &[]), None);
    }
}
