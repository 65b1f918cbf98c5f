//! The api's own OpenAPI document, as tests read it: what they do on every route, they do on what stands there.

use std::sync::Arc;

use reqwest::Method;
use serde_json::Value;

/// An operation of the document.
#[derive(Clone)]
pub struct Documented {
    pub method: Method,
    pub path: String,
    spec: Value,
    document: Arc<Value>,
}

/// Returns the operations of a document.
pub fn operations(document: Value) -> Vec<Documented> {
    let document = Arc::new(document);
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, spec) in item.as_object().unwrap() {
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            all.push(Documented {
                method,
                path: path.clone(),
                spec: spec.clone(),
                document: Arc::clone(&document),
            });
        }
    }
    assert!(all.len() > 20, "{} operations", all.len());
    all
}

impl Documented {
    /// Returns method and path.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub fn id(&self) -> &str {
        self.spec["operationId"].as_str().unwrap()
    }

    /// Returns its path with the examples of its parameters, except those that are given.
    pub fn filled(&self, given: &[(&str, &str)]) -> String {
        let mut path = self.path.clone();
        for parameter in self.parameters("path") {
            let name = parameter["name"].as_str().unwrap();
            let value = given.iter().find(|(of, _)| *of == name).map(|(_, value)| *value);
            let value = value.unwrap_or_else(|| parameter["example"].as_str().unwrap());
            path = path.replace(&format!("{{{name}}}"), value);
        }
        path
    }

    /// Returns the parameters at a place: `path`, `query` or `header`.
    pub fn parameters(&self, place: &str) -> Vec<Value> {
        let all = self.spec["parameters"].as_array().cloned().unwrap_or_default();
        let all = all.iter().map(|parameter| self.resolved(parameter));
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    pub fn takes_header(&self, name: &str) -> bool {
        self.parameters("header").iter().any(|parameter| parameter["name"] == name)
    }

    /// Returns the example of its body.
    pub fn body(&self) -> Option<Value> {
        let content = &self.spec["requestBody"]["content"]["application/json"];
        content.get("example").cloned()
    }

    /// Returns whether it is refused without a body.
    pub fn needs_body(&self) -> bool {
        self.spec["requestBody"]["required"] == true
    }

    /// Returns the schema of its body.
    pub fn body_schema(&self) -> Value {
        self.resolved(&self.spec["requestBody"]["content"]["application/json"]["schema"])
    }

    pub fn needs_token(&self) -> bool {
        self.spec.get("security").is_some()
    }

    /// Returns the media types of its answers that are no problems.
    pub fn kinds(&self) -> Vec<String> {
        let answers = self.spec["responses"].as_object().unwrap();
        let succeeding = answers.iter().filter(|(status, _)| status.as_str() < "400");
        let contents = succeeding.filter_map(|(_, answer)| answer.get("content")?.as_object());
        contents.flat_map(|content| content.keys().cloned()).collect()
    }

    /// Returns whether the document says that it can answer this.
    pub fn answers(&self, status: u16) -> bool {
        self.spec["responses"].get(status.to_string()).is_some()
    }

    /// Returns whether the document says that it can answer with this type of problem.
    pub fn refuses_with(&self, status: u16, uri: &Value) -> bool {
        let answer = self.resolved(&self.spec["responses"][status.to_string()]);
        let schemas = answer["content"]["application/problem+json"]["schema"]["allOf"].clone();
        let mut kinds = schemas.as_array().into_iter().flatten();
        kinds.any(|schema| {
            schema["properties"]["type"]["enum"].as_array().is_some_and(|all| all.contains(uri))
        })
    }

    /// Follows a reference, and leaves out that a value may be null, and conditions on an object as a whole.
    pub fn resolved(&self, value: &Value) -> Value {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            return self.resolved(self.document.pointer(&reference[1..]).unwrap());
        }
        if let Some(either) = value.get("oneOf").and_then(Value::as_array) {
            let other = either.iter().find(|schema| schema["type"] != "null").unwrap();
            return self.resolved(other);
        }
        if let Some(all) = value.get("allOf").and_then(Value::as_array) {
            return self.resolved(&all[0]);
        }
        value.clone()
    }
}

/// Returns the JSON type that a schema demands, beside null.
pub fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap(),
        kind => kind.as_str().unwrap_or("object"),
    }
}
