//! Words around names: cues, titles, relations, and what makes a name something else.
//!
//! Data only; `name` says how each list is used.

#![cfg_attr(rustfmt, rustfmt_skip)]

/// Roles before a name: "patient Anna Huber", "Name: Huber".
pub(super) const CUES: &[&str] = &[
    "patient", "pt", "patient name", "name", "full name", "client", "employee", "applicant", "candidate", "customer", "insured", "subscriber", "member", "beneficiary", "resident", "defendant", "plaintiff", "claimant", "witness", "student", "tenant", "cardholder", "account holder", "holder", "next of kin", "emergency contact", "guardian", "spouse", "surname", "last name", "first name", "passenger", "guest", "caller", "victim", "suspect", "inmate", "detainee", "asylum seeker", "donor", "recipient", "worker", "colleague", "staff member", "nurse", "contact", "attn", "signed", "regards", "sincerely", "re", "regarding",
    "patientin", "klient", "klientin", "mitarbeiter", "mitarbeiterin", "kunde", "kundin", "mandant", "mandantin", "versicherter", "versicherte", "bewerber", "bewerberin", "angestellter", "vorname", "nachname", "familienname", "kontoinhaber", "karteninhaber", "beschuldigter", "arbeitnehmer",
    "patiente", "patienten", "cliente", "employé", "employée", "salarié", "salariée", "nom", "nom du patient", "prénom", "assuré", "assurée", "titulaire", "candidat", "candidate", "locataire", "accusé",
    "paciente", "empleado", "empleada", "trabajador", "trabajadora", "nombre", "apellido", "apellidos", "titular", "asegurado", "asegurada", "solicitante", "alumno", "alumna",
    "paziente", "dipendente", "nome", "cognome", "nominativo", "intestatario", "assicurato", "assicurata", "lavoratore", "lavoratrice", "imputato",
    "utente", "funcionário", "funcionária", "apelido", "sobrenome", "segurado", "segurada", "doente", "aluno", "aluna", "colaborador", "colaboradora",
    "patiënt", "patiënte", "cliënt", "cliënte", "medewerker", "medewerkster", "werknemer", "naam", "achternaam", "voornaam", "verzekerde", "klant",
    "pacjent", "pacjentka", "pracownik", "imię i nazwisko", "nazwisko", "klientka", "patienten", "medarbetare", "namn", "efternamn", "hasta", "hastamız", "çalışan", "ad soyad", "adı soyadı", "pacient", "pacientka", "beteg", "pacientul", "pacienta", "potilas", "pasient", "navn",
    "κυρία", "κύριος", "κος", "κα", "ασθενής", "ο ασθενής", "хвора", "хворий", "пацієнт", "пацієнтка", "пані", "пан", "המטופל", "המטופלת", "מטופל", "מטופלת", "גברת", "מר", "העובד", "העובדת", "kandidaat", "buurman", "buurvrouw", "nachbar", "nachbarin", "voisin", "voisine", "vecino", "vecina", "vicino", "vizinho", "vizinha", "granne", "sąsiad", "sąsiadka", "nauczycielka", "nauczyciel", "lehrer", "lehrerin", "professeur", "kollege", "kollegin", "zeuge", "zeugin", "vermieter", "mieter", "mieterin", "huurder", "huurster", "inquilino", "inquilina", "inquilin", "dependente", "dependiente", "asylsökande", "dossier", "akte", "fall", "asunto", "kundin", "klientin", "employees", "team member", "new hire", "volunteer", "driver", "nanny", "babysitter", "pupil", "teacher", "trainee", "intern", "debtor", "borrower", "policyholder", "deceased", "heir", "parolee", "complainant", "respondent",
    "пациент", "пациентка", "больной", "больная", "сотрудник", "сотрудница", "фио", "клиент", "المريض", "المريضة", "الاسم", "الموظف", "मरीज", "मरीज़", "रोगी", "नाम", "श्री", "श्रीमती",
];

