//! A fragment of OpenAPI 3.1 about the layer, made from its settings: components to refer to.
//!
//! It says what `client_page.rs` says, as far as generators of clients read it.

use serde_json::{Map, Value, json};

use super::IdempotencyLayer;
use super::client_page::{ranges, spelt, status, told};
use super::dialect::{self, Dialect};
use super::settings::{Requirement, Settings};
use crate::http::kind::Kind;

impl IdempotencyLayer {
    /// Returns components of [OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.1.html) for the operations that the layer
    /// covers: merge them into your own document, and refer to them.
    ///
    /// | component | is |
    /// | --- | --- |
    /// | `parameters/Idempotency-Key`, and one for each alias | a header that carries the key |
    /// | `headers/…` | what answers are marked with |
    /// | `schemas/IdempotencyProblem` | the body of a problem |
    /// | `responses/Idempotency400` and so on | the problems of one status, with their types |
    ///
    /// Under [`Dialect::Grpc`] there are no responses: the calls of gRPC are described by their own files.
    ///
    /// ```
    /// use oneflight::http::layer::IdempotencyLayer;
    /// use oneflight::{Idempotency, MemoryStore};
    /// use serde_json::json;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let mut document = IdempotencyLayer::new(idem).required().unscoped().openapi();
    /// document["openapi"] = json!("3.1.1");
    /// document["info"] = json!({ "title": "Orders", "version": "1" });
    /// document["paths"]["/orders"]["post"] = json!({
    ///     "parameters": [{ "$ref": "#/components/parameters/Idempotency-Key" }],
    ///     "responses": {
    ///         "201": { "description": "The order was placed" },
    ///         "409": { "$ref": "#/components/responses/Idempotency409" },
    ///     },
    /// });
    /// assert_eq!(document["components"]["parameters"]["Idempotency-Key"]["required"], true);
    /// ```
    #[must_use]
    pub fn openapi(&self) -> Value {
        let settings = &self.settings;
        json!({
            "components": {
                "parameters": parameters(settings),
                "headers": headers(settings),
                "schemas": { "IdempotencyProblem": schema(settings) },
                "responses": responses(settings),
            }
        })
    }
}

