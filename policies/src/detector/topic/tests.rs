//! What the topic model reads, and what training makes of rows.

use super::*;
use crate::detector::Scanner;
use crate::detector::compile::Compiled;
use crate::detector::lexicon::LexiconBuilder;

/// The scores of all passages of a text by the shipped model, also of harmless ones.
fn scores(text: &str) -> Vec<Passage> {
    let compiled = Compiled::new(Vec::new()).unwrap();
    let reading = compiled.read(text);
    compiled.topics().all_passages(&reading, &[])
}

#[test]
fn a_name_counts_as_a_name_and_a_number_by_its_length() {
    let one = scores("Gerald Foster had a bad fall, see page 4417 of his chart, he is on morphine");
    let other =
        scores("Pamela Turner had a bad fall, see page 9028 of his chart, he is on morphine");
    assert_eq!(one[0].score, other[0].score);
}

#[test]
fn a_long_text_is_read_passage_by_passage() {
    let harmless = "The train leaves at nine and the museum opens at ten on most days. ".repeat(40);
    let matter =
        "My sister stopped taking her pills, she hears voices and the ward wants to section her.";
    let text = format!("{harmless}{matter} {harmless}");
    let passages = scores(&text);
    assert!(passages.len() > 20);
    let strongest = passages.iter().max_by(|a, b| a.score[0].total_cmp(&b.score[0])).unwrap();
    assert!(strongest.range.contains(&(harmless.len() + 20)), "{strongest:?}");
}

#[test]
fn a_model_file_that_is_not_one_is_refused_with_the_line() {
    let lexicon = LexiconBuilder::default().build();
    let parse = |file: &str| TopicModel::parse(file, &lexicon).map(|_| ());
    assert_eq!(
        parse("# comment\nsalary\t1\t2\t3\t4\t5\t6\n!phone !iban\t1\t2\t3\t4\t5\t6\n"),
        Ok(())
    );
    assert_eq!(parse("# comment\nsalary\t1\t2\t3\t4\t5\n"), Err(2));
    assert_eq!(parse("salary\t1\t2\t3\t4\t5\t6\n=bias\t1\t2\t3\t4\t5\tx\n"), Err(2));
    assert_eq!(parse("salary 1 2 3 4 5 6\n"), Err(1));
}

#[test]
fn every_feature_is_read_back_from_its_name() {
    let compiled = Compiled::new(Vec::new()).unwrap();
    let reading = compiled.read("Anna's Größe: 1234 mg of lisinopril, 患者 said пациент");
    let words = features::words(&reading);
    let names = Reader::new(&reading).names(&words);
    let mut reader = Reader::new(&reading);
    let (mut read, mut last) = (Vec::new(), None);
    for word in words.iter() {
        let unit = reader.unit(word);
        read.push(unit.feature());
        read.extend(unit.pair(last.as_ref()));
        read.extend(unit.kinds());
        unit.each_piece(reading.lexicon, |piece| read.push(piece));
        last = Some(unit);
    }
    assert_eq!(names.len(), read.len());
    for (name, feature) in names.iter().zip(read) {
        assert_eq!(features::Feature::parse(name, reading.lexicon), feature, "{name}");
    }
    for expected in ["@", "#4", "@ s", "~_grö", "~sse_", "@drug", "患 者"] {
        let expected = reading.lexicon.folded(expected);
        assert!(names.iter().any(|name| reading.lexicon.folded(name) == expected), "{expected}");
    }
}

#[test]
fn training_gives_the_same_file_each_time_and_learns_what_tells_rows_apart() {
    let health = ["HIPAA".to_owned()];
    let texts: Vec<(String, bool)> = (0..60)
        .map(|n| match n % 2 {
            0 => (format!("case {n}: my aunt vomits since the chemo, what should she take"), true),
            _ => (format!("case {n}: explain what the chemo does in the body of patients"), false),
        })
        .collect();
    let rows: Vec<LabelledText<'_>> = texts
        .iter()
        .map(|(text, private)| LabelledText {
            text,
            labels: &health,
            private: *private,
            request: true,
        })
        .collect();
    let vectors = WordVectors::parse("chemo 9 0\nsurgery 8 1\nbicycle 0 9").unwrap();
    let scanner = Scanner::new(Vec::new()).unwrap();
    let training = train_topics(&rows, &vectors, &scanner);
    assert_eq!(training.file, train_topics(&rows, &vectors, &scanner).file);
    let weight = |feature: &str| -> i8 {
        let line = training.file.lines().find(|l| l.starts_with(&format!("{feature}\t"))).unwrap();
        line.split('\t').nth(1).unwrap().parse().unwrap()
    };
    assert!(weight("my aunt") > 0 && weight("explain") < 0, "{}", training.file);
}