/// "my name is …" in several languages.
pub(super) const INTRODUCTIONS: &[&str] = &[
    "my name is", "i am called", "name is", "name's", "patient named", "woman named", "man named", "employee named", "named", "ich heiße", "ich heisse", "mein name ist", "je m'appelle", "je m appelle", "mon nom est", "me llamo", "mi nombre es", "se llama", "mi chiamo", "il mio nome è", "meu nome é", "chamo me", "me chamo", "mijn naam is", "ik heet", "nazywam się", "jag heter", "mitt namn är", "jeg heter", "jeg hedder", "меня зовут", "benim adım", "nimeni on", "a nevem", "jmenuji se", "numele meu este", "signed by", "born to", "known as",
];

/// Fields of forms whose names are ordinary words.
pub(super) const LABELS: &[&str] = &["last", "first", "lname", "fname", "ln", "fn", "middle", "pt last", "pt first"];

/// The commonest Vietnamese family names.
pub(super) const VIETNAMESE_SURNAMES: &[&str] = &["nguyễn", "trần", "lê", "phạm", "hoàng", "huỳnh", "phan", "vũ", "võ", "đặng", "bùi", "đỗ", "hồ", "ngô", "dương", "lý", "đinh", "trịnh", "mai", "đào"];

/// Relations that name a private person: "my mother Helga".
pub(super) const RELATIONS: &[&str] = &[
    "my mother", "my father", "my mom", "my mum", "my dad", "my wife", "my husband", "my son", "my daughter", "my brother", "my sister", "my friend", "my colleague", "my coworker", "my co worker", "my boss", "my manager", "my neighbor", "my neighbour", "my client", "my patient", "my employee", "my girlfriend", "my boyfriend", "my partner", "my aunt", "my uncle", "my cousin", "my grandmother", "my grandfather", "my ex", "our employee", "our patient", "our client", "our colleague", "his wife", "her husband", "his son", "her son", "her daughter", "his daughter", "my student", "my tenant", "my landlord", "my nephew", "my niece", "my teammate", "my report", "direct report", "her mother", "his mother", "the patient", "this patient", "daughter", "son", "wife", "husband", "mother", "father", "brother", "sister",
    "meine mutter", "mein vater", "meine frau", "mein mann", "mein sohn", "meine tochter", "mein bruder", "meine schwester", "meine kollegin", "mein kollege", "meine freundin", "mein freund", "mein chef", "meine chefin", "mein nachbar", "meine nachbarin", "mein patient", "meine patientin", "unser mitarbeiter", "unsere mitarbeiterin", "meine mandantin", "mein mandant", "unser patient", "unsere patientin",
    "ma mère", "mon père", "ma femme", "mon mari", "mon fils", "ma fille", "mon frère", "ma sœur", "ma collègue", "mon collègue", "mon amie", "mon ami", "mon patient", "ma patiente", "notre salarié", "notre salariée", "mon client", "ma cliente", "notre collègue",
    "mi madre", "mi padre", "mi esposa", "mi marido", "mi mujer", "mi hijo", "mi hija", "mi hermano", "mi hermana", "mi amigo", "mi amiga", "mi compañero", "mi compañera", "mi paciente", "mi cliente", "nuestro empleado", "nuestra empleada", "mi jefe", "mi jefa", "mi vecino", "mi vecina",
    "mia madre", "mio padre", "mia moglie", "mio marito", "mio figlio", "mia figlia", "mio fratello", "mia sorella", "il mio collega", "la mia collega", "il mio paziente", "la mia paziente", "il nostro dipendente", "la nostra dipendente", "il mio amico", "la mia amica",
    "minha mãe", "meu pai", "minha esposa", "meu marido", "meu filho", "minha filha", "meu irmão", "minha irmã", "meu colega", "minha colega", "meu paciente", "minha paciente", "nosso funcionário", "nossa funcionária", "meu amigo", "minha amiga",
    "mijn moeder", "mijn vader", "mijn vrouw", "mijn man", "mijn zoon", "mijn dochter", "mijn broer", "mijn zus", "mijn collega", "mijn patiënt", "mijn cliënt", "onze medewerker", "onze collega", "mijn vriend", "mijn vriendin", "mijn buurman", "mijn buurvrouw",
    "moja mama", "mój ojciec", "moja żona", "mój mąż", "mój pacjent", "moja pacjentka", "min mamma", "min pappa", "min fru", "min man", "min patient", "моя мама", "мой отец", "моя жена", "мой муж",
];

