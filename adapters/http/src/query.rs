//! Query parameters: which ones a route knows, and how often each may be given.

use axum::{
    extract::Request,
    http::Uri,
    middleware::Next,
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode_str;

use crate::{Fault, ProblemDetails};

/// A parameter that a route knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// It may be given once.
    Once(&'static str),
    /// It may be given several times; the route accepts any of the values.
    Any(&'static str),
}

impl Parameter {
    fn name(self) -> &'static str {
        match self {
            Self::Once(name) | Self::Any(name) => name,
        }
    }
}

/// Reads a query: names with their values, in order.
///
/// # Errors
/// An unknown parameter, one that is repeated and may not be, or a value that is not UTF-8 or contains control
/// characters: 400.
pub fn read(uri: &Uri, known: &[Parameter]) -> Result<Vec<(&'static str, String)>, ProblemDetails> {
    let (mut read, mut faults) = (Vec::<(&'static str, String)>::new(), Vec::new());
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let parameter = decoded(name).and_then(|name| known.iter().find(|p| p.name() == name));
        let Some(parameter) = parameter else {
            let fault = Fault::parameter("query", unknown(known));
            if !faults.contains(&fault) {
                faults.push(fault);
            }
            continue;
        };
        let name = parameter.name();
        if matches!(parameter, Parameter::Once(_)) && read.iter().any(|(earlier, _)| *earlier == name) {
            faults.push(Fault::parameter(name, "must be given once"));
            continue;
        }
        match decoded(value) {
            Some(value) if !value.chars().any(char::is_control) => read.push((name, value)),
            _ => faults.push(Fault::parameter(name, "must be UTF-8 without control characters")),
        }
    }
    if faults.is_empty() { Ok(read) } else { Err(ProblemDetails::invalid(faults)) }
}

/// For routes without parameters: any parameter is refused. Use with [`axum::middleware::from_fn`].
pub async fn none(request: Request, next: Next) -> Response {
    match read(request.uri(), &[]) {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn unknown(known: &[Parameter]) -> String {
    if known.is_empty() {
        return "this route has no parameters".to_owned();
    }
    let names: Vec<&str> = known.iter().map(|p| p.name()).collect();
    format!("every parameter must be one of {}", names.join(", "))
}

fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Parameter; 2] = [Parameter::Once("limit"), Parameter::Any("status")];

    fn read_from(query: &str) -> Result<Vec<(&'static str, String)>, ProblemDetails> {
        read(&format!("/list?{query}").parse().unwrap(), &KNOWN)
    }

    #[test]
    fn a_parameter_stands_once_unless_its_route_takes_several() {
        let of = |name: &'static str, value: &str| (name, value.to_owned());
        assert_eq!(
            read_from("status=A&limit=1&status=B%20C&").unwrap(),
            [of("status", "A"), of("limit", "1"), of("status", "B C")]
        );
        assert_eq!(read_from("").unwrap(), []);
        for query in
            ["limit=1&limit=1", "limit=1&limi%74=2", "colour=red", "limit=%ff", "limit=%00", "LIMIT=1"]
        {
            assert!(read_from(query).is_err(), "{query}");
        }
    }
}
