//! Test outcomes as JUnit XML, which build servers show: one suite a policy file, one case a test case.
//!
//! A known gap is a skipped case, a closed one passes. Source: the JUnit schema as Jenkins and GitLab
//! read it (testsuites, testsuite, testcase, failure, skipped).

use std::fmt::Write;

use sluice_policies::{CaseResult, TestCase, TestReport};

/// The whole document.
pub(super) fn document(report: &TestReport) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in report.cases.chunk_by(|a, b| a.file == b.file) {
        write_suite(&mut out, suite);
    }
    out.push_str("</testsuites>\n");
    out
}

fn write_suite(out: &mut String, cases: &[TestCase]) {
    let count = |is: fn(&CaseResult) -> bool| cases.iter().filter(|case| is(&case.result)).count();
    let failures = count(|result| matches!(result, CaseResult::Fail(_)));
    let skipped = count(|result| matches!(result, CaseResult::KnownGap(_)));
    let name = escaped(&cases[0].file);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">",
        cases.len()
    );
    cases.iter().for_each(|case| write_case(out, case));
    out.push_str("  </testsuite>\n");
}

fn write_case(out: &mut String, case: &TestCase) {
    let TestCase { file, line, rule, number, result } = case;
    let (file, rule) = (escaped(file), escaped(rule.as_deref().unwrap_or("destination")));
    let _ = write!(
        out,
        "    <testcase classname=\"{rule}\" name=\"{file}:{line} case {number}\" file=\"{file}\" \
         line=\"{line}\""
    );
    let _ = match result {
        CaseResult::Pass | CaseResult::ClosedGap => writeln!(out, "/>"),
        CaseResult::Fail(message) => {
            writeln!(out, "><failure message=\"{}\"/></testcase>", escaped(message))
        }
        CaseResult::KnownGap(message) => {
            writeln!(out, "><skipped message=\"known gap: {}\"/></testcase>", escaped(message))
        }
    };
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no way to write other control characters.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_element() {
        let case = |file: &str, rule: Option<&str>, result| TestCase {
            file: file.to_owned(),
            line: 7,
            rule: rule.map(str::to_owned),
            number: 1,
            result,
        };
        let report = TestReport {
            cases: vec![
                case("packs/a.yaml", Some("A-1"), CaseResult::Pass),
                case(
                    "packs/a.yaml",
                    Some("A-1"),
                    CaseResult::Fail("got <\"none\"> & more\u{7}".into()),
                ),
                case("site.yaml", None, CaseResult::KnownGap("no".into())),
            ],
            ..TestReport::default()
        };
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites>
  <testsuite name=\"packs/a.yaml\" tests=\"2\" failures=\"1\" skipped=\"0\">
    <testcase classname=\"A-1\" name=\"packs/a.yaml:7 case 1\" file=\"packs/a.yaml\" line=\"7\"/>
    <testcase classname=\"A-1\" name=\"packs/a.yaml:7 case 1\" file=\"packs/a.yaml\" line=\"7\"><failure message=\"got &lt;&quot;none&quot;&gt; &amp; more \"/></testcase>
  </testsuite>
  <testsuite name=\"site.yaml\" tests=\"1\" failures=\"0\" skipped=\"1\">
    <testcase classname=\"destination\" name=\"site.yaml:7 case 1\" file=\"site.yaml\" line=\"7\"><skipped message=\"known gap: no\"/></testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(document(&report), expected);
    }
}
