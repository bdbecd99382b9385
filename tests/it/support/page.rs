//! Blocks of a documentation page that are made from the code. A block is between the comments `<!-- NAME: begin -->` and
//! `<!-- NAME: end -->`. If the variable `WRITE_DOCS` is set, a block is written; otherwise it is compared.

use std::{fs, path::Path};

/// Compares the block `name` of the page with `made`, or writes it.
pub(crate) fn check(page: &str, name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).expect("a page");
    let (begin, end) = (
        format!("<!-- {name}: begin -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let (before, rest) = text.split_once(&begin).expect("the block begins");
    let (block, after) = rest.split_once(&end).expect("the block ends");
    let made = format!("\n{}\n\n", made.trim());
    if std::env::var_os("WRITE_DOCS").is_some() {
        let whole = format!("{before}{begin}{made}{end}{after}");
        fs::write(&path, whole).expect("the page can be written");
        return;
    }
    assert!(
        block == made,
        "{page} is stale: run docs/generate. The block {name} should be:\n{made}"
    );
}
