//! Rust source as far as the house's rules need it: what is code, and which paths it names.
//!
//! No parser: comments, literals and test modules are blanked out, and what is left is cut into words.
//! A blank takes the place of each character, so that lines keep their numbers.

/// One word of code: a name or a number, `::`, or any other character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

/// The first two names of a path, such as `crate::call::reply` or `std::env`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    pub(super) root: &'a str,
    pub(super) name: &'a str,
    pub(super) line: usize,
}

/// The text with all that is no code of the product blanked out.
pub(super) fn code(text: &str) -> String {
    without_tests(&without_prose(text))
}

/// Without comments, strings and characters.
fn without_prose(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_code) = match prose(rest, code.chars().next_back()) {
            Some(length) => (length, false),
            None => (first.len_utf8(), true),
        };
        let (taken, left) = rest.split_at(length);
        let keep = |char| if is_code || char == '\n' { char } else { ' ' };
        code.extend(taken.chars().map(keep));
        rest = left;
    }
    code
}

/// How many bytes of comment or literal `rest` begins with, if it does; `before` stands before it.
fn prose(rest: &str, before: Option<char>) -> Option<usize> {
    let until = |from: usize, end: &str| {
        let found = rest[from..].find(end);
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    let bytes = rest.as_bytes();
    match bytes[0] {
        b'/' if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
        b'/' if rest.starts_with("/*") => Some(until(2, "*/")),
        b'"' => Some(quoted(rest, b'"')),
        b'r' if !before.is_some_and(is_of_name) => {
            let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
            let is_raw = bytes.get(1 + hashes) == Some(&b'"');
            is_raw.then(|| until(hashes + 2, &format!("\"{}", "#".repeat(hashes))))
        }
        b'\'' => {
            let mut chars = rest.chars().skip(1);
            let is_char = chars.next()? == '\\' || chars.next()? == '\'';
            is_char.then(|| quoted(rest, b'\''))
        }
        _ => None,
    }
}

/// The length of a literal between quotes, with its escapes.
fn quoted(rest: &str, quote: u8) -> usize {
    let mut bytes = rest.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            _ if byte == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Without what `#[cfg(test)]` stands before: all up to the end of its braces.
fn without_tests(code: &str) -> String {
    let Some(start) = code.find("#[cfg(test)]") else {
        return code.to_owned();
    };
    let mut depth = 0;
    let end = code[start..].find(|char| {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(char, '}' | ';')
    });
    let end = end.map_or(code.len(), |at| start + at + 1);
    let blank = |char| if char == '\n' { '\n' } else { ' ' };
    let blanked: String = code[start..end].chars().map(blank).collect();
    format!("{}{blanked}{}", &code[..start], without_tests(&code[end..]))
}

fn is_of_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The words of code, each with its line.
pub(super) fn words(code: &str) -> Vec<Word<'_>> {
    let lines = code.lines().zip(1..);
    lines.flat_map(|(text, line)| in_line(text, line)).collect()
}

fn in_line(mut text: &str, line: usize) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    loop {
        text = text.trim_start();
        let Some(first) = text.chars().next() else {
            return words;
        };
        let length = match first {
            ':' if text.starts_with("::") => 2,
            _ if is_of_name(first) => text.find(|char| !is_of_name(char)).unwrap_or(text.len()),
            _ => first.len_utf8(),
        };
        let (word, rest) = text.split_at(length);
        words.push(Word { text: word, line });
        text = rest;
    }
}

/// All paths, those in braces one by one. In a file `depth` modules below the crate, as many `super`s
/// in a row are the crate.
pub(super) fn paths<'a>(words: &[Word<'a>], depth: usize) -> Vec<Path<'a>> {
    let starts = (0..words.len()).filter(|at| *at == 0 || words[at - 1].text != "::");
    let paths = starts.filter_map(|at| {
        let (root, rest) = root(&words[at..], depth)?;
        let names = names(rest).into_iter();
        Some(names.map(move |Word { text: name, line }| Path { root, name, line }))
    });
    paths.flatten().collect()
}

/// The name that a path begins with, and what follows its `::`.
fn root<'a, 'w>(words: &'w [Word<'a>], depth: usize) -> Option<(&'a str, &'w [Word<'a>])> {
    let steps = words.chunks_exact(2);
    let supers = steps.take_while(|step| step[0].text == "super" && step[1].text == "::");
    match supers.count() {
        0 if words.get(1)?.text == "::" => Some((words[0].text, &words[2..])),
        supers if supers == depth => Some(("crate", &words[2 * supers..])),
        _ => None,
    }
}

/// The name that stands next; of braces, the first name of each branch.
fn names<'a>(words: &[Word<'a>]) -> Vec<Word<'a>> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut is_next = true;
    for word in words {
        match word.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => is_next = depth == 1,
            _ if is_next => {
                names.push(*word);
                is_next = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}
