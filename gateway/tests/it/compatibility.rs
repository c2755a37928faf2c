//! Clients of the last release understand this one: today's OpenAPI document against the released one.
//!
//! A client ignores what it does not know, so answers may gain fields, statuses and values. It sends what it always sent,
//! so requests may only become more tolerant.

use std::collections::BTreeSet;
use std::path::Path;

use gateway::http::Served;
use gateway::openapi::document;
use serde_json::{Value, json};

/// Schemas in schemas, at most: enough for every body, and an end for those that name themselves.
const DEPTH_MAX: usize = 12;

/// Which way a body travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Response,
}

/// Both documents, and what was found.
struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
}

fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = Comparison { old, new, found: Vec::new() };
    for (path, item) in object(&old["paths"]) {
        for (method, operation) in object(item) {
            comparison.operation(&format!("{method} {path}"), operation, &new["paths"][path][method]);
        }
    }
    comparison.found
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn names(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a reference leads to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"].as_str().and_then(|text| text.strip_prefix("#/components/schemas/"));
    name.map_or(schema, |name| &document["components"]["schemas"][name])
}

impl Comparison<'_> {
    fn found(&mut self, place: &str, what: impl std::fmt::Display) {
        self.found.push(format!("{place}: {what}"));
    }

    fn operation(&mut self, place: &str, old: &Value, new: &Value) {
        if new.is_null() {
            return self.found(place, "is gone");
        }
        if old.get("security").is_none() && new.get("security").is_some() {
            self.found(place, "needs a token now");
        }
        let parameters = |operation: &Value| operation["parameters"].as_array().cloned().unwrap_or_default();
        let (before, after) = (parameters(old), parameters(new));
        let key = |parameter: &Value| format!("{} {}", parameter["in"], parameter["name"]);
        for parameter in &after {
            let known = before.iter().find(|one| key(one) == key(parameter));
            let was_required = known.is_some_and(|one| one["required"] == true);
            if parameter["required"] == true && !was_required {
                self.found(place, format_args!("requires parameter {} now", key(parameter)));
            }
        }
        for parameter in &before {
            let Some(now) = after.iter().find(|one| key(one) == key(parameter)) else {
                self.found(place, format_args!("parameter {} is gone", key(parameter)));
                continue;
            };
            let place = format!("{place} {}", key(parameter));
            self.schema(&place, (&parameter["schema"], &now["schema"]), Way::Request, 0);
        }
        if new["requestBody"]["required"] == true && old["requestBody"]["required"] != true {
            self.found(place, "requires a body now");
        }
        self.contents(place, &old["requestBody"], &new["requestBody"], Way::Request);
        for (status, response) in object(&old["responses"]) {
            let now = &new["responses"][status];
            if now.is_null() && status.starts_with('2') {
                self.found(place, format_args!("{status} is gone"));
            }
            if !now.is_null() {
                self.contents(&format!("{place} {status}"), response, now, Way::Response);
            }
        }
    }

    fn contents(&mut self, place: &str, old: &Value, new: &Value, way: Way) {
        for (media, content) in object(&old["content"]) {
            match new["content"].get(media) {
                None => self.found(place, format_args!("{media} is gone")),
                Some(now) => self.schema(place, (&content["schema"], &now["schema"]), way, 0),
            }
        }
    }

    fn schema(&mut self, place: &str, (old, new): (&Value, &Value), way: Way, depth: usize) {
        if depth > DEPTH_MAX || old.is_null() {
            return;
        }
        let (old, new) = (resolve(self.old, old).clone(), resolve(self.new, new).clone());
        if new.is_null() {
            return self.found(place, "is no longer described");
        }
        let types = |schema: &Value| match schema["type"].as_str() {
            Some(one) => BTreeSet::from([one.to_owned()]),
            None => names(&schema["type"]),
        };
        let (before, after) = (types(&old), types(&new));
        let fits = match way {
            Way::Request => before.is_subset(&after),
            Way::Response => after.is_subset(&before),
        };
        if !fits && !before.is_empty() {
            self.found(place, format_args!("was {before:?}, is {after:?}"));
        }
        let (before, after) = (names(&old["enum"]), names(&new["enum"]));
        if way == Way::Request && !after.is_empty() && !before.is_subset(&after) {
            self.found(place, format_args!("no longer takes {:?}", &before - &after));
        }
        let (before, after) = (names(&old["required"]), names(&new["required"]));
        let lost = if way == Way::Request { &after - &before } else { &before - &after };
        for field in lost {
            let what = if way == Way::Request { "is required now" } else { "may be absent now" };
            self.found(place, format_args!("{field} {what}"));
        }
        for (field, schema) in object(&old["properties"]) {
            match new["properties"].get(field) {
                None => self.found(place, format_args!("{field} is gone")),
                Some(now) => self.schema(&format!("{place} .{field}"), (schema, now), way, depth + 1),
            }
        }
        if old.get("items").is_some() {
            self.schema(&format!("{place} []"), (&old["items"], &new["items"]), way, depth + 1);
        }
        for kind in ["oneOf", "anyOf", "allOf"] {
            let list = |schema: &Value| schema[kind].as_array().cloned().unwrap_or_default();
            for (one, now) in list(&old).iter().zip(&list(&new)) {
                self.schema(&format!("{place} {kind}"), (one, now), way, depth + 1);
            }
            let (before, after) = (list(&old).len(), list(&new).len());
            if (way == Way::Request && after < before) || (kind == "allOf" && after != before) {
                self.found(place, format_args!("{kind} of {before} is one of {after}"));
            }
        }
    }
}

