//! Parses the certificate names that proxies send: `x-forwarded-client-cert` by Envoy's grammar, and `l5d-client-id`.
//!
//! Envoy and Istio append an element for each hop, so only the last one comes from the trusted proxy. Commas separate elements,
//! semicolons separate their `key=value` pairs, and a value can be quoted, with `\"` for a quote in it.

/// The URIs and DNS names of the last element of all fields. `None` if the last element is malformed.
pub(super) fn last_names<'a>(fields: impl IntoIterator<Item = &'a str>) -> Option<Vec<String>> {
    let last = fields.into_iter().last()?;
    let mut elements = split(last, ',')?;
    let names = split(elements.pop()?, ';')?.into_iter().map(name_of);
    let names = names.collect::<Option<Vec<_>>>()?;
    Some(names.into_iter().flatten().collect())
}

/// Splits at separators outside quotes. `None` if a quote is not closed.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (index, char) in text.char_indices() {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if char == separator && !is_quoted => {
                parts.push(&text[start..index]);
                start = index + char.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// The value of a pair whose key names the caller. `Some(None)` for every other key.
fn name_of(pair: &str) -> Option<Option<String>> {
    let (key, value) = pair.trim().split_once('=')?;
    let is_name = ["uri", "dns"].iter().any(|it| key.eq_ignore_ascii_case(it));
    let value = unquote(value)?;
    Some(Some(value).filter(|value| is_name && !value.is_empty()))
}

fn unquote(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let (mut text, mut chars) = (String::new(), quoted.strip_suffix('"')?.chars());
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.push(chars.next()?),
            '"' => return None,
            _ => text.push(char),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVOY: &str = "By=http://frontend.lyft.com;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;Subject=\"/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client\";URI=http://testclient.lyft.com";

    fn names(fields: &[&str]) -> Option<Vec<String>> {
        last_names(fields.iter().copied())
    }

    fn some(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).into()).collect())
    }

    #[test]
    fn the_last_element_of_the_last_field_names_the_caller() {
        for (fields, expected) in [
            (&[ENVOY][..], some(&["http://testclient.lyft.com"])),
            (&["URI=a,URI=b"], some(&["b"])),
            (&["URI=a", "URI=b"], some(&["b"])),
            (
                &["URI=a,URI=b", "Hash=1;URI=c;DNS=d;DNS=e"],
                some(&["c", "d", "e"]),
            ),
            (&["uri=a;dns=b"], some(&["a", "b"])),
            (&["URI=a, URI=b"], some(&["b"])),
            (&["URI=a,Hash=1"], some(&[])),
            (&["URI="], some(&[])),
            (&[], None),
        ] {
            assert_eq!(names(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn separators_inside_quotes_are_ignored() {
        for (field, expected) in [
            (r#"URI=a;Subject="CN=x,URI=b;DNS=c""#, some(&["a"])),
            (r#"Subject="x\",URI=b";URI=a"#, some(&["a"])),
            (r#"Subject="x\\";URI=a"#, some(&["a"])),
            (r#"URI="a,b;c=\"d\"""#, some(&["a,b;c=\"d\""])),
        ] {
            assert_eq!(names(&[field]), expected, "{field}");
        }
    }

    #[test]
    fn malformed_fields_name_nobody() {
        for field in [
            "",
            "URI",
            r#"URI="a"#,
            r#"URI=a"b"#,
            r#"URI="a"b"#,
            "URI=a,",
            "URI=a;",
        ] {
            assert_eq!(names(&[field]), None, "{field}");
        }
    }
}
