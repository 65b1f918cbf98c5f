//! E-mail, by SMTP.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        self,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        extension::ClientId,
    },
};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{NotTaken, Unusable};
use crate::list::MessageText;

/// How long the sending of one message may take, unless the settings say otherwise.
pub const SMTP_LONGEST: Duration = Duration::from_secs(45);
/// How long a connection may take, and how long a server may take to say goodbye.
const SMTP_CONNECT_LONGEST: Duration = Duration::from_secs(10);
const SMTP_QUIT_LONGEST: Duration = Duration::from_secs(5);
/// What TLS says of a server that is not the one that is meant, or that takes no encrypted connection.
const TLS_REFUSALS: [&str; 3] =
    ["invalid peer certificate", "received fatal alert", "received corrupt message"];
/// Status codes that concern this deployment's login and not the message (RFC 4954): they are retried, because an operator
/// can correct the password.
const LOGIN_REFUSED: [u16; 4] = [530, 534, 535, 538];

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    /// `smtp://`
    None,
    /// `smtp://…?tls=required`
    StartTls,
    /// `smtps://`
    Tls,
}

/// A server for e-mail: `smtps://HOST`, `smtp://HOST:587?tls=required`, or `smtp://HOST:25` in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpUrl {
    host: String,
    port: u16,
    security: Security,
}

impl SmtpUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// What would fit; the URL is not repeated.
    pub fn parse(text: &str) -> Result<Self, Unusable> {
        let unusable = || {
            Unusable(
                "must be smtps://HOST, smtp://HOST:587?tls=required, or smtp://HOST (in the clear), without user and password"
                    .to_owned(),
            )
        };
        let url = Url::parse(text).map_err(|_| unusable())?;
        let security = match (url.scheme(), url.query()) {
            ("smtps", None) => Security::Tls,
            ("smtp", Some("tls=required")) => Security::StartTls,
            ("smtp", None) => Security::None,
            _ => return Err(unusable()),
        };
        let usual = match security {
            Security::Tls => 465,
            Security::StartTls => 587,
            Security::None => 25,
        };
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.fragment().is_none();
        match url.host_str() {
            Some(host) if is_bare && !host.is_empty() => {
                let host = host.trim_matches(['[', ']']).to_owned();
                Ok(Self { host, port: url.port().unwrap_or(usual), security })
            }
            _ => Err(unusable()),
        }
    }
}

/// Parses a sender: `Shop <orders@shop.example>`.
///
/// # Errors
/// What would fit.
pub fn sender(text: &str) -> Result<Mailbox, Unusable> {
    text.parse().map_err(|_| Unusable("must be an address such as Shop <orders@shop.example>".to_owned()))
}

/// A login at the server. Clones share the password, which may change while messages are sent.
#[derive(Debug, Clone)]
pub struct SmtpLogin {
    user: String,
    password: Arc<RwLock<SecretString>>,
}

impl SmtpLogin {
    /// Creates a login.
    pub fn new(user: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self { user: user.into(), password: Arc::new(RwLock::new(password.into())) }
    }

    /// Returns the password.
    pub fn password(&self) -> SecretString {
        self.password.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the password: the next message is sent with it, because each has a connection of its own.
    pub fn change_password(&self, password: impl Into<SecretString>) {
        *self.password.write().unwrap_or_else(PoisonError::into_inner) = password.into();
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(self.user.clone(), self.password().expose_secret().to_owned())
    }
}

/// The settings of e-mail.
#[derive(Debug, Clone)]
pub struct EmailSettings {
    /// The server.
    pub server: SmtpUrl,
    /// The login; `None`: the server needs none.
    pub login: Option<SmtpLogin>,
    /// A certificate in PEM that is trusted instead of those of the system.
    pub trusted: Option<Vec<u8>>,
    /// The sender of every message.
    pub from: Mailbox,
    /// How long the sending of one message may take.
    pub timeout: Duration,
}

/// Why a server cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusability {
    /// Its certificate, or the login, is refused, or it lacks what is needed: that does not pass by itself.
    #[error("{0}")]
    Refused(String),
    /// It does not answer, or not as it should.
    #[error("{0}")]
    Away(String),
}