/// Verbs and phrases that are directed at a person.
pub(super) const TOWARDS: &[&str] = &[
    "remind", "spoke with", "spoke to", "speak with", "talked to", "talk to", "explain to", "tell", "letter for", "letter to", "write to", "email to", "mail to", "message to", "note for", "reply to", "respond to", "ask", "invite", "met with", "meeting with", "appointment for", "on behalf of", "results of", "results for", "saw", "treated", "examined", "refer", "referral for", "discharge", "admit", "schedule", "prescribed to", "call", "congratulate", "diagnosed", "interview with", "claim of", "case of", "file of", "chart of", "brief an", "schreib an", "sag", "erinnere", "lettre à", "écris à", "rappelle à", "carta a", "carta para", "escribe a", "dile a", "lettera a", "scrivi a", "carta para", "escreva a", "brief aan", "schrijf aan",
];

/// What known people leave behind.
pub(super) const WORKS: &[&str] = &["book", "books", "novel", "film", "films", "movie", "movies", "song", "songs", "album", "theory", "paper", "papers", "essay", "essays", "play", "plays", "painting", "paintings", "speech", "podcast", "show", "memoir", "biography", "works", "poem", "poems", "legacy", "career", "research", "discovery", "invention", "buch", "roman", "livre", "libro", "livro", "boek"];

/// Titles of private persons.
pub(super) const TITLES: &[&str] = &[
    "mr", "mrs", "ms", "miss", "mister", "herr", "herrn", "frau", "m", "mme", "mlle", "monsieur", "madame", "mademoiselle", "sr", "sra", "srta", "señor", "señora", "don", "doña", "signor", "signora", "signorina", "sig", "sig ra", "senhor", "senhora", "dhr", "mevr", "mevrouw", "meneer", "de heer", "pan", "pani", "pana", "fru", "bay", "bayan", "г н", "г жа", "господин", "госпожа", "السيد", "السيدة",
];

/// Titles of people at work.
pub(super) const PROVIDER_TITLES: &[&str] = &["dr", "prof", "professor", "doctor", "dra", "dott", "dottssa", "docteur", "doktor", "rev", "judge", "justice", "senator", "president", "minister", "king", "queen", "prince", "princess", "pope", "saint", "sir", "lord", "lady", "captain", "chancellor", "governor", "congressman", "ceo"];

/// Words between a cue and the name.
pub(super) const FILLERS: &[&str] = &["is", "named", "called", "name", "ist", "heißt", "heisst", "est", "es", "se", "llama", "appelle", "chiama", "chama", "heet", "was", "dr", "was", "the", "mit", "namens", "nommé", "nommée", "nomme", "of"];

/// What a single given name does when it is a person.
pub(super) const VERBS: &[&str] = &[
    "was", "is", "has", "had", "will", "suffers", "suffered", "takes", "took", "tested", "told", "says", "said", "wants", "lives", "works", "needs", "refuses", "reported", "reports", "complained", "complains", "presented", "underwent", "received", "started", "stopped", "got", "does", "did", "can", "could", "cannot", "should", "went", "came", "asked", "disclosed", "mentioned", "admitted",
    "hat", "ist", "war", "wurde", "leidet", "nimmt", "wohnt", "arbeitet", "bekommt", "bekam", "a", "est", "était", "souffre", "prend", "habite", "tiene", "es", "está", "fue", "sufre", "toma", "vive", "padece", "ha", "è", "soffre", "prende", "abita", "tem", "está", "foi", "sofre", "mora", "heeft", "is", "lijdt", "slikt", "woont", "werkt", "ma", "jest", "cierpi", "har", "är",
];

