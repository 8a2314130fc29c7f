//! Numbers, names and contact data of persons.

use super::*;

#[test]
fn social_security_numbers() {
    check(
        "us_ssn",
        Likely,
        &[
            "536-22-8714",
            "ssn 536228714",
            "SSN 536 22 8714",
            "{\"ssn\": \"536228714\"}",
            "name,ssn\nAnn,536228714\nBob,536229714",
            "ssn 5\u{200b}36-22-87\u{200b}14",
            "my social security number is five three six two two eight seven one four",
            "SSN: NTM2LTIyLTg3MTQ=",
            "ЅЅN 536228714 for the form",
        ],
        &[
            "000-22-8714",
            "666-22-8714",
            "936-22-8714",
            "536-00-8714",
            "078-05-1120",
            "123-45-6789",
            "part number 536-22-8714",
            "536228714",
            "tel 536-22-8714-33",
            "Part 536-22-8714-B alternatives",
            "part 536-22-8714",
            "XXX-XX-8714",
        ],
    );
}

/// Numbers were generated and checked with python-stdnum 2.2.

#[test]
fn national_numbers() {
    let cases: [(&str, &str, &str); 22] = [
        ("de_tax_id", "Steuer-ID 36574261809", "Steuer-ID 36574261808"),
        ("fr_nir", "1 84 12 76 451 089 46", "1 84 12 76 451 089 47"),
        ("es_dni", "DNI 54362315K", "DNI 54362315Z"),
        ("it_codice_fiscale", "RCCMNL83S18D969H", "RCCMNL83S18D969K"),
        ("nl_bsn", "BSN 111222333", "BSN 111222334"),
        ("be_nn", "85.07.30-033 28", "85.07.30-033 29"),
        ("pl_pesel", "PESEL 44051401359", "PESEL 44051401358"),
        ("se_personnummer", "personnummer 880320-0016", "personnummer 880320-0018"),
        ("uk_nhs", "NHS number 943 476 5870", "NHS number 943 476 5871"),
        ("uk_nino", "NINO AB 12 34 56 C", "NINO QQ 12 34 56 C"),
        ("ca_sin", "SIN 123-456-782", "SIN 123-456-783"),
        ("br_cpf", "390.533.447-05", "390.533.447-06"),
        ("au_tfn", "TFN 123 456 782", "TFN 123 456 783"),
        ("in_aadhaar", "2341 2341 2346", "2341 2341 2347"),
        ("jp_my_number", "マイナンバー 123456789018", "マイナンバー 123456789019"),
        ("cn_ric", "11010519491231002X", "110105194912310020"),
        ("ch_ahv", "756.9217.0769.85", "756.9217.0769.86"),
        ("tr_kimlik", "TC kimlik 10000000146", "TC kimlik 10000000147"),
        ("lv_personas_kods", "personas kods 161175-19997", "personas kods 161175-19998"),
        ("si_emso", "EMŠO 0101006500006", "EMŠO 0101006500007"),
        ("br_cpf", "CPF 381.047.592-O5", "CPF 381.047.592-O6"),
        ("it_codice_fiscale", "RCCMNL83Sl8D969H", "RCCMNL83Sl8D969K"),
    ];
    for (detector, good, bad) in cases {
        let detector_of = |text: &str| {
            let id = if text.ends_with('X') { "cn_ric_x" } else { detector };
            best(text, id)
        };
        assert!(
            detector_of(good) >= Some(Likely),
            "{detector} misses {good:?}: {:?}",
            scan(good).findings
        );
        assert!(detector_of(bad) < Some(Likely), "{detector} fires on {bad:?}");
    }
}

#[test]
fn addresses_of_mail_and_telephone_numbers() {
    check(
        "email",
        Likely,
        &[
            "anya.petrova@gmail.com",
            "write to k.o'neil@corp.co.uk.",
            "\"jana.novotna\" + \"@praha-bridge.cz\"",
        ],
        &[
            "info@example.com",
            "noreply@corp.com",
            "a@b",
            "@decorator",
            "git@github.com",
            "your_email@gmail.com",
            "klant@voorbeeldhotel.nl",
            "receptie@hotel-de-wadden.nl",
            "Co-authored-by: Jane Roe <jane@roe.dev>",
            "fix the parser\n\nSigned-off-by: Jana Roe <jana@roe.dev>",
        ],
    );
    check(
        "phone",
        Likely,
        &[
            "(617) 482-3391",
            "+49 151 23456789",
            "call 617 482 3391",
            "tel. 030 1234567",
            "call 01632 482339",
        ],
        &[
            "555-0199",
            "1-800-482-3391",
            "Call 1-800-273-8255 if you need help",
            "call 888 482 3391",
            "tel 0800 4823391",
            "teléfono 900 482 339",
            "1712345678",
            "version 10.15.7.4539",
        ],
    );
}

#[test]
fn homes_and_places() {
    check(
        "postal_address",
        Likely,
        &[
            "4821 Birchwood Lane, Tulsa",
            "Hauptstraße 12, 10115 Berlin",
            "12 rue de la Paix",
            "Calle Mayor 12, Madrid",
        ],
        &["Main Street", "5 drive bays", "the way 3 people"],
    );
}

