import csv
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.features.text.language import ENGLISH, MAX_CHARACTERS, UNDETERMINED, TextCheck, check_text
from tests.support.corpus import real_data

ENGLISH_SENTENCES = (
    "I did not expect to like this film, and yet I did!",
    "No complaints here.",
    "My flight leaves at nine.",
    "WHAT THE HELL ARE YOU DOING",
    "recieved the pakage yestarday, definately dissapointed",
    "teh food was awfull",
    "omg im so happy rn",
    "ain't nobody got time for that",
    "i luv it sooo much lol 😂😂",
    "I love this https://example.com/los-mejores-libros @todos_nosotros",
    "[PAD] good",
    "\U0001d4d8 \U0001d4f5\U0001d4f8\U0001d4ff\U0001d4ee \U0001d4fd\U0001d4f1\U0001d4f2\U0001d4fc",
    "I love 寿司",
)
# Too short, or made of names: English need not be the likeliest, but the text must not be foreign.
SHORT_TEXTS = (
    *("Really?!", "Oh my God", "Yeah, okay.", "No way!", "Hmm...", "Uh-huh.", "Ta-da!", "Okay?", "Oops", "lol", "bruh"),
    *("Chandler Bing", "Hey, Pheebs.", "Ross?", "Go, go, go!", "La la la", "hahaha", "so sad", "gonna miss u", "u ok?"),
    *("Joey Tribbiani", "San Francisco", "naïve", "Schwarzenegger", "Merry Christmas", "plz help", "gr8 job", "meh"),
)
FOREIGN_SENTENCES = (
    ("ca", "Demà anirem a la platja amb la família."),
    ("cs", "Proč jsi mi včera večer nezavolal?"),
    ("da", "Hun blev meget glad for gaven."),
    ("de", "Ich bin sehr enttäuscht von diesem schlechten Essen."),
    ("es", "No me lo puedo creer, esto es increíble."),
    ("et", "Film oli palju parem, kui ma ootasin."),
    ("fi", "Miksi et soittanut minulle eilen illalla?"),
    ("fr", "Je ne sais pas quoi faire maintenant."),
    ("hr", "Film je bio puno bolji nego što sam očekivao."),
    ("hu", "Holnap a családommal a tengerhez megyünk."),
    ("id", "Kenapa kamu tidak menelepon saya tadi malam?"),
    ("it", "Mia madre mi ha chiamato tre volte ieri sera."),
    ("lt", "Rytoj su šeima važiuojame prie jūros."),
    ("nl", "Ik kan niet geloven dat je dat gedaan hebt."),
    ("no", "Filmen var mye bedre enn jeg hadde trodd."),
    ("pl", "Dlaczego nigdy mnie nie słuchasz?"),
    ("pt", "Hoje estou triste porque perdi o meu cachorro."),
    ("ro", "Astăzi nu vreau să vorbesc cu nimeni."),
    ("sk", "Zajtra ideme s rodičmi k moru."),
    ("sv", "Varför ringde du mig inte igår kväll?"),
    ("tr", "Bugün kimseyle konuşmak istemiyorum."),
    ("vi", "Tôi không thể tin chuyện đó đã xảy ra."),
)
WITHOUT_ACCENTS = (
    "No me lo puedo creer, esto es increible",
    "je suis tres decu par ce film",
    "cok guzel bir gun bugun",
)
SHORT_FOREIGN_SENTENCES = (
    *("No me gusta.", "Te quiero mucho.", "Je suis fatigué.", "C'est pas vrai !", "Ich bin sehr enttäuscht."),
    *("Das ist toll.", "Non mi piace.", "Che cosa vuoi?", "Estou muito feliz.", "Ik hou van jou.", "Co ty robisz?"),
    *("Jag är trött.", "Hvad laver du?", "Se on hienoa.", "Seni çok seviyorum.", "To je skvělé.", "Te iubesc mult."),
)
OTHER_SCRIPTS = (
    ("ar", "لا أستطيع أن أصدق أن هذا حدث"),
    ("el", "Δεν μπορώ να το πιστέψω"),
    ("he", "מה אתה עושה עכשיו"),
    ("hi", "मैं आज बहुत दुखी हूँ"),
    ("ja", "今日はとても悲しいです"),
    ("ja", "東京大学経済学部へ"),
    ("ko", "이 영화는 정말 재미있었어요"),
    ("ko", "네"),
    ("ru", "Я не могу поверить, что это случилось."),
    ("th", "ฉันเสียใจมากวันนี้"),
    ("uk", "Я дуже втомився"),
    ("ur", "مجھے یہ فلم بہت پسند آئی"),
    ("zh", "我今天非常难过"),
    ("zh", "好"),
    ("zh", "我非常喜欢这个 iPhone 手机"),
    (UNDETERMINED, "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ"),  # Cherokee, a script without an entry
)
WITHOUT_WORDS = (
    *("", " \n\t", "🙂🙂🙂", "\ufe0f", "❤️", "1️⃣", "?!", "10/10", "00:00:02,000", ":D", "¯\\_(ツ)_/¯", "ಠ_ಠ", "\ud800"),
    *("\x00\x01", "\u202e\u200f", "https://example.com/good", "@someone", "k"),
)