/// Connects as for a message, logs in if there is a login, and sends nothing.
///
/// # Errors
/// [`Unusability`].
pub async fn check(settings: &EmailSettings, patience: Duration) -> Result<(), Unusability> {
    let mailer = Mailer::new(settings).map_err(|unusable| Unusability::Refused(unusable.0))?;
    match tokio::time::timeout(patience, mailer.connect()).await {
        Ok(Ok(mut connection)) => {
            tokio::spawn(async move { tokio::time::timeout(SMTP_QUIT_LONGEST, connection.abort()).await });
            Ok(())
        }
        Ok(Err(error)) => Err(unusability(&error)),
        Err(_) => Err(Unusability::Away(format!("no answer within {} s", patience.as_secs()))),
    }
}

fn unusability(error: &smtp::Error) -> Unusability {
    match error.status().map(u16::from) {
        Some(code) if LOGIN_REFUSED.contains(&code) => {
            Unusability::Refused(format!("the login is refused ({code})"))
        }
        // What it says may be long, or personal.
        Some(code) => Unusability::Away(format!("it answers {code}")),
        None if is_refused_by_tls(error) || error.is_client() => Unusability::Refused(error.to_string()),
        None => Unusability::Away(error.to_string()),
    }
}

/// Returns whether no encrypted connection was made, although the server is there.
fn is_refused_by_tls(error: &smtp::Error) -> bool {
    let said = error.to_string();
    error.is_tls() || TLS_REFUSALS.iter().any(|refusal| said.contains(refusal))
}

/// Sends e-mails, each by a connection of its own: a connection that was given up in the middle of a message may still
/// deliver answers, which the next message would take for its own.
pub(crate) struct Mailer {
    server: SmtpUrl,
    /// Unless messages are sent in the clear.
    tls: Option<TlsParameters>,
    login: Option<SmtpLogin>,
    from: Mailbox,
    timeout: Duration,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").finish_non_exhaustive()
    }
}

/// `Auto-Submitted` (RFC 3834): nobody's holiday notice answers it.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Mailer {
    pub(crate) fn new(settings: &EmailSettings) -> Result<Self, Unusable> {
        let tls = match settings.server.security {
            Security::None => None,
            Security::StartTls | Security::Tls => Some(tls(settings)?),
        };
        Ok(Self {
            server: settings.server.clone(),
            tls,
            login: settings.login.clone(),
            from: settings.from.clone(),
            timeout: settings.timeout,
        })
    }

    /// Hands a message to the server. Sent again, it has the same `Message-ID`.
    pub(crate) async fn send(&self, id: Uuid, to: &str, text: &MessageText) -> Result<(), NotTaken> {
        let to: Address = to.parse().map_err(|_| NotTaken::Refused("invalid_address".to_owned()))?;
        let message = self.message(id, to, text)?;
        match tokio::time::timeout(self.timeout, self.hand_over(&message)).await {
            Ok(Ok(mut connection)) => {
                // The message is taken, however the server says goodbye.
                tokio::spawn(
                    async move { tokio::time::timeout(SMTP_QUIT_LONGEST, connection.abort()).await },
                );
                Ok(())
            }
            Ok(Err(error)) => Err(not_taken(&error)),
            Err(_) => Err(NotTaken::Later("smtp_timeout".to_owned())),
        }
    }

    async fn hand_over(&self, message: &Message) -> Result<AsyncSmtpConnection, smtp::Error> {
        let mut connection = self.connect().await?;
        connection.send(message.envelope(), &message.formatted()).await?;
        Ok(connection)
    }

    /// Makes a connection that is secured and logged in as the settings say.
    async fn connect(&self) -> Result<AsyncSmtpConnection, smtp::Error> {
        let SmtpUrl { host, port, security } = &self.server;
        let name = ClientId::Domain(self.from.email.domain().to_owned());
        let wrapped = self.tls.clone().filter(|_| *security == Security::Tls);
        let bound = Some(SMTP_CONNECT_LONGEST.min(self.timeout));
        let mut connection =
            AsyncSmtpConnection::connect_tokio1((host.as_str(), *port), bound, &name, wrapped, None).await?;
        if let Some(tls) = self.tls.clone().filter(|_| *security == Security::StartTls) {
            connection.starttls(tls, &name).await?;
        }
        if let Some(login) = &self.login {
            connection.auth(DEFAULT_MECHANISMS, &login.credentials()).await?;
        }
        Ok(connection)
    }

    fn message(&self, id: Uuid, to: Address, text: &MessageText) -> Result<Message, NotTaken> {
        let builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(AutoSubmitted)
            .subject(text.subject.clone().unwrap_or_default());
        let html = text.html.clone().unwrap_or_default();
        let message = builder.multipart(MultiPart::alternative_plain_html(text.text.clone(), html));
        message.map_err(|_| NotTaken::Refused("invalid_message".to_owned()))
    }
}

