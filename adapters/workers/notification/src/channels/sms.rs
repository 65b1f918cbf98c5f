//! SMS, by a webhook of a provider (or of a small program in front of one): a POST that is signed as Standard Webhooks has
//! it, so that its receiver can verify it with that standard's libraries.

use std::{fmt, time::Duration};

use amends_webhooks::{SigningSecret, signature};
use chrono::Utc;
use reqwest::{Client, StatusCode, Url, header, redirect::Policy};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use super::{NotTaken, Unusable};

/// How long the receiver may take to answer, unless the settings say otherwise; and to be connected.
pub const SMS_ANSWER_LONGEST: Duration = Duration::from_secs(15);
const SMS_CONNECT_LONGEST: Duration = Duration::from_secs(5);
/// The settings of SMS.
#[derive(Debug, Clone)]
pub struct SmsSettings {
    /// Where messages are posted.
    pub url: Url,
    /// The secret that they are signed with: `whsec_` and base64.
    pub secret: SecretString,
    /// How long the receiver may take to answer.
    pub answer_timeout: Duration,
}

/// Posts SMS.
pub(crate) struct SmsWebhook {
    http: Client,
    url: Url,
    secret: SigningSecret,
}

impl fmt::Debug for SmsWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmsWebhook").finish_non_exhaustive()
    }
}

impl SmsWebhook {
    pub(crate) fn new(settings: &SmsSettings) -> Result<Self, Unusable> {
        let secret = SigningSecret::read(&settings.secret).map_err(|error| Unusable(error.to_string()))?;
        let http = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(SMS_CONNECT_LONGEST)
            .timeout(settings.answer_timeout)
            .build()
            .map_err(|error| Unusable(error.without_url().to_string()))?;
        Ok(Self { http, url: settings.url.clone(), secret })
    }

    /// Posts a message. Posted again, it has the same `webhook-id`.
    pub(crate) async fn send(&self, id: Uuid, to: &str, text: &str) -> Result<(), NotTaken> {
        let body = json!({ "to": to, "text": text }).to_string();
        let (id, at) = (id.to_string(), Utc::now().timestamp());
        let request = self
            .http
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(signature::ID, &id)
            .header(signature::TIMESTAMP, at)
            .header(signature::SIGNATURE, signature::signatures([&self.secret], &id, at, body.as_bytes()))
            .body(body);
        // Its body is not read: the status says all.
        let status = match request.send().await {
            Ok(answer) => answer.status(),
            Err(error) if error.is_timeout() => return Err(NotTaken::Later("sms_timeout".to_owned())),
            Err(_) => return Err(NotTaken::Later("sms_unreachable".to_owned())),
        };
        let reason = format!("sms_{}", status.as_u16());
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(NotTaken::Later(reason))
            }
            status if status.is_client_error() => Err(NotTaken::Refused(reason)),
            // A redirect is not followed: an operator has to check the URL.
            _ => Err(NotTaken::Later(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(secret: &str) -> Result<SmsWebhook, Unusable> {
        let url = Url::parse("https://sms.example/").unwrap();
        let answer_timeout = SMS_ANSWER_LONGEST;
        SmsWebhook::new(&SmsSettings { url, secret: secret.to_owned().into(), answer_timeout })
    }

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // HMAC-SHA-256 of "00000000-0000-0000-0000-000000000007.1614265330.{}" with the secret of the standard's examples.
        let SmsWebhook { secret, .. } = webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = Uuid::from_u128(7).to_string();
        assert_eq!(
            signature::signatures([&secret], &id, 1_614_265_330, b"{}"),
            "v1,h0DYyfXpQXCVZYDSTja5B2VgsJNDIpj/0rp1qxa/qZI="
        );
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_shown() {
        for bad in ["", "hunter2", "whsec_hunter2!", "whsec_aHVudGVyMg=="] {
            let why = webhook(bad).unwrap_err().to_string();
            assert!(why.contains("whsec_") && !why.contains("hunter2"), "{why}");
        }
    }
}
