// SPDX-License-Identifier: GPL-2.0

//! Finding functions in C code.

/// Finds the definitions of a C function. There are several if the definition depends on the
/// configuration. A definition ends with the first line that is just `}`, or is one line.
pub fn bodies<'a>(text: &'a str, function: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let from = &text[start..];
        start += line.len();
        // A declaration ends before anything is opened.
        let opened = from.find(['{', ';']);
        let Some(opened) = opened.filter(|at| from[*at..].starts_with('{')) else {
            continue;
        };
        if line.starts_with([' ', '\t', '#', '/', '*', '}']) || !calls(line, function) {
            continue;
        }
        let rest = from[opened..].lines().next().unwrap_or_default();
        let end = if rest.ends_with('}') {
            opened + rest.len()
        } else {
            from.find("\n}\n").map_or(from.len(), |end| end + 3)
        };
        found.push(&from[..end]);
    }
    found
}

/// Whether a line has the name of a function, followed by its arguments.
fn calls(line: &str, function: &str) -> bool {
    line.match_indices(function).any(|(at, name)| {
        let part = |c: char| c == '_' || c.is_ascii_alphanumeric();
        !line[..at].ends_with(part) && line[at + name.len()..].starts_with('(')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_functions() {
        let text = "int f(void);\nint\nf(void)\n{\n\tg();\n\tif (x) {\n\t}\n}\n\
                    static int my_f(int a)\n{\n\treturn f();\n}\n\
                    static inline int f(void) { return 0; }\n/* f() { */\n#define f() {\n\
                    int g(void)\n{\n\tf();\n}\nEXPORT_SYMBOL(f);\n";
        let found = [
            "f(void)\n{\n\tg();\n\tif (x) {\n\t}\n}\n",
            "static inline int f(void) { return 0; }",
        ];
        assert_eq!(bodies(text, "f"), found);
        assert_eq!(bodies(text, "g"), ["int g(void)\n{\n\tf();\n}\n"]);
        assert!(bodies(text, "h").is_empty());
    }
}
