import pytest

from tests.unit.governance.finding import found, guarded

# Numbers from standards, from issuers' test pages and from python-stdnum's own tests: nobody's.
FOUND = [
    ("email", "write to {} today", "john.doe+news@mail.example.co.uk"),
    ("email", "我的邮箱是{}，谢谢", "zhang@example.com"),
    ("email", "({})", "a@b.io"),
    ("email", "{}.", "first_last@sub.example.org"),
    ("phone", "ring {} now", "+49 (0)30 123456-78"),
    ("phone", "ring {}", "+86 138 1234 5678"),
    ("phone", "ring {}, please", "(212) 555-0187"),
    ("phone", "or {}", "1-212-555-0187"),
    ("phone", "手机{}。", "13812345678"),
    ("phone", "appelez le {}", "06 12 34 56 78"),
    ("phone", "on {} or", "020 7946 0958"),
    ("phone", "Telefon: {}", "030 901820"),
    ("phone", "call me at {}", "5550187"),
    ("card", "card {} exp", "4111 1111 1111 1111"),
    ("card", "card {}", "4111111111111111"),
    ("card", "{}", "5555-5555-5555-4444"),
    ("card", "{}", "2223003122003222"),
    ("card", "amex {}", "3782 822463 10005"),
    ("card", "{}", "6011111111111117"),
    ("card", "{}", "3530111333300000"),
    ("card", "{}", "30569309025904"),
    ("card", "{}", "6200000000000005"),
    ("card", "in 2024 {}", "4111 1111 1111 1111"),
    ("card", "{}", "４１１１１１１１１１１１１１１１"),
    ("iban", "to {} please", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "{}", "DE89370400440532013000"),
    ("iban", "{}", "NO93 8601 1117 947"),
    ("iban", "{}", "MT84 MALT 0110 0001 2345 MTLC AST0 01S"),
    ("iban", "BIC: {}", "DEUTDEFF500"),
    ("passport", "passport number: {}", "C01X00T47"),
    ("passport", "护照号码 {}", "E12345678"),
    ("passport", "Reisepass Nr. {}", "C4J2K8L90"),
    ("national_id", "身份证{}", "11010519491231002X"),
    ("national_id", "{}", "360426199101010071"),
    ("national_id", "{}", "536-90-4399"),
    ("national_id", "SSN {}", "536904399"),
    ("national_id", "{}", "AB 12 34 56 C"),
    ("national_id", "{}", "AB123456C"),
    ("national_id", "NHS {}", "943 476 5870"),
    ("national_id", "Aadhaar {}", "2341 2341 2346"),
    ("national_id", "PAN: {}", "ACUPA7085R"),
    ("national_id", "{}", "390.533.447-05"),
    ("national_id", "CPF {}", "39053344705"),
    ("national_id", "{}", "16.727.230/0001-97"),
    ("national_id", "{}", "54362315-K"),
    ("national_id", "{}", "X-2482300W"),
    ("national_id", "{}", "2 95 10 99 126 111 93"),
    ("national_id", "{}", "RCCMNL83S18D969H"),
    ("national_id", "Steuer-ID {}", "36 574 261 809"),
    ("national_id", "BSN {}", "111222333"),
    ("national_id", "{}", "85.07.30-033.28"),
    ("national_id", "PESEL {}", "44051401359"),
    ("national_id", "{}", "756.9217.0769.85"),
    ("national_id", "{}", "880320-0016"),
    ("national_id", "{}", "131052-308T"),
    ("national_id", "{}", "971013-9019902"),
    ("national_id", "マイナンバー {}", "6214 9832 0257"),
    ("national_id", "{}", "S1234567D"),
    ("national_id", "{}", "G1234567X"),
    ("national_id", "{}", "M1234567K"),
    ("national_id", "{}", "A123456(3)"),
    ("national_id", "HKID {}", "AB9876543"),
    ("national_id", "{}", "A123456789"),
    ("national_id", "TCKN {}", "17291716060"),
    ("national_id", "{}", "BOXW310820HNERXN09"),
    ("national_id", "ID {}", "7503305044089"),
    ("national_id", "SIN {}", "123-456-782"),
    ("national_id", "TFN {}", "123 456 782"),
    ("ip_address", "from {}", "203.0.113.7"),
    ("ip_address", "from {} to", "2001:db8::8a2e:370:7334"),
    ("secret", "{}", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "{}", "ghp_" + "a1B2c3D4e5F6" * 3),
    ("secret", "{}", "xoxb-123456789012-abcdefABCDEF"),
    ("secret", "{}", "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"),
    ("secret", "{}", "sk-cc-" + "aB3_-" * 8),
    ("secret", "{}", "sk-ant-api03-" + "aB3_-" * 8),
    ("secret", "{}", "sk-proj-" + "aB3dE" * 8),
    ("secret", "{}", "sk_live_" + "aB3dE" * 5),
    ("secret", "Bearer {}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
    ("secret", "password={}", "hunter2!x"),
    ("secret", 'api_key: "{}"', "abcd1234efgh5678"),
    ("secret", "the password is {} for all", "Tr0ub4dor&3"[:9]),
    ("secret", "aws_secret_access_key = {}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("secret", "postgres://app:{}@db.internal/x", "p4ssw0rd"),
    ("secret", "{}", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK==\n-----END RSA PRIVATE KEY-----"),
    ("secret", "{}", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA"),
]  # fmt: skip

LEFT_ALONE = [
    "The meeting of 2024-05-17 at 10:30 is in room 4711, floor 12.",
    "It costs 1,234,567.89 dollars, 15 % more than the 987654321 of last year.",
    "for i in range(1000000): total += values[i] * 3.14159265358979",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b of main, build 20240517123456",
    "react@18.2.0 and git@github.com:owner/repository.git, @app.route('/x')",
    "version 10.0.19041.1 and numpy==1.26.4; ISBN 978-3-16-148410-0",
    "order 4111 1111 1111 1112 of 4000 0000 pieces, serial 1234 5678 9012",
    "timestamps 1716000000 and 1716000000123, id 550e8400-e29b-41d4-a716-446655440000",
    "password: your_password_1, token = os.environ['TOKEN_1'], secret=${SECRET_1}",
    "the passport office, card games, IBAN numbers and phone booths of 1984",
    "GB00 WEST 1234 5698 7654 32 is no account, DE12 3456 is none",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "x = a1 + b2 - c3 * d4 / e5; y = 0x7fffffff; z = 1e10",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
    "A1 B2 C3 D4 E5 ROW 12 COL 34",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "我今年25岁，住在北京市朝阳区建国路100号，邮编100022。",
    "000-12-3456 and 666-12-3456 are no social security numbers",
    "https://example.com/a/b?page=12&size=100#section-3",
]


@pytest.mark.parametrize(("kind", "around", "value"), FOUND)
def test_finds_it_and_nothing_around_it(kind: str, around: str, value: str) -> None:
    assert found(around.format(value)) == [(kind, value)]


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_leaves_ordinary_text_numbers_and_code_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "value",
    ["4111111111111111", "DE89370400440532013000", "11010519491231002X", "390.533.447-05", "S1234567D", "A123456(3)"],
)
def test_a_wrong_digit_is_no_such_number(value: str) -> None:
    place = 5
    wrong = value[:place] + str((int(value[place]) + 1) % 10) + value[place + 1 :]
    assert {kind for kind, _ in found(wrong)} <= {"phone"}


def test_invisible_characters_hide_nothing() -> None:
    text = "a\u200bnn@exam\u00adple.com and 4111\u200b111111111111."
    assert guarded([text])[0] == "[EMAIL_1] and [CARD_1]."