fn tls(settings: &EmailSettings) -> Result<TlsParameters, Unusable> {
    let mut tls = TlsParameters::builder(settings.server.host.clone());
    if let Some(pem) = &settings.trusted {
        let certificate = Certificate::from_pem(pem)
            .map_err(|_| Unusable("smtp_ca_file: is no certificate in PEM".to_owned()))?;
        tls = tls.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    tls.build_rustls().map_err(|error| Unusable(format!("smtp_ca_file: {error}")))
}

fn not_taken(error: &smtp::Error) -> NotTaken {
    match error.status().map(u16::from) {
        Some(code) if error.is_permanent() && !LOGIN_REFUSED.contains(&code) => {
            NotTaken::Refused(format!("smtp_{code}"))
        }
        Some(code) => NotTaken::Later(format!("smtp_{code}")),
        None if error.is_timeout() => NotTaken::Later("smtp_timeout".to_owned()),
        None if is_refused_by_tls(error) => NotTaken::Later("smtp_tls".to_owned()),
        // The server cannot do something that is needed: STARTTLS, a login, an address that is not ASCII.
        None if error.is_client() => NotTaken::Later("smtp_unsupported".to_owned()),
        None => NotTaken::Later("smtp_unreachable".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_url_says_how_it_is_secured_and_holds_no_password() {
        let read = |text: &str| SmtpUrl::parse(text).map(|url| (url.host, url.port, url.security)).ok();
        let at = |host: &str, port, security| Some((host.to_owned(), port, security));
        assert_eq!(read("smtps://mail.example"), at("mail.example", 465, Security::Tls));
        assert_eq!(read("smtp://mail.example?tls=required"), at("mail.example", 587, Security::StartTls));
        assert_eq!(read("smtp://127.0.0.1:2525"), at("127.0.0.1", 2525, Security::None));
        assert_eq!(read("smtp://[::1]:2525"), at("::1", 2525, Security::None));
        for bad in [
            "mail.example",
            "http://mail.example",
            "smtp://u:p@mail.example",
            "smtp://mail.example?tls=opportunistic",
            "smtps://mail.example/path",
            "smtps://",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_text_of_a_message_becomes_a_header() {
        let from = sender("Shop <orders@shop.example>").unwrap();
        let server = SmtpUrl::parse("smtp://127.0.0.1").unwrap();
        let settings = EmailSettings { server, login: None, trusted: None, from, timeout: SMTP_LONGEST };
        let mailer = Mailer::new(&settings).unwrap();
        let text = MessageText {
            subject: Some("Your order\r\nBcc: all@example.org\r\n\r\nhi".to_owned()),
            text: "text".to_owned(),
            html: Some("<p>text</p>".to_owned()),
        };
        let id = Uuid::from_u128(7);
        let message = mailer.message(id, "a@b.org".parse().unwrap(), &text).unwrap();
        let formatted = String::from_utf8(message.formatted()).unwrap();
        assert!(!formatted.lines().any(|line| line.starts_with("Bcc")), "{formatted}");
        assert!(formatted.contains(&format!("Message-ID: <{id}@shop.example>\r\n")), "{formatted}");
        for bad in ["a@b.org\r\nBcc: c@d.org", "a@b.org, c@d.org", "a"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
