//! `amends saga`: lists, shows and explains sagas, plans actions, and applies plans.

use std::{
    io::{ErrorKind, Write as _},
    process,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    client::{Failure, RemoteApi},
    table::{pairs, table, text},
};
use crate::cli::{
    OutputFormat,
    saga::{List, Plan, Saga, What},
};

/// Interval at which a watched saga is read.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The states of sagas that have ended.
const ENDED: [&str; 2] = ["completed", "undone"];

/// Carries out a command.
pub(super) async fn run(options: &Saga) -> Result<(), Failure> {
    let api = RemoteApi::at(&options.remote)?;
    let print = |answer: &Value, for_people: fn(&Value) -> String| match options.remote.output {
        OutputFormat::Json => say(&format!("{answer:#}")),
        OutputFormat::Table => say(&for_people(answer)),
    };
    match &options.what {
        What::List(list) => print(&api.get("/admin/sagas", &query(list)).await?, listed)?,
        What::Show { id } => print(&api.get(&path(*id), &[]).await?, shown)?,
        What::Explain { id } => {
            print(&api.get(&format!("{}/explanation", path(*id)), &[]).await?, explained)?
        }
        What::Plan(plan) => print(&api.post("/admin/plans", Some(&request(plan)?)).await?, planned)?,
        What::Apply { plan } => print(&api.post(&applied(plan)?, None).await?, shown)?,
        What::Watch { id } => watch(&api, *id, options.remote.output).await?,
        What::Export { id } => {
            let saga = api.get(&path(*id), &[]).await?;
            for entry in saga["timeline"].as_array().into_iter().flatten() {
                say(&entry.to_string())?;
            }
        }
    }
    Ok(())
}

/// Prints a line. If the reader is gone (`| head`), the command has done its work.
fn say(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => process::exit(0),
        Err(error) => Err(Failure::new(1, format!("cannot print: {error}"))),
    }
}

fn path(id: Uuid) -> String {
    format!("/admin/sagas/{id}")
}

/// Returns the path of a plan. What is no hash would be another path.
fn applied(plan: &str) -> Result<String, Failure> {
    if plan.len() != 64 || !plan.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failure::new(
            2,
            "the plan must be the hash that `amends saga plan` prints: 64 characters",
        ));
    }
    Ok(format!("/admin/plans/{}", plan.to_ascii_lowercase()))
}

fn query(list: &List) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    let several = [
        ("state", &list.state),
        ("step", &list.step),
        ("label", &list.label),
        ("workflow", &list.workflow),
        ("participant", &list.participant),
        ("customer", &list.customer),
    ];
    for (name, values) in several {
        query.extend(values.iter().map(|value| (name, value.clone())));
    }
    query.extend(list.order.iter().map(|order| ("order", order.to_string())));
    query.extend(list.stuck.then(|| ("stuck", "true".to_owned())));
    query.extend(list.older_than.clone().map(|age| ("olderThan", age)));
    query.extend(list.after.map(|after| ("after", after.to_string())));
    query.push(("limit", list.limit.to_string()));
    query
}

fn request(plan: &Plan) -> Result<Value, Failure> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("action", Some(json!(plan.action.as_str())));
    set("saga", Some(json!(plan.id)));
    set("reason", Some(json!(plan.reason)));
    set("commandId", plan.command_id.map(|id| json!(id)));
    set("revision", plan.revision.map(|revision| json!(revision)));
    set("outcome", plan.outcome.map(|outcome| json!(outcome.as_str())));
    set("reference", plan.reference.as_ref().map(|reference| json!(reference)));
    set("name", plan.name.as_ref().map(|name| json!(name)));
    let payload = plan.payload.as_ref().map(|text| serde_json::from_str(text)).transpose();
    set("payload", payload.map_err(|error| Failure::new(2, format!("--payload is no JSON: {error}")))?);
    Ok(Value::Object(body))
}

fn items<'a>(answer: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    answer[field].as_array().into_iter().flatten()
}

fn listed(answer: &Value) -> String {
    const COLUMNS: [&str; 7] = ["id", "state", "label", "step", "since", "reason", "workflow"];
    let row = |saga: &Value| COLUMNS.iter().map(|column| text(&saga[*column])).collect();
    let rows: Vec<Vec<String>> = items(answer, "items").map(row).collect();
    let mut said = table(&COLUMNS, &rows);
    if let Some(next) = answer["next"].as_str() {
        said.push_str(&format!("\nmore: --after {next}"));
    }
    said
}

fn shown(saga: &Value) -> String {
    const FIELDS: [&str; 11] = [
        "id",
        "businessKey",
        "workflow",
        "state",
        "label",
        "headingFor",
        "step",
        "since",
        "reason",
        "revision",
        "traceId",
    ];
    let mut said: Vec<(&str, String)> = FIELDS.iter().map(|field| (*field, text(&saga[*field]))).collect();
    said.extend(items(saga, "waitsFor").map(|wait| ("waitsFor", waited(wait))));
    said.push(("holds", held(items(&saga["holds"], "certain"))));
    said.push(("mayHold", held(items(&saga["holds"], "possible"))));
    let actions: Vec<String> = items(saga, "actions").map(text).collect();
    said.push(("actions", or_none(actions.join(", "))));
    let rows: Vec<Vec<String>> = items(saga, "timeline")
        .map(|entry| ["revision", "at", "type", "step", "detail"].map(|field| text(&entry[field])).into())
        .collect();
    let timeline = table(&["revision", "at", "what", "step", "detail"], &rows);
    format!("{}\n\n{timeline}", pairs(&said))
}

