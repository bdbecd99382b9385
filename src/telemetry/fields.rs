//! The fields of a line in the text log. Each is made [`plain`](mod@crate::sanitize), because some contain text that a peer chose,
//! such as the names in a certificate. JSON needs none of this, because it escapes.

use tracing_subscriber::{
    field::MakeExt,
    fmt::{FormatFields, format::debug_fn},
};

use crate::sanitize;

/// Formats `message name=value name=value`, without control characters.
pub(super) fn plain() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let fields = debug_fn(|out, field, value| {
        let value = sanitize::line(&format!("{value:?}"));
        match field.name() {
            "message" => out.write_str(&value),
            name => write!(out, "{name}={value}"),
        }
    });
    fields.delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_has_no_control_characters() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .fmt_fields(plain())
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.finish(), || {
            let name = "a\x1b]0;b\x07\n\u{202e}c";
            let _span = tracing::info_span!("span", %name).entered();
            tracing::info!(%name, figure = 1, "the name is {name}");
        });
        let lines = lines.0.lock().expect("no panic");
        let text = String::from_utf8_lossy(&lines);
        let plain = "a ]0;b   c";
        let (span, event) = text.trim_end().rsplit_once(": ").expect("two parts");
        assert!(span.contains(&format!("span{{name={plain}}}")), "{text}");
        assert_eq!(event, format!("the name is {plain} name={plain} figure=1"));
    }
}