/// Placeholders that every form shows.
pub(super) const SAMPLES: &[&str] = &["john doe", "jane doe", "john q public", "joe bloggs", "max mustermann", "erika mustermann", "jean dupont", "marie dupont", "mario rossi", "juan perez", "fulano de tal", "joão da silva", "jan jansen", "jan kowalski", "foo bar", "test user", "test patient"];

/// Words of invented people.
pub(super) const FICTION: &[&str] = &["sherlock", "sherlock holmes", "hogwarts", "dragon", "dragons", "dragon rider", "wizard", "sorcerer", "elf", "elves", "vampire", "vampires", "werewolf", "starship", "spaceship", "space station", "alien planet", "galactic", "fanfiction", "fan fiction", 
    "fiction", "fictional", "novel", "short story", "fairy tale", "screenplay", "protagonist", "antagonist", "sitcom", "fanfic", "fan fiction", "roleplay", "role play", "rpg", "dungeon master", "main character", "a character", "the character", "characters", "villain", "monologue", "limerick", "movie plot", "tv show", "season one", "video game",
    "kurzgeschichte", "märchen", "drehbuch", "romanfigur", "hauptfigur", "fiktiv", "fiktive", "nouvelle fictive", "personnage", "conte de fées", "cuento", "novela", "personaje", "ficticio", "ficticia", "racconto", "romanzo", "personaggio", "favola", "conto de fadas", "personagem", "fictício", "fictícia", "sprookje", "romanpersonage", "opowiadanie", "powieść",
];

/// Words of stories and works, which stand in ordinary texts too.
pub(super) const STORY: &[&str] = &["story", "stories", "character", "movie script", "film script", "poem", "poetry", "plot", "dialogue", "scene", "play", "haiku", "movie", "film", "episode", "musical", "opera", "lyrics", "roman", "gedicht", "figur", "conte", "poème", "poema", "poesia", "romance", "verhaal", "gedicht"];

/// Names that are words too, but mostly names.
pub(super) const SOFT: &[&str] = &[
    "frank", "grace", "rose", "victoria", "charlotte", "jack", "nick", "rob", "bob", "martin", "robin", "julia", "ada", "maria", "claude", "pascal", "jasmine", "ruby", "amber", "heather", "holly", "iris", "ivy", "daisy", "lily", "violet", "florence", "madison", "jordan", "jackson", "drew", "pat", "max", "miles", "carl", "christian", "crystal", "dawn", "ernst", "kai", "jens", "falk", "claire", "blanche", "martine", "clément", "constance", "bella", "stella", "serena", "chiara", "franca", "bianca", "bruna", "vittoria", "gloria", "alba", "aurora", "dolores", "consuelo", "soledad", "pilar", "mercedes", "rocío", "rocio", "amparo", "luz", "rosa", "estrella", "blanca", "reina", "vera", "fortuna", "mark", "bill", "ray", "jay", "dale", "glen", "cliff", "sandy", "penny", "ginger", "pearl", "rosemary", "april", "june", "august", "summer", "autumn", "joy", "hope", "faith", "angel", "trinity", "lance", "grant", "wade", "chase", "hunter", "mason", "parker", "carter", "taylor", "tyler", "bailey", "kim", "lee", "ben", "mia", "helen", "sage", "reed", "miguel", "noel", "eve", "carmen", "santiago", "guy", "art", "gene", "dean", "earl", "rick", "rich", "chuck", "buddy", "rusty", "rocky", "woody", "harry", "barry",
];

/// Words beside people whom everyone may talk about.
pub(super) const FAME: &[&str] = &[
    "biography", "nobel", "theorem", "famous", "celebrity", "album", "emperor", "philosopher", "olympic", "composer", "painter", "poet", "physicist", "mathematician", "world cup", "historian", "astronaut", "footballer", "songwriter", "nobelpreis", "berühmt", "célèbre", "famoso", "famosa", "beroemd", "novelist", "playwright", "screenwriter", "rapper", "published in", "paper titled", "keynote", "lecture", "lectures",
];

