//! An image's history (OCI image configuration, "history") from what the engine's API tells of it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

/// What a step that writes files looks like in the words of the usual builders, when it is not
/// marked as one that does not.
const WRITES_FILES: [&str; 5] = ["RUN ", "COPY ", "ADD ", "/bin/sh -c ", "waltgate "];
const WRITES_NOTHING: &str = "#(nop)";

/// The history of an image whose first `layers` layers it explains, oldest first. The API leaves
/// out which steps made a layer; the size tells it of most, the instruction of the others. Without
/// as many steps as layers, or when the layers were merged, none is said to have made one.
pub(super) fn of_layers(told: &Value, layers: usize) -> Vec<Value> {
    let Some(told) = told.as_array() else {
        return Vec::new();
    };
    let oldest_first: Vec<&Value> = told.iter().rev().collect();
    let mut made_layer: Vec<bool> = oldest_first
        .iter()
        .map(|step| step.get("Size").and_then(Value::as_i64).is_some_and(|size| size > 0))
        .collect();
    let mut missing = layers.checked_sub(made_layer.iter().filter(|made| **made).count());
    for wanted in [true, false] {
        for (step, made) in oldest_first.iter().zip(&mut made_layer) {
            let left = missing.unwrap_or(0);
            if left > 0 && !*made && writes_files(text(step, "CreatedBy")) == wanted {
                *made = true;
                missing = Some(left - 1);
            }
        }
    }
    let is_explained = missing == Some(0);
    oldest_first
        .iter()
        .zip(made_layer)
        .map(|(step, made)| {
            let mut entry = json!({
                "created_by": text(step, "CreatedBy"),
                "comment": text(step, "Comment"),
                "empty_layer": !(made && is_explained),
            });
            let seconds = step.get("Created").and_then(Value::as_i64).unwrap_or_default();
            if let (Some(entry), Some(time)) =
                (entry.as_object_mut(), DateTime::<Utc>::from_timestamp(seconds, 0))
            {
                let time = time.to_rfc3339_opts(SecondsFormat::Secs, true);
                entry.insert("created".to_owned(), time.into());
            }
            entry
        })
        .collect()
}

fn text<'a>(step: &'a Value, field: &str) -> &'a str {
    step.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn writes_files(created_by: &str) -> bool {
    !created_by.contains(WRITES_NOTHING)
        && WRITES_FILES.iter().any(|start| created_by.starts_with(start))
        || created_by.contains("#(nop) ADD")
        || created_by.contains("#(nop) COPY")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty_layers(told: &Value, layers: usize) -> Vec<bool> {
        of_layers(told, layers)
            .iter()
            .map(|entry| entry["empty_layer"].as_bool().unwrap())
            .collect()
    }

    #[test]
    fn steps_that_made_a_layer_are_found_by_size_and_by_instruction() {
        let told = json!([
            {"CreatedBy": "RUN true", "Size": 0, "Created": 2},
            {"CreatedBy": "/bin/sh -c #(nop)  ENV A=b", "Size": 0, "Created": 1},
            {"CreatedBy": "imported", "Size": 12, "Created": 0, "Comment": "first"},
        ]);
        assert_eq!(empty_layers(&told, 2), [false, true, false]);
        assert_eq!(empty_layers(&told, 1), [false, true, true]);
        // Merged into the one layer that is not explained by them.
        assert_eq!(empty_layers(&told, 0), [true, true, true]);
        let first = &of_layers(&told, 2)[0];
        assert_eq!(first["created"], "1970-01-01T00:00:00Z");
        assert_eq!(first["comment"], "first");
        assert_eq!(of_layers(&Value::Null, 1), Vec::<Value>::new());
    }
}
