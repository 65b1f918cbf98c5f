//! Messages to customers: what the settings say about sending them, whether the mail server takes them, and how they read.

use std::{fs, path::Path, time::Duration};

use amends_notification::{
    Channel, SendingSettings,
    channels::{
        email::{self, EmailSettings, SMTP_LONGEST, SmtpLogin, SmtpUrl, Unusability, sender},
        sms::{SMS_ANSWER_LONGEST, SmsSettings},
    },
};
use anyhow::{Context, Result, anyhow};
use reqwest::Url;
use secrecy::SecretString;

use crate::{
    cli::Notify,
    secrets::{FollowedFile, Follower},
    settings::{SecretFile, Settings, secret_in},
};

/// How long a starting worker waits for a mail server, without which it can start.
const MAIL_PATIENCE: Duration = Duration::from_secs(5);

/// Returns what messages are sent with. Secrets are read from their files.
///
/// # Errors
/// A file cannot be read.
pub fn sending(settings: &Settings) -> Result<SendingSettings> {
    Ok(SendingSettings {
        email: email(settings)?,
        sms: sms(settings)?,
        locale: settings.notification_locale.clone(),
        patience: settings.notification_patience,
        keeps_previews: settings.notification_previews,
    })
}

/// Connects once to the mail server: it may be away, for messages wait, but a wrong certificate or password stops the start.
///
/// # Errors
/// The server refuses this program, or this program it.
pub async fn check_mail(sending: &SendingSettings) -> Result<()> {
    let Some(email) = &sending.email else { return Ok(()) };
    match email::check(email, MAIL_PATIENCE).await {
        Err(refused @ Unusability::Refused(_)) => {
            Err(anyhow!(refused).context("setting smtp_url: the mail server cannot be used"))
        }
        _ => Ok(()),
    }
}

fn email(settings: &Settings) -> Result<Option<EmailSettings>> {
    let Some((url, from)) = settings.smtp_url.as_ref().zip(settings.mail_from.as_ref()) else {
        return Ok(None);
    };
    let login = match (&settings.smtp_user, &settings.smtp_password_file) {
        (Some(user), Some(file)) => Some(SmtpLogin::new(user.clone(), secret("smtp_password_file", file)?)),
        _ => None,
    };
    let trusted = settings.smtp_ca_file.as_ref().map(|file| bytes("smtp_ca_file", file)).transpose()?;
    Ok(Some(EmailSettings {
        server: SmtpUrl::parse(url)?,
        login,
        trusted,
        from: sender(from)?,
        timeout: SMTP_LONGEST,
    }))
}

fn sms(settings: &Settings) -> Result<Option<SmsSettings>> {
    let Some((url, file)) = settings.sms_webhook_url.as_ref().zip(settings.sms_webhook_secret_file.as_ref())
    else {
        return Ok(None);
    };
    Ok(Some(SmsSettings {
        url: Url::parse(url)?,
        secret: secret("sms_webhook_secret_file", file)?,
        answer_timeout: SMS_ANSWER_LONGEST,
    }))
}

/// Returns the files of passwords that a sender with these settings follows. The secret that signs SMS is none: whoever
/// verifies them would have to take both for a while.
pub fn followed(settings: &Settings, sending: &SendingSettings) -> Vec<FollowedFile> {
    let login = sending.email.as_ref().and_then(|email| email.login.clone());
    let followed = login.zip(settings.smtp_password_file.clone()).map(|(login, path)| FollowedFile {
        setting: "smtp_password_file".to_owned(),
        file: SecretFile { path, content: login.password() },
        follower: Follower::Mail(login),
    });
    followed.into_iter().collect()
}

/// Reads a secret: the file's text, without the line's end.
fn secret(key: &str, file: &Path) -> Result<SecretString> {
    secret_in(file).map(SecretString::from).map_err(|why| anyhow!("setting {key}: {why}"))
}

fn bytes(key: &str, file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("setting {key}: reading {}", file.display()))
}

/// Returns a message about an order of an example, as a person reads it.
///
/// # Errors
/// There is no such template.
pub fn preview(what: &Notify) -> Result<String> {
    let Notify::Preview { template, channel, locale, html } = what;
    let channel = Channel::ALL.into_iter().find(|known| known.as_str() == channel);
    let channel = channel.context("there is no such channel")?;
    let message = amends_notification::preview(template, channel, locale)?;
    Ok(match (message.subject, message.html) {
        (_, Some(page)) if *html => page,
        (Some(subject), _) => format!("Subject: {subject}\n\n{}", message.text.trim_end()),
        (None, _) => message.text,
    })
}