fn waited(wait: &Value) -> String {
    match wait.get("signal") {
        Some(signal) => format!("the signal {}, since {}", text(signal), text(&wait["since"])),
        None => format!(
            "{} {}, attempt {}, command {}, since {}, parked: {}",
            text(&wait["step"]),
            text(&wait["command"]),
            text(&wait["attempt"]),
            text(&wait["commandId"]),
            text(&wait["since"]),
            text(&wait["parked"]),
        ),
    }
}

fn held<'a>(holdings: impl Iterator<Item = &'a Value>) -> String {
    let each =
        |held: &Value| format!("{} {} {}", text(&held["amount"]), text(&held["unit"]), text(&held["kind"]));
    or_none(holdings.map(each).collect::<Vec<_>>().join(", "))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "nothing".to_owned() } else { text }
}

fn explained(told: &Value) -> String {
    let mut said = vec![("kind", text(&told["kind"]))];
    let participant = &told["participant"];
    if participant.is_object() {
        let fields = ["name", "lag", "lastReplyAt", "breaker"].map(|field| text(&participant[field]));
        let [name, lag, last, breaker] = fields;
        said.push(("participant", format!("{name}: lag {lag}, last answer {last}, breaker {breaker}")));
    }
    let next = &told["next"];
    let next = next.is_object().then(|| format!("{} at {}", text(&next["what"]), text(&next["at"])));
    said.push(("next", next.unwrap_or_else(|| "nothing by itself".to_owned())));
    said.push(("holds", held(items(&told["holds"], "certain"))));
    said.push(("mayHold", held(items(&told["holds"], "possible"))));
    for action in items(told, "actions") {
        let is_legal = action["legal"] == true;
        let what = if is_legal { "possible".to_owned() } else { format!("no: {}", text(&action["why"])) };
        said.push(("action", format!("{}: {what}", text(&action["action"]))));
    }
    format!("{}\n\n{}", text(&told["sentence"]), pairs(&said))
}

fn planned(plan: &Value) -> String {
    let effects = &plan["effects"];
    let label = items(effects, "label").map(text).collect::<Vec<_>>().join(" -> ");
    let timers: Vec<String> = items(effects, "timers")
        .map(|timer| format!("{} at {}", text(&timer["what"]), text(&timer["at"])))
        .collect();
    let commands: Vec<String> = items(effects, "commands").map(text).collect();
    let all = ["money", "stock", "other"].into_iter().flat_map(|field| items(effects, field));
    let said = [
        ("saga", text(&plan["saga"])),
        ("revision", text(&plan["revision"])),
        ("label", label),
        ("sends", or_none(commands.join(", "))),
        ("changes", held(all)),
        ("then", or_none(timers.join(", "))),
        ("reversible", text(&effects["reversible"])),
        ("expires", text(&plan["expiresAt"])),
        ("plan", text(&plan["plan"])),
    ];
    format!("{}\n\nNothing is changed yet. To do it: amends saga apply {}", pairs(&said), text(&plan["plan"]))
}

/// Prints each new entry of a saga's timeline until it has ended.
async fn watch(api: &RemoteApi, id: Uuid, output: OutputFormat) -> Result<(), Failure> {
    let mut last = 0;
    loop {
        let saga = api.get(&path(id), &[]).await?;
        for entry in items(&saga, "timeline").filter(|entry| entry["revision"].as_u64() > Some(last)) {
            match output {
                OutputFormat::Json => say(&entry.to_string())?,
                OutputFormat::Table => {
                    let fields =
                        ["revision", "at", "type", "step", "detail"].map(|field| text(&entry[field]));
                    say(&fields.join("  "))?;
                }
            }
        }
        last = saga["revision"].as_u64().unwrap_or(last);
        let has_ended = saga["state"].as_str().is_some_and(|state| ENDED.contains(&state));
        if has_ended && items(&saga, "waitsFor").next().is_none() {
            return Ok(());
        }
        sleep(WATCH_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::saga::{Action, Outcome};

    #[test]
    fn a_plan_names_only_what_was_given() {
        let id = Uuid::nil();
        let plan = |action| Plan {
            action,
            id,
            reason: "why".to_owned(),
            command_id: None,
            revision: None,
            outcome: None,
            reference: None,
            name: None,
            payload: None,
        };
        let cancel = json!({ "action": "cancel", "saga": id, "reason": "why" });
        assert_eq!(request(&plan(Action::Cancel)).unwrap(), cancel);
        let resolve =
            Plan { outcome: Some(Outcome::NotDone), reference: Some("T-1".into()), ..plan(Action::Resolve) };
        assert_eq!(request(&resolve).unwrap()["outcome"], "notDone");
        let signal = Plan { payload: Some("{".into()), ..plan(Action::Signal) };
        assert_eq!(request(&signal).unwrap_err().status, 2);
    }

    #[test]
    fn what_is_no_hash_is_no_plan() {
        assert_eq!(applied(&"aB".repeat(32)).unwrap(), format!("/admin/plans/{}", "ab".repeat(32)));
        for bad in ["", "../sagas", &"g".repeat(64)] {
            assert_eq!(applied(bad).unwrap_err().status, 2, "{bad}");
        }
    }
}
