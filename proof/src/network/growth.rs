//! Processes join and leave while orders run: each owns a part of the partitions, and does a part of the work.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use super::{
    Error,
    plan::{FIRST_MEMBERS, member},
    shares::{Group, Shares},
    site::Site,
};

/// How long a group may take to share out its partitions anew.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the work of all is counted.
const WORK: Duration = Duration::from_secs(10);

/// What was seen of one role.
#[derive(Debug, Clone)]
pub struct Growth {
    /// The role.
    pub role: &'static str,
    /// Who owns what with two processes.
    pub two: Shares,
    /// With three, and how long after its start.
    pub three: (Shares, Duration),
    /// After the third has left, and how long after its end.
    pub again: (Shares, Duration),
    /// What each of the three has done meanwhile: answers that an engine has taken, commands that a worker has executed.
    pub work: BTreeMap<String, u64>,
    /// What should not be so.
    pub broken: Vec<String>,
}

/// Has a third process of a role join and leave.
pub async fn grow(site: &mut Site, role: &'static str) -> Result<Growth, Error> {
    let group = Group::of(role, site.deployment.kafka.address(), site.places());
    let mut broken = Vec::new();
    let mut settle = async |members: usize| {
        let names: Vec<_> = (1..=members).map(|number| member(role, number)).collect();
        group.become_such(PATIENCE, |shares| shares.are_even(&names)).await.unwrap_or_else(|last| {
            broken.push(format!("{members} of {role} share unevenly: {last}"));
            (last, PATIENCE)
        })
    };
    let (two, _) = settle(FIRST_MEMBERS).await;
    let third = member(role, FIRST_MEMBERS + 1);
    site.spawn(&third)?;
    let three = settle(FIRST_MEMBERS + 1).await;
    site.ready(&third).await?;
    let before = work(site, role).await?;
    sleep(WORK).await;
    let mut work = work(site, role).await?;
    work.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0).min(*count));
    site.stop(&third).await;
    let again = settle(FIRST_MEMBERS).await;
    for (name, _) in work.iter().filter(|(_, count)| **count == 0) {
        broken.push(format!("{name} has done nothing in {} s", WORK.as_secs()));
    }
    Ok(Growth { role, two, three, again, work, broken })
}

/// Returns what each of the three processes of a role has done since its start.
async fn work(site: &Site, role: &str) -> Result<BTreeMap<String, u64>, Error> {
    let metric =
        if role == "engine" { "amends_engine_answers_total" } else { "amends_worker_commands_total" };
    let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS");
    let mut work = BTreeMap::new();
    for name in (1..=FIRST_MEMBERS + 1).map(|number| member(role, number)) {
        let url = format!("http://{}/metrics", site.address(&name));
        let text = async { http.get(&url).send().await?.error_for_status()?.text().await };
        let text =
            text.await.map_err(|error| Error::Unreadable { what: url.clone(), why: error.to_string() })?;
        work.insert(name, total(&text, metric));
    }
    Ok(work)
}

/// Adds up the series of a counter in Prometheus' format.
fn total(text: &str, metric: &str) -> u64 {
    let series = text
        .lines()
        .filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' '])));
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_one_counter_add_up() {
        let text = "# TYPE done counter\ndone{kind=\"a b\"} 2\ndone{kind=\"c\"} 3\ndone_twice{kind=\"c\"} 9\nother 4\n";
        assert_eq!((total(text, "done"), total(text, "other"), total(text, "none")), (5, 4, 0));
    }
}