fn parameters(settings: &Settings) -> Map<String, Value> {
    let mut parameters = Map::new();
    if settings.key.is_some() {
        // What a function finds cannot be described.
        return parameters;
    }
    let keys = &settings.keys;
    let is_only_place = keys.names().count() == 1 && keys.field_name().is_none();
    let is_required = settings.when.is_none() && settings.requirement == Requirement::Required;
    for name in keys.names() {
        let name = spelt(name.as_str());
        let parameter = json!({
            "name": name,
            "in": "header",
            "required": is_required && is_only_place,
            "description": "Makes the request safe to send again: a new key for each operation, and the same one each time that \
                            the operation is sent again.",
            "schema": { "type": "string", "pattern": pattern(settings) },
            "example": "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        });
        parameters.insert(name, parameter);
    }
    parameters
}

/// A quoted string, and what is taken for one without quotes: what a key source accepts, no more and no less.
fn pattern(settings: &Settings) -> String {
    let keys = &settings.keys;
    let class = |left_out: &str| ranges(keys.characters().filter(|character| !left_out.contains(*character)));
    let escaped = ranges(keys.characters().filter(|character| matches!(character, '"' | '\\')));
    let or_escaped = |class: String| match escaped.is_empty() {
        true => format!("[{class}]"),
        false => format!("(?:[{class}]|\\\\[{escaped}])"),
    };
    let (outer, inner) = (or_escaped(class(" \"\\")), or_escaped(class("\"\\")));
    let longest = keys.longest();
    let quoted = match longest {
        1 => format!("\"{outer}\""),
        _ => format!("\"{outer}(?:{inner}{{0,{}}}{outer})?\"", longest - 2),
    };
    match keys.is_strict() {
        true => format!("^{quoted}$"),
        false => format!("^(?:{quoted}|[{}]{{1,{longest}}})$", class(" ,;\"")),
    }
}

fn headers(settings: &Settings) -> Value {
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let flag =
        |description: &str| json!({ "description": description, "schema": { "type": "string", "const": "true" } });
    let mut headers = json!({
        "Idempotency-Origin": {
            "description": "How the answer came to be",
            "schema": { "type": "string", "enum": ["executed", "collapsed", "replayed"] },
        },
        "Idempotency-Replayed": flag("The answer was given earlier"),
        "Idempotency-Original-Date": text("When an answer that was given earlier was given, in the form of Date"),
        "Retry-After": {
            "description": "Seconds until the request may be sent again, with the same key",
            "schema": { "type": "integer", "minimum": 1 },
        },
    });
    if settings.dialect == Dialect::Stripe {
        headers["Idempotent-Replayed"] = flag("The answer was given earlier");
        headers["Stripe-Should-Retry"] = json!({
            "description": "Whether sending the request again can have another answer",
            "schema": { "type": "string", "enum": ["true", "false"] },
        });
    }
    headers
}

fn schema(settings: &Settings) -> Value {
    match settings.dialect {
        Dialect::Draft | Dialect::Grpc => json!({
            "description": "Problem details (RFC 9457)",
            "type": "object",
            "required": ["type", "title", "status"],
            "properties": {
                "type": { "type": "string", "format": "uri" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "retry_after": { "type": "integer", "minimum": 1 },
                "effect": {
                    "description": "What is known of the operation",
                    "type": "string",
                    "enum": ["nothing", "done", "unknown"],
                },
            },
        }),
        Dialect::Stripe => json!({
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["type", "message"],
                    "properties": {
                        "type": { "type": "string", "enum": ["idempotency_error", "invalid_request_error", "api_error"] },
                        "code": { "type": "string" },
                        "message": { "type": "string" },
                        "doc_url": { "type": "string", "format": "uri" },
                    },
                },
            },
        }),
    }
}

/// One response for each status that a problem has.
fn responses(settings: &Settings) -> Map<String, Value> {
    // To HTTP, each answer of gRPC is a 200.
    if settings.dialect == Dialect::Grpc {
        return Map::new();
    }
    let mut statuses: Vec<u16> = told(settings).filter_map(|kind| status(settings, kind)).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let of_status = |wanted: u16| {
        let kinds: Vec<_> = told(settings)
            .filter(|kind| status(settings, kind) == Some(wanted))
            .collect();
        (format!("Idempotency{wanted}"), response(settings, wanted, &kinds))
    };
    statuses.into_iter().map(of_status).collect()
}

fn response(settings: &Settings, status: u16, kinds: &[&Kind]) -> Value {
    let told = |kind: &&Kind| {
        format!(
            "* {}. Did anything happen? {}. The client: {}.",
            kind.title, kind.effect, kind.advice
        )
    };
    let description: Vec<_> = kinds.iter().map(told).collect();
    let (media_type, narrowed) = match settings.dialect {
        Dialect::Draft | Dialect::Grpc => {
            let types: Vec<_> = kinds.iter().map(|kind| kind.uri).collect();
            (
                "application/problem+json",
                json!({ "type": { "enum": types }, "status": { "const": status } }),
            )
        }
        Dialect::Stripe => {
            let codes: Vec<_> = kinds.iter().filter_map(|kind| dialect::code(kind.uri)).collect();
            let error = json!({ "properties": { "code": { "enum": codes } } });
            ("application/json", json!({ "error": error }))
        }
    };
    let mut response = json!({
        "description": description.join("\n"),
        "content": {
            (media_type): {
                "schema": {
                    "allOf": [{ "$ref": "#/components/schemas/IdempotencyProblem" }, { "properties": narrowed }],
                }
            }
        }
    });
    if matches!(status, 409 | 503) {
        response["headers"]["Retry-After"] = json!({ "$ref": "#/components/headers/Retry-After" });
    }
    response
}