@pytest.mark.parametrize("text", ENGLISH_SENTENCES)
def test_english_sentences_are_english(text: str) -> None:
    check = check_text(text)
    assert check.language == ENGLISH
    assert check.english >= 0.5
    assert not check.foreign
    assert not check.low_information


@pytest.mark.parametrize("text", SHORT_TEXTS)
def test_short_english_is_not_foreign(text: str) -> None:
    check = check_text(text)
    assert check.language in {ENGLISH, UNDETERMINED}
    assert not check.foreign
    assert not check.low_information


@pytest.mark.parametrize(("language", "text"), FOREIGN_SENTENCES)
def test_sentences_in_another_language_are_foreign(language: str, text: str) -> None:
    check = check_text(text)
    assert check.language == language
    assert check.english < 0.05
    assert check.foreign
    assert not check.low_information


@pytest.mark.parametrize("text", WITHOUT_ACCENTS + SHORT_FOREIGN_SENTENCES)
def test_short_or_unaccented_foreign_sentences_are_foreign(text: str) -> None:
    check = check_text(text)
    assert check.foreign
    assert check.language not in {ENGLISH, UNDETERMINED}


@pytest.mark.parametrize(("language", "text"), OTHER_SCRIPTS)
def test_text_in_another_script_is_foreign(language: str, text: str) -> None:
    check = check_text(text)
    assert check == TextCheck(language, 0.0, low_information=False)
    assert check.foreign


@pytest.mark.parametrize("text", WITHOUT_WORDS)
def test_text_without_words_has_no_language(text: str) -> None:
    check = check_text(text)
    assert check == TextCheck(UNDETERMINED, 0.5, low_information=True)
    assert not check.foreign


def test_only_the_beginning_is_checked() -> None:
    begin = "I liked it a lot. " * (MAX_CHARACTERS // 10)
    assert check_text(begin + "我今天非常难过" * 5_000) == check_text(begin[:MAX_CHARACTERS])
    assert check_text(" " * 60_000 + "Je ne sais pas quoi faire.").foreign


def test_compatibility_characters_do_not_lengthen_the_checked_text() -> None:
    # U+FDFA is 18 letters in NFKC.
    assert check_text("\ufdfa" * 60_000).language == "ar"


def test_threads_give_equal_results() -> None:
    texts = [text for _, text in FOREIGN_SENTENCES + OTHER_SCRIPTS] + list(ENGLISH_SENTENCES)
    expected = [check_text(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(check_text, texts * 5)) == expected * 5


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(), max_size=200),  # lone surrogates, control and unassigned characters included
        st.text("aeo -'’.@:/\u0301\ufe0f\u200d🙂ツ我я\ud83d\x00\n", max_size=60),
    )
)
def test_any_text_is_accepted(text: str) -> None:
    check = check_text(text)
    assert 0.0 <= check.english <= 1.0
    assert check.language
    assert check.foreign == (check.english < 1 / 17)
    assert not (check.foreign and check.low_information)


def shared_rows(name: str, column: str) -> list[dict[str, str]]:
    folder = real_data()
    if not (folder / name).is_file():
        pytest.skip(f"no {name} here")
    with (folder / name).open(encoding="utf-8", errors="replace", newline="") as file:
        return [row for row in csv.DictReader(file) if row[column]]


@pytest.mark.parametrize(("name", "column"), [("meld/dev_sent_emo.csv", "Utterance"), ("mosi/utterances.csv", "text")])
def test_at_most_one_in_200_real_english_sentences_is_foreign(name: str, column: str) -> None:
    texts = [row[column] for row in shared_rows(name, column)]
    assert sum(check_text(text).foreign for text in texts) <= len(texts) / 200


def test_at_least_99_percent_of_real_foreign_sentences_are_foreign() -> None:
    rows = shared_rows("voices/index.csv", "text")
    texts = {row["text"] for row in rows if row["corpus"] != "turev"}  # its texts are single words
    assert texts
    assert sum(check_text(text).foreign for text in texts) >= 0.99 * len(texts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1\n00:00:00,000 --> 00:00:02,000\nI love this", True),
        ("WEBVTT\n\n00:01.000 --> 00:04.000\nI love this", True),
        ("00:00:01.500 --> 100:00:02.000 align:start\r\nYes.", True),
        ("The train leaves at 10:30 --> platform 2.", False),
        ("I love this", False),
    ],
)
def test_times_of_subtitles_are_recognised(text: str, found: bool) -> None:
    assert check_text(text).subtitles == found
