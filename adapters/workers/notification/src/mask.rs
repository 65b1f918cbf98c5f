//! Masked addresses: enough for a person to recognise their own, too little to write to.

/// Returns `m***@e***.org` of an e-mail address, and `+4***7` of a telephone number.
pub(crate) fn masked(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => {
            let (name, top) = domain.rsplit_once('.').unwrap_or((domain, ""));
            let dot = if top.is_empty() { "" } else { "." };
            format!("{}***@{}***{dot}{top}", first(local), first(name))
        }
        None => {
            let start: String = address.chars().take(2).collect();
            let end = address.chars().skip(2).last().map(String::from).unwrap_or_default();
            format!("{start}***{end}")
        }
    }
}

fn first(text: &str) -> String {
    text.chars().take(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_little_is_left() {
        for (address, shown) in [
            ("marker@example.org", "m***@e***.org"),
            ("a@b.co.uk", "a***@b***.uk"),
            ("root@localhost", "r***@l***"),
            ("\"a@b\"@c.org", "\"***@c***.org"),
            ("+4366455566677", "+4***7"),
            ("+1", "+1***"),
            ("", "***"),
        ] {
            assert_eq!(masked(address), shown);
        }
    }
}
