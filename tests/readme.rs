//! The README says what is true: its example is a test case, its table comes from the code. Its Rust is a doc test of this
//! package.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::FORMATS;
use fitment_merge::METHODS;
use fitment_tests::place::root;
use fitment_validate::servers::SERVERS;
use std::fs;

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn the_example_is_what_the_program_prints() {
    let case = text("tests/cli/example.trycmd");
    let block = case.split_once("```console\n").unwrap().1.split_once("\n```").unwrap().0.trim_end();
    assert!(
        text("README.md").contains(&format!("```console\n{block}\n```")),
        "copy tests/cli/example.trycmd"
    );
}

#[test]
fn the_table_of_formats_is_made_from_the_code() {
    let yes = |has: bool| if has { "yes" } else { "no" };
    let mut table =
        "| format | `--from`, `--to` | reads | writes | what | recognised by |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for format in FORMATS {
        table.push_str(&format!(
            "| {} | `{}` | {} | {} | {} | {} |\n",
            format.title,
            format.name,
            yes(format.read.is_some()),
            yes(format.write.is_some()),
            format.what,
            format.looked_for
        ));
    }
    assert_table("formats", &table);
}

#[test]
fn the_table_of_methods_is_made_from_the_code() {
    let mut table = "| `--method` | what | works on | rank of the result |\n|---|---|---|---|\n".to_owned();
    table.push_str("| none | the weighted sum, exactly | everything | Σ r |\n");
    for method in METHODS {
        let on = match (method.is_dense(), method.takes_any()) {
            (true, _) => "elements of dense updates",
            (false, true) => "factors, else dense updates",
            (false, false) => "factors",
        };
        let rank = match (method.is_dense(), method.has_largest_rank()) {
            (true, _) => "full, or `--rank`",
            (false, true) => "the largest r, or `--rank`",
            (false, false) => "Σ r at most, or `--rank`",
        };
        table.push_str(&format!("| `{}` | {} | {on} | {rank} |\n", method.name, method.what));
    }
    assert_table("methods", &table);
}

#[test]
fn the_table_of_servers_is_made_from_the_code() {
    let mut table = "| `--for` | server | its rules were read in |\n|---|---|---|\n".to_owned();
    for server in SERVERS {
        table.push_str(&format!("| `{}` | {} | {} |\n", server.name, server.named(), server.source));
    }
    assert_table("servers", &table);
}

/// The table between two marks of the README is the one made here; `BLESS=1` puts it there.
fn assert_table(name: &str, table: &str) {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let readme = text("README.md");
    let (before, rest) = readme.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    let wanted = format!("{before}{begin}{table}{end}{after}");
    if std::env::var_os("BLESS").is_some() {
        fs::write(root().join("README.md"), &wanted).unwrap();
    }
    assert!(text("README.md") == wanted, "BLESS=1 rewrites the table");
}
