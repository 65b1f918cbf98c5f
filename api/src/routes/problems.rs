//! `/problems/{slug}`: what a type of problem means, what was changed, and what to do; for people and for programs.

use std::fmt::Write;

use amends_http::{ProblemType, accept, problem_types};
use axum::{
    Json,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::access::{Access, Routes},
    http::openapi::{Answer, Operation},
    problem::Problem,
};

const TEXT: &str = "text/plain";
const HTML: &str = "text/html";
const JSON: &str = "application/json";
const KINDS: [&str; 3] = [TEXT, HTML, JSON];
/// The page loads and runs nothing.
const PASSIVE: (HeaderName, HeaderValue) =
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));

pub fn routes<S: Clone + Send + Sync + 'static>() -> Routes<S> {
    Routes::default()
        .on(
            Method::GET,
            "/problems",
            Access::Open,
            list,
            Operation::new("listProblems", "List every type of problem").answer(answered(Answer::json::<
                HelpList,
            >(
                StatusCode::OK,
                "Every type.",
            ))),
        )
        .on(
            Method::GET,
            "/problems/{slug}",
            Access::Open,
            explain,
            Operation::new("explainProblem", "Explain a type of problem")
                .about("The `type` of every problem is the path of such a page.")
                .answer(answered(Answer::json::<Help>(
                    StatusCode::OK,
                    "What it means, what was changed, and what to do.",
                ))),
        )
}

fn answered(answer: Answer) -> Answer {
    answer.also(&[TEXT, HTML])
}

/// The help on a type of problem.
#[derive(Serialize, ToSchema)]
#[schema(as = ProblemHelp)]
struct Help {
    /// The type, as it stands in a problem.
    r#type: String,
    /// The status of every answer of this type.
    status: u16,
    title: &'static str,
    /// What it means.
    meaning: &'static str,
    /// What was changed.
    changed: &'static str,
    /// What the caller can do.
    remedy: &'static str,
}

/// The help on every type of problem.
#[derive(Serialize, ToSchema)]
#[schema(as = ProblemHelpList)]
struct HelpList {
    items: Vec<Help>,
}

impl From<&'static ProblemType> for Help {
    fn from(kind: &'static ProblemType) -> Self {
        Self {
            r#type: kind.uri(),
            status: kind.status().as_u16(),
            title: kind.title(),
            meaning: kind.meaning(),
            changed: kind.effect().sentence(),
            remedy: kind.remedy(),
        }
    }
}

impl Help {
    fn text(&self) -> String {
        let Self { r#type, status, title, meaning, changed, remedy } = self;
        format!("{title}\n{type}, status {status}\n\n{meaning}\n\n{changed}\n\n{remedy}\n")
    }

    /// Nothing in it comes from a request.
    fn html(&self) -> String {
        let Self { r#type, status, title, meaning, changed, remedy } = self;
        let [meaning, remedy] = [meaning, remedy].map(|text| marked_up(text));
        format!(
            "<h1>{title}</h1>\n<p><code>{type}</code>, status {status}</p>\n<p>{meaning}</p>\n<p>{changed}</p>\n\
             <p>{remedy}</p>\n"
        )
    }
}

async fn explain(headers: HeaderMap, Path(slug): Path<String>) -> Result<Response, Problem> {
    let kind = accept::chosen(&headers, &KINDS)?;
    let known = ProblemType::find(&slug).map(Help::from);
    let help = known.ok_or_else(|| Problem::NotFound("There is no such type of problem.".to_owned()))?;
    Ok(match kind {
        HTML => page(help.title, &format!("{}<p><a href=\"../problems\">All types</a></p>\n", help.html())),
        JSON => Json(help).into_response(),
        _ => help.text().into_response(),
    })
}

async fn list(headers: HeaderMap) -> Result<Response, Problem> {
    let kind = accept::chosen(&headers, &KINDS)?;
    let all = problem_types::ALL.iter().map(|kind| Help::from(*kind));
    Ok(match kind {
        HTML => {
            let mut rows = String::from("<h1>Types of problems</h1>\n<ul>\n");
            for kind in problem_types::ALL {
                let (slug, title) = (kind.slug(), kind.title());
                let _ = writeln!(rows, "<li><a href=\"problems/{slug}\">{slug}</a>: {title}</li>");
            }
            page("Types of problems", &format!("{rows}</ul>\n"))
        }
        JSON => Json(HelpList { items: all.collect() }).into_response(),
        _ => all.map(|help| help.text()).collect::<Vec<_>>().join("\n\n").into_response(),
    })
}

fn page(title: &str, content: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n\
         {content}</body>\n</html>\n"
    );
    ([PASSIVE, (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], page)
        .into_response()
}

/// Turns the Markdown of the help, backticks only, into HTML.
fn marked_up(text: &str) -> String {
    let mut html = String::new();
    for (n, part) in text.split('`').enumerate() {
        match n % 2 {
            0 => html.push_str(&part.replace('&', "&amp;").replace('<', "&lt;")),
            _ => {
                let _ = write!(html, "<code>{}</code>", part.replace('&', "&amp;").replace('<', "&lt;"));
            }
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_readable_as_text_and_as_a_page() {
        let help = Help::from(problem_types::FORBIDDEN);
        assert!(
            help.text().contains("/problems/forbidden, status 403\n\nThe token is valid"),
            "{}",
            help.text()
        );
        assert!(help.text().contains("\n\nNothing was changed.\n\n"), "{}", help.text());
        assert_eq!(marked_up("a `b<c` & d"), "a <code>b&lt;c</code> &amp; d");
        for kind in problem_types::ALL {
            assert_eq!(kind.meaning().matches('`').count() % 2, 0, "{}", kind.slug());
            assert_eq!(kind.remedy().matches('`').count() % 2, 0, "{}", kind.slug());
        }
    }
}
