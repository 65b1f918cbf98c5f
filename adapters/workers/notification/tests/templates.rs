//! What messages say: a snapshot of each.

use amends_notification::{Channel, LOCALES, TOPICS, preview};

#[test]
fn every_message_reads_as_its_snapshot_in_every_language() {
    for locale in LOCALES {
        for channel in Channel::ALL {
            let mut all = String::new();
            for topic in TOPICS {
                let message = preview(topic, channel, locale).unwrap();
                let subject =
                    message.subject.map(|subject| format!("Subject: {subject}\n\n")).unwrap_or_default();
                all += &format!("=== {topic}\n{subject}{}\n", message.text);
            }
            insta::assert_snapshot!(format!("{}_{locale}", channel.as_str()), all);
        }
    }
}

#[test]
fn an_e_mails_html_is_its_text_and_as_escaped_as_it_must_be() {
    let message = preview("order.fulfilled", Channel::Email, "en").unwrap();
    insta::assert_snapshot!("email_html", message.html.unwrap());
}
