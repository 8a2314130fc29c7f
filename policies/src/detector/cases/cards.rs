//! Cards, what may never be kept of them, and bank accounts.

use super::*;

#[test]
fn payment_cards() {
    check(
        "payment_card",
        Likely,
        &[
            "4539148803436467",
            "4539 1488 0343 6467 exp 12/27",
            "4539-1488-0343-6467",
            "card 4.5.3.9.1.4.8.8.0.3.4.3.6.4.6.7",
            "my card is 4111 1111 1111 1111, charge it",
            "Visa: ４５３９ １４８８ ０３４３ ６４６７",
            "card four five three nine one four eight eight zero three four three six four six seven",
            "card4539148803436467",
            "amex 378734493671000 was declined",
            "4\n5\n3\n9\n1\n4\n8\n8\n0\n3\n4\n3\n6\n4\n6\n7",
            "exp,cvv,number,name\n07/28,380,4539148803436467,Abernathy",
            "Order 1182: 4539 8145 3840 1916",
            "Please process 4539 8145 3840 1916 for order 1182",
            "invoice 118 paid 3766 858784 00575",
            "user id 77 -> 4539 8145 3840 1916",
            "The guest booked by phone, 4539 8145 3840 1916, 09/28",
            "{\"id\":7,\"number\":\"4539814538401916\"}",
            "{\"orderId\":\"A-1182\",\"amount\":42,\"num\":\"4539814538401916\"}",
            "order_id,amount,number\n1182,42,4539814538401916",
            "order number 4539148803436467, 09/28",
            "see data:text/plain;base64,NDUzOTgxNDUzODQwMTkxNg==",
            "https://pay.invalid/c/NDUzOTgxNDUzODQwMTkxNg/done",
            "card 4539 8145 384\u{41e} 1916",
            "card 4539 8145 384\u{43e} 1916",
            "card 4539 8145 384\u{39f} 1916",
            r"\064\065\063\071\070\061\064\065\063\070\064\060\061\071\061\066",
            "card 1. 4539\n2. 8145\n3. 3840\n4. 1916",
            "pan = \"45398145\"\npan += \"38401916\"",
            "{\"a\":\"45398145\",\"b\":\"38401916\"}",
            "{\"card_1st\":\"453981\",\"card_2nd\":\"453840\",\"card_3rd\":\"1916\"}",
            "first 453981******1916, then ****81453840****",
            "453981**38401916",
        ],
        &[
            "4539148803436468",                     // check digit
            "1712345678901",                        // epoch
            "12345678-1234-1234-1234-453914880343", // UUID
            "0.4539148803436467",                   // fraction
            "order number 4539148803436467",        // said to be something else
            "test card 4242424242424242 in the stripe sandbox",
            "**** **** **** 6467",
            "453914******6467",
            "4030, 1544, 7739, 1958, 6493, 7897",
            "2019 2020 2021 2022",
            "a4539148803436467b3c",
            "the dummy card number 1234-5678-9012-3456",
            "order id 6011889056118335",
            "order_id,amount\n4539814538401916,42",
            "{\"orderId\":\"4539814538401916\"}",
            "opacity: .4102761612490652;",
            "const pan = \"5555555555554444\";",
            "USPS 9400 4539 8145 3840 1916 79",
            "{\"a\":\"45398145\",\"b\":\"38401917\"}",
            "453981******1916 and again 453981******1916",
            "1. Take 4 eggs\n2. Add 200 g of flour\n3. Bake for 40 minutes",
        ],
    );
}

#[test]
fn what_may_never_be_kept_of_a_card() {
    check(
        "card_security_code",
        Likely,
        &[
            "CVV: 482",
            "cvc is 4821",
            "security code 739",
            "871 is the cvv",
            "the code on the back is 871",
            "exp,cvv\n0928,871",
            "CVV\n871",
            "CID 4471 on the amex card",
            "cvv \u{ff18}\u{ff17}\u{ff11}",
        ],
        &[
            "error 482",
            "What is a CVV?",
            "CVV has 3 digits",
            "CID 4471 in Active Directory",
            "871 is the answer",
            "room,floor\n12,871",
        ],
    );
    check(
        "card_pin",
        Likely,
        &[
            "her PIN is 4821",
            "PIN: 4 8 2 1",
            "PIN block 0412AC89ABCDEF67",
            "DE52: 0412AC89ABCDEF67",
            "pinblock=0412AC89ABCDEF67",
            "pin code of the debit card 4821",
        ],
        &[
            "pin 13 on the arduino",
            "pin the message",
            "a PIN has 4 digits",
            "PIN code 560001 Bangalore",
            "a PIN block of ISO 9564",
            "change SIM PIN 1234",
            "Your bluetooth PIN is 0000",
            "DE52 is a field of the message",
        ],
    );
    check(
        "card_track",
        Likely,
        &[
            "%B4539148803436467^DOE/J^2712101000000?",
            ";4539148803436467=27121010000000?",
            "4539814538401916D28091010000012300000F",
        ],
        &["a=4539148803436467", "4539814538401917D28091010000012300000F", "4539814538401916DX"],
    );
}

#[test]
fn bank_accounts() {
    check(
        "iban",
        Likely,
        &[
            "DE75512108001245126199",
            "DE75 5121 0800 1245 1261 99",
            "D E 7 5 5 1 2 1 0 8 0 0 1 2 4 5 1 2 6 1 9 9",
            "IBAN DE3737O400440719448103",
            "iban = \"DE37 3704 \" + \"0044 0719 4481 03\"",
            "{\"iban_a\":\"DE373704004\",\"iban_b\":\"40719448103\"}",
        ],
        &["DE75512108001245126198", "DE00512108001245126199"],
    );
    check("aba_routing", Likely, &["routing 122105155"], &["122105155", "routing 122105156"]);
    check("bank_account", Likely, &["account number 7782910345"], &["order 7782910345"]);
}
