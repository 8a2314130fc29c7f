//! Numbers of the health system, and words of illness and care.

use super::*;

#[test]
fn numbers_of_the_health_system() {
    check(
        "mrn",
        Likely,
        &[
            "MRN 0048213",
            "MRN: A0048213",
            "medical record number is 482913",
            "Patientennummer 48291",
            "MRN0048213",
            "mrn,dx\n482913,flu",
            "7720194 is the MRN",
            "환자 등록번호 12345678",
        ],
        &[
            "What does MRN mean?",
            "the mrn field has 8 digits",
            "Chart the values 2499, 537",
            "merchant ref 0048213",
            "7720194 is the sum",
            "주민등록번호 12345678",
        ],
    );
    check("mbi", Likely, &["1EG4-TE5-MK73"], &["1SG4-TE5-MK73", "licence 1EG4TE5MK"]);
    check("dea_number", VeryLikely, &["DEA BB1388568"], &["DEA BB1388569"]);
    check("npi", Possible, &["NPI 1245319599"], &["NPI 1245319598", "1245319599"]);
    check("icd10_code", Likely, &["diagnosis E11.9", "dx: I10"], &["gate B22", "vitamin B12"]);
    check(
        "drug_dose",
        Likely,
        &["metformin 850 mg BID", "started on lisinopril 10mg"],
        &["metformin", "850 mg"],
    );
    check(
        "clinical_document",
        Likely,
        &[
            "MSH|^~\\&|A|B",
            "HPI: x\nAssessment: y\nPlan: z",
            "{\"resourceType\" : \"Patient\",\"id\":\"x\"}",
            "{\"resourceType\":\"MedicationRequest\",\"subject\":{\"reference\":\"Patient/7\"}}",
            "<Patient xmlns=\"http://hl7.org/fhir\"><id value=\"7\"/></Patient>",
            "<ClinicalDocument><recordTarget><patientRole><id/></patientRole></recordTarget>",
            "OBX|3|NM|2345-7||182",
            "EVN|A01|20260101\nPV1|1|I|2000",
            "eyJyZXNvdXJjZVR5cGUiOiJQYXRpZW50IiwiaWQiOiJ4In0=",
        ],
        &[
            "plan: buy milk",
            "{\"resourceType\":\"StructureDefinition\"}",
            "{\"resourceType\":\"Encounter\",\"status\":\"planned\"}",
            "OBX|value|text",
            "The DG1|segment holds a diagnosis",
        ],
    );
    check(
        "device_serial",
        Likely,
        &[
            "pacemaker serial number PJN4821993",
            "pump SN: 8847129",
            "insulin pump s/n 884-7129",
            "hearing aid serial 4419207B",
            "Seriennummer des Herzschrittmachers: PZK441920S",
            "ＳＮ 8847129 of her insulin pump",
        ],
        &[
            "serial number PJN4821993",
            "SN 8847129 of the printer",
            "lot 48213 of the pump",
            "the pump has a serial number",
        ],
    );
    check(
        "device_udi",
        Likely,
        &["UDI (01)00643169007222(21)PZK441920S", "(01)00643169007222(17)290101(10)A7(21)PZK44"],
        &["(01)00643169007222", "chapters (01) and (21)"],
    );
    check(
        "health_plan_id",
        Likely,
        &["subscriber # W884712903", "subscriber #\u{ff17}\u{ff17}20194"],
        &["our subscriber 884712903 likes it", "the subscriber # column"],
    );
}

#[test]
fn words_of_one_language_are_no_illness_of_another() {
    let not = [
        "Das ist meine Meinung als Kunde",
        "Ask at reception to scan the code; the argument is invalid",
        "ssh-rsa and std::vector in this zone, ¿en qué zona?",
        "Wat is een goed recept voor appeltaart?",
    ];
    check("health_terms", Possible, &["My ALS", "l'IST", "een recept van de huisarts"], &not);
}

#[test]
fn health_words_in_many_languages() {
    let texts = [
        "diabetic",
        "Oberschenkelhalsfraktur",
        "cancer du sein",
        "hipertensión",
        "infarto",
        "pressão arterial",
        "borstkanker",
        "cukrzyca",
        "糖尿病",
        "うつ病",
        "당뇨",
        "диабет",
        "السكري",
    ];
    check(
        "health_terms",
        Likely,
        &texts,
        &["the weather is fine", "operating system", "a patient reader"],
    );
}