/// What stands right before the name of somebody known.
pub(super) const ROLE_OF_FAME: &[&str] = &[
    "who was", "who is", "by", "author", "actor", "actress", "singer", "director", "directed by", "written by", "novel by", "book by", "film by", "politician", "scientist", "inventor", "founder", "athlete", "player", "champion", "general", "pioneer", "explorer", "wer war", "wer ist", "qui était", "qui est", "quién fue", "quién es", "chi era", "chi è", "quem foi", "quem é", "wie was", "wie is", "autor", "autorin", "écrivain", "écrivaine", "escritor", "escritora", "scrittore", "scrittrice", "schauspieler", "regisseur", "philosoph", "president", "prime minister", "according to", "paper by", "study by", "theory of", "works of", "life of", "poems of", "the late",
];

/// Nouns that a name belongs to: diseases, streets, institutions, laws, products.
pub(super) const THINGS: &[&str] = &[
    "disease", "syndrome", "disorder", "palsy", "sign", "test", "score", "scale", "lymphoma", "sarcoma", "street", "avenue", "road", "lane", "drive", "boulevard", "square", "bridge", "park", "airport", "station", "stadium", "university", "college", "school", "hospital", "clinic", "institute", "foundation", "museum", "library", "center", "centre", "inc", "llc", "ltd", "gmbh", "ag", "corp", "corporation", "company", "group", "bank", "prize", "award", "medal", "law", "act", "theorem", "equation", "algorithm", "effect", "method", "model", "principle", "paradox", "transform", "distribution", "number", "constant", "process", "matrix", "river", "lake", "mount", "valley", "island", "county", "city", "town", "brand", "motors", "records", "studios", "press", "publishing", "v", "vs", "cathedral", "church", "palace", "krankheit", "straße", "klinik", "universität", "stiftung", "maladie", "rue", "hôpital", "enfermedad", "malattia", "doença", "ziekte", "protocol", "framework", "library", "language", "sort", "tree", "code", "cup", "trophy", "tour", "day", "eve", "beach", "hills", "falls", "heights", "gardens", "manoeuvre", "maneuver", "classification", "criteria", "index", "catheter", "forceps", "fracture", "contracture", "thyroiditis", "cycle", "cell", "cells", "chorea", "ulcer", "hernia",
];

/// Particles inside surnames.
pub(super) const PARTICLES: &[&str] = &["van", "von", "de", "der", "den", "del", "della", "di", "da", "do", "dos", "das", "du", "la", "le", "el", "al", "bin", "ibn", "ben", "bint", "ter", "ten", "zu", "zur", "y", "e", "af", "av", "st", "san", "mc", "mac", "o", "d", "dalla", "dei", "lo", "abu"];