#[test]
fn days_and_ages() {
    check(
        "birth_date",
        Likely,
        &[
            "DOB 03/14/1962",
            "geb. 12.03.1970",
            "born on March 4, 1956",
            "née le 4 mars 1956",
            "生年月日 1965年3月4日",
        ],
        &[
            "released 03/14/2022",
            "DOB 33/44/1962",
            "DOB 02/31/1962",
            "geb. 31.04.1970",
            "DOB 2023-02-29",
            "version 1.2.2020",
        ],
    );
    check(
        "age_over_89",
        Likely,
        &[
            "94-year-old woman",
            "aged 93",
            "93F with hip fracture",
            "93M, sepsis",
            "91yo male",
            "Patientin, 94 J.",
            "９３F with hip fracture",
        ],
        &[
            "54-year-old",
            "94 years of history",
            "a loss of $93M, sepsis",
            "93M users",
            "94 J. of energy",
            "33F with",
        ],
    );
    check(
        "care_date",
        Likely,
        &[
            "DOS 03/14/2026 knee arthroplasty",
            "Admission date 14.03.2026: stroke",
            "date of death 2026-01-04, pneumonia",
            "d/c 3/20/26 on warfarin",
            "Surgery date 3/14/26, hip replacement",
            "Admit: 02/11/2026 Dx: CHF exacerbation",
            "entlassen am 3. März 2026",
            "admitted %30%33/14/2026",
        ],
        &["released 03/14/2026", "DOS 02/31/2026", "MS-DOS 6.22", "the meeting of 03/14/2026"],
    );
    check(
        "geo_coordinates",
        Possible,
        &[
            "51.50735, -0.12776",
            "37°46'29.7\"N 122°25'09.9\"W",
            "{\"lat\":37.774929,\"lng\":-122.419416}",
            "{\"latitude\": 37.774929, \"longitude\": -122.419416}",
        ],
        &["51.5, -0.1", "20° to 25°", "an angle of 37°46'29\""],
    );
}

#[test]
fn names_of_persons() {
    check(
        "person_name",
        Likely,
        &[
            "Patient Maria Kowalczyk was seen",
            "Name: Lindner, Sabine",
            "my name is Derek Vaughn",
            "Mrs. Castellanos",
            "Mevrouw van den Berg",
            "Herr Öztürk kommt später",
            "ask Priya Raghunathan",
            "my dad frank kowalski",
            "Maria was diagnosed",
            "Пациент Иванов Сергей Петрович",
            "患者张伟，男",
            "田中太郎様",
            "환자 김민수",
            "LAST: Brandt FIRST: Ezekiel dx: COPD",
            "Müller, Hans-Peter (geb. 1957)",
            "Nguyễn Thị Hoa bị ung thư vú",
        ],
        &[
            "Albert Einstein was born in Ulm",
            "Parkinson's disease",
            "Johns Hopkins Hospital",
            "How do mRNA vaccines work?",
            "Smith et al. found",
            "directed by Sofia Marques",
            "In my novel, Mara Quill fights",
            "Santa Monica Boulevard",
            "Python Django Rest Framework",
            "patient care and patient safety",
            "Last: see the first page",
            "first: Install the package",
            "Co-authored-by: Jane Roe <jane@roe.dev>",
            "John Doe",
        ],
    );
}

#[test]
fn traces_and_numbers_of_persons() {
    check(
        "us_zip",
        Likely,
        &["ZIP 02139", "zip code: ０２１３９-4307"],
        &["02139", "a zip of 48 files"],
    );
    check(
        "ip_address",
        Possible,
        &["84.17.45.12", "2a02:8109:9a40:1b2c::7f3e", "2a02:8109:9a40:1b2c:51ad:7f3e:9c1:2"],
        &["10.0.0.7", "2001:db8::1", "fe80::1", "std::vector::at", "12:30:45:99"],
    );
    check(
        "person_url",
        Likely,
        &["https://www.facebook.com/jana.novotna.71", "linkedin.com/in/jana-novotna-71"],
        &["https://www.linkedin.com/company/acme", "netflix.com/title"],
    );
    check(
        "license_plate",
        Likely,
        &["plate 7KJD229", "license plate: 7KJD229"],
        &["a plate of 3 eggs", "plate 12"],
    );
    check(
        "biometric_template",
        Likely,
        &["fingerprint template: Rk1SACAyMAAAAADyAAABPAFi", "iris code = 8fA31cD09be77412"],
        &["The fingerprint template format", "face recognition in 2024"],
    );
    check(
        "licence_number",
        Likely,
        &["RN license 482913", "medical licence no. MD-482913"],
        &["driver test", "RN license", "MIT license 2024"],
    );
    check(
        "trial_subject",
        Likely,
        &["Subject 0412-017: nausea", "participant no. 22-4471"],
        &["Subject: 2026 budget", "subject 7"],
    );
    check(
        "origin_statement",
        Likely,
        &["Ade is of Nigerian origin", "d'origine algérienne"],
        &["the origin of species", "of unknown origin"],
    );
}
