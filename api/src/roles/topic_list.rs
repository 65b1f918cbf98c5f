//! `amends topics`: lists the topics and access control lists of a deployment, and creates what is missing.

use amends_kafka::{acls, topics::ensure};
use anyhow::{Context, Result};

use crate::{cli::Topics, process, settings::Settings, topics};

/// Prints them; with `apply`, creates them first.
pub async fn run(settings: &Settings, options: &Topics) -> Result<()> {
    let wanted = topics::all(settings);
    let entries = topics::acls(settings, |role| options.principal.replace("{role}", role));
    if options.apply {
        let kafka = process::kafka(settings, settings.brokers()?.to_owned());
        amends_kafka::check(&kafka, settings.start_timeout).await.context("setting kafka_brokers")?;
        ensure(&kafka, &wanted, settings.start_timeout).await?;
        if options.acls {
            acls::create(&kafka, &entries, settings.start_timeout).await?;
        }
    }
    if options.acls {
        for entry in &entries {
            println!("{entry}");
        }
    } else {
        for topic in &wanted {
            println!("{} {}", topic.name, topic.partitions);
        }
    }
    if options.apply {
        let what = if options.acls { " and their access control lists" } else { "" };
        eprintln!("amends: the topics{what} are there");
    }
    Ok(())
}