/// Capitalised words that are no names, wherever they stand.
pub(super) const NOT_NAMES: &[&str] = &[
    "the", "this", "that", "these", "those", "a", "an", "and", "or", "but", "if", "when", "what", "which", "who", "where", "why", "how", "is", "are", "was", "were", "be", "has", "have", "had", "do", "does", "did", "can", "could", "will", "would", "should", "may", "might", "must", "not", "no", "yes", "please", "in", "on", "at", "to", "for", "from", "with", "by", "of", "as", "about", "into", "it", "he", "she", "they", "we", "you", "i", "my", "your", "his", "her", "their", "our", "all", "any", "each", "some", "new", "old", "first", "last", "next", "more", "most", "also", "then", "than", "there", "here", "so", "since", "after", "before", "during", "until", "while",
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "january", "february", "march", "april", "june", "july", "august", "september", "october", "november", "december",
    "care", "portal", "safety", "rights", "experience", "record", "records", "data", "information", "management", "system", "service", "services", "support", "team", "department", "office", "manager", "director", "engineer", "engineering", "developer", "software", "project", "program", "programme", "plan", "policy", "report", "summary", "note", "notes", "history", "chart", "id", "number", "no", "name", "names", "date", "dob", "mrn", "ssn", "age", "sex", "gender", "address", "phone", "email", "status", "type", "code", "list", "form", "letter", "file", "table", "field", "value", "values", "class", "object", "string", "int", "null", "none", "true", "false", "server", "client", "user", "admin", "api", "app", "web", "cloud", "database", "public", "private", "company", "inc", "llc", "ltd", "gmbh", "corp", "university", "college", "school", "hospital", "clinic", "street", "road", "avenue", "north", "south", "east", "west", "united", "states", "kingdom", "america", "europe", "asia", "africa", "english", "german", "french", "spanish", "italian", "dutch", "portuguese", "chinese", "japanese", "american", "british", "european", "dear", "hello", "hi", "thanks", "thank", "regards", "best", "sincerely", "education", "engagement", "outcomes", "satisfaction", "advocacy", "handbook", "onboarding", "benefits", "relations", "success", "centric", "side", "presents", "denies", "reports", "states", "admitted", "seen", "complains", "und", "der", "die", "das", "ein", "eine", "mit", "für", "von", "ist", "hat", "wurde", "et", "est", "les", "des", "une", "pour", "avec", "los", "las", "una", "con", "por", "para", "gli", "che", "non", "per", "com", "uma", "não", "het", "een", "van", "met", "voor", "je", "ich", "wir", "sie", "er", "es", "il", "elle", "nous", "vous", "analysis", "study", "trial", "trials", "group", "groups", "population", "cohort", "journey", "protection", "act", "law", "court", "county", "city", "state", "country",
    "في", "من", "على", "مع", "إلى", "عن", "هو", "هي", "الذي", "التي", "يعاني", "تعاني", "أن", "لا", "هل", "को", "का", "की", "के", "में", "ने", "से", "पर", "और", "है", "हैं", "क्या",
    "ai", "ml", "sql", "html", "css", "json", "xml", "http", "url", "rest", "linux", "windows", "docker", "kubernetes", "python", "java", "javascript", "typescript", "rust", "react", "django", "spring", "maven", "gradle", "git", "github", "aws", "azure", "google", "microsoft", "amazon", "apple", "facebook", "oracle", "netflix", "tesla",
];

/// Beside East Asian names: before them, or honorifics after them.
pub(super) const EAST_ASIAN_CUES: &[&str] = &["患者", "病人", "姓名", "员工", "客户", "先生", "女士", "小姐", "我叫", "名前", "氏名", "様", "さん", "氏", "환자", "성명", "이름", "씨", "님", "직원", "社員", "従業員", "ผู้ป่วย", "คุณ", "同事", "学生", "生徒", "我朋友", "我妈妈", "我爸爸"];
/// The cues above that stand behind the name.
pub(super) const EAST_ASIAN_SUFFIXES: &[&str] = &["先生", "女士", "小姐", "様", "さん", "氏", "씨", "님"];
/// First characters of the commonest surnames of China, Japan and Korea.
pub(super) const EAST_ASIAN_SURNAMES: &str = "王李张張刘劉陈陳杨楊黄黃赵趙吴吳周徐孙孫马馬朱胡郭何林高罗羅郑鄭梁谢謝宋唐许許韩韓冯馮邓鄧曹彭曾肖田董袁潘于蒋蔡余杜叶葉程苏蘇魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严武戴莫孔向汤佐鈴高田渡伊山中小加吉斎松井木林清池橋石前藤岡後長村近坂遠青藤福太西三浦竹内原김이박최정강조윤장임한오서신권황안송류전홍고문양손배백허유남심노하곽성차주우구민진";
/// Characters of running text that no name holds.
pub(super) const NOT_IN_EAST_ASIAN_NAMES: &str = "的了在是我你他她它们這这那有和与及或被把对从到也都就不没很患病诊断治疗、。，：（）";
/// Endings of Russian, Ukrainian and Bulgarian surnames.
pub(super) const SLAVIC_ENDINGS: &[&str] = &["ов", "ова", "ев", "ева", "ёв", "ёва", "ин", "ина", "ский", "ская", "цкий", "цкая", "енко", "чук", "ко", "ых"];
/// Endings of patronymics.
pub(super) const PATRONYMIC_ENDINGS: &[&str] = &["ович", "евич", "овна", "евна", "ична", "ильич"];