fn today() -> Value {
    let json = document(Served { dev: true, wechat: true }, "").to_json().expect("JSON");
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn clients_of_the_last_release_understand_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/released/openapi.json");
    let released: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON");
    assert!(released["paths"].as_object().is_some_and(|paths| paths.len() > 20));
    assert_eq!(breaks(&released, &today()), Vec::<String>::new());
}

/// A small API and what may and may not become of it.
#[test]
fn what_old_clients_cannot_live_with_is_noticed_and_the_rest_is_not() {
    let old = json!({
        "paths": { "/a": { "post": {
            "parameters": [{ "name": "q", "in": "query", "schema": { "type": "string" } }],
            "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Wish" } } } },
            "responses": { "200": { "content": { "application/json": { "schema": {
                "type": "object", "required": ["id"],
                "properties": { "id": { "type": "string" }, "rest": { "type": ["integer", "null"] } },
            } } } } },
        } } },
        "components": { "schemas": { "Wish": {
            "type": "object", "required": [], "properties": { "kind": { "type": "string", "enum": ["a", "b"] } },
        } } },
    });
    assert_eq!(breaks(&old, &old), Vec::<String>::new());
    let operation = "/paths/~1a/post";
    let answer = "/paths/~1a/post/responses/200/content/application~1json/schema";
    let wish = "/components/schemas/Wish";
    let field = json!({ "type": "string" });
    for (place, change, broken) in [
        ("/paths", json!({}), true),
        (operation, json!({ "security": [{ "bearer": [] }] }), true),
        (operation, json!({ "parameters": [] }), true),
        (
            operation,
            json!({ "parameters": [old.pointer(operation).unwrap()["parameters"][0], { "name": "n", "in": "query", "required": true }] }),
            true,
        ),
        (
            operation,
            json!({ "parameters": [old.pointer(operation).unwrap()["parameters"][0], { "name": "n", "in": "query" }] }),
            false,
        ),
        (operation, json!({ "responses": {} }), true),
        (answer, json!({ "required": [] }), true),
        (
            answer,
            json!({ "required": ["id", "new"], "properties": { "id": field, "rest": { "type": "integer" }, "new": field } }),
            false,
        ),
        (answer, json!({ "properties": { "id": field } }), true),
        (
            answer,
            json!({ "properties": { "id": { "type": "integer" }, "rest": { "type": "integer" } } }),
            true,
        ),
        (wish, json!({ "required": ["kind"] }), true),
        (wish, json!({ "properties": {} }), true),
        (wish, json!({ "properties": { "kind": { "type": "string", "enum": ["a"] } } }), true),
        (
            wish,
            json!({ "properties": { "kind": { "type": "string", "enum": ["a", "b", "c"] }, "more": field } }),
            false,
        ),
    ] {
        let mut new = old.clone();
        let target = new.pointer_mut(place).expect("a place");
        if place == "/paths" {
            *target = change.clone();
        } else {
            target.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        }
        let found = breaks(&old, &new);
        assert_eq!(!found.is_empty(), broken, "{place} {change}: {found:?}");
    }
}
