//! What the headers of every answer say, and what they never say.

use reqwest::header::HeaderMap;

/// Which answers a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// All.
    All,
    /// Pages that a browser shows.
    Pages,
}

/// A rule for a header: its name, the answers that it is for, and what its value must be; `None`: it must be absent.
struct Rule(&'static str, Of, Option<fn(&str) -> bool>);

/// As scanners of web applications check them.
const RULES: [Rule; 14] = [
    // A browser guesses no other media type, and embeds no answer in a page of another origin.
    Rule("x-content-type-options", Of::All, Some(|value| value == "nosniff")),
    Rule("cross-origin-resource-policy", Of::All, Some(|value| value == "same-origin")),
    // No cache keeps what is for one person.
    Rule("cache-control", Of::All, Some(is_private)),
    Rule("x-request-id", Of::All, Some(|value| !value.is_empty())),
    // A page loads nothing from elsewhere, and is not shown within another.
    Rule("content-security-policy", Of::Pages, Some(is_closed)),
    Rule("content-type", Of::Pages, Some(|value| value.ends_with("; charset=utf-8"))),
    // Nothing tells what serves it.
    Rule("server", Of::All, None),
    Rule("x-powered-by", Of::All, None),
    Rule("via", Of::All, None),
    // Tokens are sent in a header: no cookie that a page of another origin could use.
    Rule("set-cookie", Of::All, None),
    // Pages of other origins read nothing, unless a setting says so.
    Rule("access-control-allow-origin", Of::All, None),
    Rule("access-control-allow-credentials", Of::All, None),
    Rule("access-control-allow-methods", Of::All, None),
    Rule("access-control-expose-headers", Of::All, None),
];

fn is_private(value: &str) -> bool {
    ["no-store", "private, no-cache", PUBLIC].contains(&value)
}

fn is_closed(value: &str) -> bool {
    let parts: Vec<&str> = value.split("; ").collect();
    parts.contains(&"default-src 'none'")
        && parts.contains(&"frame-ancestors 'none'")
        && !value.contains("unsafe-eval")
}

/// The same for everyone: caches may keep it.
const PUBLIC: &str = "public, max-age=300";

/// Returns what is wrong with the headers of an answer to a request for a path.
pub fn faults(path: &str, headers: &HeaderMap) -> Vec<String> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_page = text("content-type").is_some_and(|kind| kind.starts_with("text/html"));
    let mut faults = Vec::new();
    for Rule(name, of, must) in &RULES {
        let holds = match (must, text(name)) {
            _ if *of == Of::Pages && !is_page => true,
            (Some(must), Some(value)) => must(value),
            (None, None) => true,
            _ => false,
        };
        if !holds {
            faults.push(format!("{name}: {:?}", text(name)));
        }
    }
    let may_be_kept = path == "/openapi.json" || path.starts_with("/docs");
    if text("cache-control") == Some(PUBLIC) && !may_be_kept {
        faults.push(format!("{path} may be kept by everyone"));
    }
    faults
}
