"""Things for a synthetic voice to say: made-up words in the sounds of many languages, and English.

Meaning does not matter to a mouth; variety of sound sequences does. A language is described by the
beginnings, cores and ends of its syllables, written as its synthesiser reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Syllables:
    """What syllables are made of; `-` stands for nothing."""

    onsets: str
    cores: str
    codas: str = "-"

    def word(self, rng: np.random.Generator) -> str:
        """One to four syllables; only the last is often closed."""
        count = int(rng.choice([1, 2, 2, 3, 3, 4]))
        return "".join(self._syllable(rng, last=n == count - 1) for n in range(count))

    def _syllable(self, rng: np.random.Generator, last: bool) -> str:
        closed = rng.random() < (0.5 if last else 0.2)
        parts = [self.onsets, self.cores] + ([self.codas] if closed else [])
        return "".join(str(rng.choice(p.split())) for p in parts).replace("-", "")


_HARAKAT = "َ ِ ُ َا ِي ُو"
SYLLABLES = {
    "es": Syllables(
        "b c d f g l m n p r s t v ch ll ñ br tr pl j -", "a e i o u ie ue ai", "n s r l"),
    "it": Syllables("b c d f g l m n p r s t v z ch gl sp tr -", "a e i o u ia uo", "n r l"),
    "pt-br": Syllables("b c d f g l m n p r s t v ch lh nh br tr -", "a e i o u ão ei ou", "s r m"),
    "fr": Syllables(
        "b c d f g l m n p r s t v ch j tr pl br", "a é i o u ou eu on an in oi au", "r l s t"),
    "fr-be": Syllables("b d f g l m n p r s t v ch j pr", "a é i o u ou eu on an in oi", "r l c"),
    "de": Syllables(
        "b d f g h k l m n p r s t w z sch st pf schw -", "a e i o u ä ö ü ei au eu",
        "n r l t ch f m"),
    "nl": Syllables(
        "b d f g h k l m n p r s t v w z sch -", "a e i o u aa ee oo ui ij oe eu", "n r l t k m p"),
    "sv": Syllables("b d f g h k l m n p r s t v sj tj -", "a e i o u y å ä ö", "n r l t m"),
    "da": Syllables("b d f g h k l m n p r s t v -", "a e i o u y å æ ø", "n r l t m"),
    "pl": Syllables(
        "b c d f g k l ł m n p r s t w z sz cz rz prz -", "a e i o u ó y ą ę", "n m k ć sz"),
    "cs": Syllables("b c d f h k l m n p r ř s t v z š č ž -", "a e i o u á é í ou", "n m k l t"),
    "hr": Syllables("b c d f g h k l m n p r s t v z š č ž lj nj", "a e i o u", "n m k l t"),
    "tr": Syllables("b c ç d f g h k l m n p r s ş t v y z", "a e ı i o ö u ü", "n r l k m t"),
    "fi": Syllables("h j k l m n p r s t v -", "a e i o u y ä ö aa ii uu ei uo", "n s l r"),
    "hu": Syllables(
        "b c d f g h k l m n p r s sz t v z cs gy -", "a á e é i o ó ö u ü", "n k l t m"),
    "ro": Syllables("b c d f g l m n p r s ș t ț v -", "a ă e i o u î ea", "n r t l"),
    "id": Syllables("b c d g h j k l m n p r s t w y ng ny", "a e i o u ai au", "n ng k r s m t"),
    "sw": Syllables("b ch d f g h j k l m n p r s sh t v w y z mb nd", "a e i o u"),
    "vi": Syllables(
        "b c ch d đ g h kh l m n nh ph qu s t th tr v x", "a ă â e ê i o ô ơ u ư á à ả ạ",
        "n ng m t c p"),
    "et": Syllables("h j k l m n p r s t v -", "a e i o u õ ä ö ü aa oo", "n s l k d"),
    "cmn-latn-pinyin": Syllables(
        "b p m f d t n l g k h zh ch sh z c s", "a1 a2 e4 u3 ou1 ai4 an2 ang3 eng1 u4 ao3"),
    "ru": Syllables("б в г д ж з к л м н п р с т ф х ц ч ш -", "а е и о у ы ю я э", "н т л м в к"),
    "uk": Syllables("б в г ґ д ж з к л м н п р с т ф х ч ш -", "а е и і о у ю я є", "н т л м в к"),
    "bg": Syllables("б в г д ж з к л м н п р с т ф х ц ч ш -", "а е и о у ъ ю я", "н т л м в к"),
    "el": Syllables("β γ δ θ κ λ μ ν π ρ σ τ φ χ μπ ντ -", "α ε η ο ου ω ι αι ει", "ν ς ρ"),
    "ar": Syllables(
        "ب ت ث ج ح خ د ر ز س ش ص ض ط ع غ ف ق ك ل م ن ه و ي", _HARAKAT, "ْن ْر ْل ْم ْب ْت ْس"),
    "fa": Syllables("ب پ ت ج چ خ د ر ز س ش ف ق ک گ ل م ن ه", "ا و ی َ ِ ُ", "ن ر م ش ت"),
    "hi": Syllables(
        "क ख ग च ज ट ड त द न प फ ब भ म य र ल व श स ह", "ा ि ी ु ू े ै ो ौ -", "न म र ल त क"),
    "ja": Syllables(
        "か き く け こ さ し す た ち つ て と な に の "
        "は ひ ふ ま み む め も や ゆ よ ら り れ ろ わ ば ぶ ぱ ぷ", "-", "ん"),
    "ko": Syllables(
        "가 나 다 라 마 바 사 아 자 하 고 노 도 모 보 소 오 "
        "구 두 무 부 수 우 기 니 리 미 비 시 이 머 버 서 어 페 메 배", "-"),
}  # fmt: skip

_ENGLISH = {
    "who": "my mother|the bishop|a farmer|that woman|everybody|the baby|our teacher|the shy boy|"
    "a famous poet|the pilot|your neighbour|some people|the chef|his brother|the young judge|"
    "a wolf|the old man|every visitor|she|he|they|we",
    "did": "bought|would choose|pushed|remembers|will fix|moved|might borrow|should have washed|"
    "opened|brings|found|paints|keeps watching|forgot|threw away|is going to sell|carried|"
    "wants to visit|imagined|put down|thought about",
    "what": "five brown boxes|the whole bottle of milk|a purple hat|both of the maps|"
    "the river path|my favourite movie|that funny picture|two bowls of soup|the broken window|"
    "a pair of shoes|warm bread and butter|the measure of the room|pepper|the beautiful view|"
    "an umbrella|fresh orange juice|a huge elephant|the village church|new furniture|the bus",
    "when": "before breakfast|every morning|in the spring|about four o'clock|after the meeting|"
    "without a word|because of the weather|on the beach|with both hands|far above the sea|"
    "for the first time|again and again|last Wednesday|beneath the bridge|if possible|today",
}
ENGLISH = ("en-us", "en-gb-scotland", "en-029", "en-gb-x-rp")


def sentence(language: str, rng: np.random.Generator) -> str:
    """Something of three to a dozen words, with the language's own numbers now and then."""
    number = str(rng.integers(10 ** rng.integers(1, 5)))
    if language not in SYLLABLES:
        words = [str(rng.choice(_ENGLISH[part].split("|"))) for part in ("who", "did", "what")]
        if rng.random() < 0.6:
            words.append(str(rng.choice(_ENGLISH["when"].split("|"))))
        if rng.random() < 0.2:
            words.append(f", {number} times")
    else:
        words = [SYLLABLES[language].word(rng) for _ in range(rng.integers(3, 10))]
        if rng.random() < 0.4:
            words.insert(int(rng.integers(len(words))), number)
        if len(words) > 5:
            words[len(words) // 2] += ","
    return " ".join(words) + str(rng.choice([".", ".", ".", "!", "?"]))


LANGUAGES = (*ENGLISH, *SYLLABLES)
