//! Removes passwords from URLs in texts.

const HIDDEN: &str = "<hidden>";

/// Returns the text without the user and password of any URL in it. A password may contain any character, so everything
/// up to the last `@` of the line is removed.
pub fn redacted(text: &str) -> String {
    let line = |line: &str| {
        let Some(begin) = line.find("://").map(|at| at + "://".len()) else { return line.to_owned() };
        match line[begin..].rfind('@') {
            Some(end) => format!("{}{HIDDEN}{}", &line[..begin], &line[begin + end..]),
            None => line.to_owned(),
        }
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_password_is_made_of_it_is_hidden() {
        for password in ["hunter2", "h@nter2", "h/nter 2", "h'nter\"2", "h\\nter:2"] {
            let text = format!("invalid: \"postgres://u:{password}@db:5432/d\", expected\nanother line\n");
            let shown = redacted(&text);
            assert_eq!(shown, "invalid: \"postgres://<hidden>@db:5432/d\", expected\nanother line\n");
        }
    }

    #[test]
    fn a_url_without_one_is_shown() {
        for text in ["http://127.0.0.1:8080/api/orders", "nothing of the kind", "me@example.org"] {
            assert_eq!(redacted(text), text);
        }
    }
}
