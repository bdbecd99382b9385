//! Reads Rust source for the layout rules: its code, and the paths in it.
//!
//! It is not a parser: it replaces comments, literals and test modules by blanks and splits the rest into
//! words. Each character becomes one blank, so line numbers do not change.

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

/// The text with comments, literals and tests replaced by blanks.
pub(super) fn code(text: &str) -> String {
    without_tests(&without_literals(text))
}

/// Replaces comments, strings and characters by blanks.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_code) = match literal_len(rest, code.chars().next_back()) {
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

/// The length of the comment or literal at the start of `rest`, if there is one. `before` is the character
/// before it.
fn literal_len(rest: &str, before: Option<char>) -> Option<usize> {
    let until = |from: usize, end: &str| {
        let found = rest[from..].find(end);
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    let bytes = rest.as_bytes();
    match bytes[0] {
        b'/' if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
        b'/' if rest.starts_with("/*") => Some(until(2, "*/")),
        b'"' => Some(quoted_len(rest, b'"')),
        b'r' if !before.is_some_and(is_name_char) => {
            let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
            let is_raw = bytes.get(1 + hashes) == Some(&b'"');
            is_raw.then(|| until(hashes + 2, &format!("\"{}", "#".repeat(hashes))))
        }
        b'\'' => {
            let mut chars = rest.chars().skip(1);
            let is_char = chars.next()? == '\\' || chars.next()? == '\'';
            is_char.then(|| quoted_len(rest, b'\''))
        }
        _ => None,
    }
}

/// The length of a quoted literal, with its escapes.
fn quoted_len(rest: &str, quote: u8) -> usize {
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

/// Replaces items with `#[cfg(test)]` by blanks, to the end of their braces.
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

fn is_name_char(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The words of the code, each with its line.
pub(super) fn words(code: &str) -> Vec<Word<'_>> {
    let lines = code.lines().zip(1..);
    lines
        .flat_map(|(text, line)| words_in_line(text, line))
        .collect()
}

fn words_in_line(mut text: &str, line: usize) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    loop {
        text = text.trim_start();
        let Some(first) = text.chars().next() else {
            return words;
        };
        let length = match first {
            ':' if text.starts_with("::") => 2,
            _ if is_name_char(first) => text.find(|char| !is_name_char(char)).unwrap_or(text.len()),
            _ => first.len_utf8(),
        };
        let (word, rest) = text.split_at(length);
        words.push(Word { text: word, line });
        text = rest;
    }
}

/// All paths, with those in braces listed separately. In a module at depth `depth`, that many `super`s in a
/// row are the crate.
pub(super) fn paths<'a>(words: &[Word<'a>], depth: usize) -> Vec<Path<'a>> {
    let starts = (0..words.len()).filter(|at| *at == 0 || words[at - 1].text != "::");
    let paths = starts.filter_map(|at| {
        let (root, rest) = root(&words[at..], depth)?;
        let names = names(rest).into_iter();
        Some(names.map(move |Word { text: name, line }| Path { root, name, line }))
    });
    paths.flatten().collect()
}

/// The first name of a path, and the words after its `::`.
fn root<'a, 'w>(words: &'w [Word<'a>], depth: usize) -> Option<(&'a str, &'w [Word<'a>])> {
    let steps = words.chunks_exact(2);
    let supers = steps.take_while(|step| step[0].text == "super" && step[1].text == "::");
    match supers.count() {
        0 if words.get(1)?.text == "::" => Some((words[0].text, &words[2..])),
        supers if supers == depth => Some(("crate", &words[2 * supers..])),
        _ => None,
    }
}

/// The next name. In braces, the first name of each branch.
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
