"""The tokenizer equals open_clip's on everything but special strings, which are ordinary text here."""

from __future__ import annotations

import gzip
import html
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt.bpe import EOT, MERGES, SOT, Vocabulary, vocabulary_from_file
from lrsclip_rt.errors import BundleError, InputError
from lrsclip_rt.tokenizer import Tokenizer, blank_texts, clean_text

SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
SPECIALS = ("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>")

GOLDEN = {
    "": [],
    "a football field": [320, 1882, 1570],
    "Many PLANES are parked next to a long building, in an airport.": [
        *(1346, 12581, 631, 16487, 1131, 531, 320, 1538, 2307, 267, 530, 550, 3259, 269)
    ],
    "It's 2024: the pond's 3.5 m deep & we've 12 boats": [
        *(585, 568, 273, 271, 273, 275, 281, 518, 10750, 568, 274, 269, 276, 332, 3383, 261, 649),
        *(1200, 272, 273, 10080),
    ],
    "caf\u00c3\u00a9 &amp; <b>\u6e2f</b> \U0001f6a2": [
        *(15304, 261, 283, 321, 285, 162, 116, 363, 34308, 321, 285, 2730, 351)
    ],
    "\u05e0\u05de\u05dc \u202e\u0645\u064a\u0646\u0627\u0621": [
        *(147, 254, 147, 252, 147, 506, 728, 362, 12986, 12046, 16655, 13189, 350)
    ],
    "baseballfields\x00\x1b[31m  red\u00a0roof\u2028\u2029": [23479, 6494, 736, 6449],
    "\ufb01elds \uff30\uff25\uff21\uff32 \u201cquoted\u201d": [6494, 18820, 257, 27706, 257],
    "<|startoftext|>": [27, 347, 993, 6659, 4160, 91, 285],
    "<|endoftext|>": [27, 347, 40786, 4160, 91, 285],
    "<start_of_text>": [283, 1572, 318, 539, 318, 4160, 285],
    "x <END_of_text>": [343, 283, 806, 318, 539, 318, 4160, 285],
}

HOSTILE = [
    *(text for text in GOLDEN if not any(special in text.lower() for special in SPECIALS)),
    " \t\r\n\v\f ",
    "\x1c\x1d\x1e\x1f\x85\u00a0\u2000\u3000 between \x1c\x1d",
    "&lt;b&gt; &amp;lt; &amp;amp;amp; &#65; &#x1F6A2; &#0; &#xD800; &notanentity; &copy &EACUTE; AT&T &",
    "&amp;#28;x&amp;#127;y&amp;#9;z",
    "<p>tags &amp; entities</p>\n&lt;second line&gt;",
    "first &lt;line&gt;\nthen <b>&lt;raw&gt;</b>\nand &lt;more&gt;",
    "&amp;" * 40 + "lt;" + "&" + "amp;" * 40 + "eacute;",
    "&" + "amp;" * 100 + "x\n<b> &" + "amp;" * 100 + "x",
    "&" + "#38;AMP;#x26;#X26;" * 30 + "quot;",
    "\u00e2\u20ac\u0153mojibake\u00e2\u20ac\u009d \u00c3\u00bc\u00c3\u00b1 \u00ef\u00bb\u00bf",
    "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2708\ufe0f",
    "\u202e\u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0645\u0637\u0627\u0631 \u2066left\u2069",
    "Z\u0361\u0489a\u0335l\u0316g\u0338o\u0321 e\u0301 \u0130stanbul \u03a3\u0391\u03a3 STRA\u1e9eE",
    "it\u02bcs '\u017f '\u212a 'S 'LL 'Ve don't 's't're've'm'll'd",
    "\ud800 lone \udfff pair \ud83d\ude80 surrogates",
    "\x1b[1;31mred\x1b[0m \x9b31m \x07\x08\x7f \ufeff\ufffe\uffff",
    "\u00bd \u2460 \u0663 \u216b x\u00b2 10\u207b\u2076 1,234.56",
    "</w> a</w>b <w>",
    "\u4e2d\u6587\u6e2f\u53e3 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22",
    "a" * 300,
    "ab" * 2500,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def reference() -> Any:
    imports = pytest.importorskip("lrsclip_train.open_clip_import", reason="needs the training package")
    try:
        imports.import_open_clip()
    except ImportError as error:
        pytest.skip(str(error))
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=248)


def full_clean(text: str) -> str:
    """The cleaning without any short cut."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).strip().split()).strip().lower()


@pytest.mark.parametrize("text", GOLDEN, ids=ascii)
def test_known_texts_give_their_known_ids(tokenizer: Tokenizer, text: str) -> None:
    row = tokenizer.encode(text)[0]
    ids = GOLDEN[text]
    assert row[: len(ids) + 2].tolist() == [SOT, *ids, EOT]
    assert not row[len(ids) + 2 :].any()


def test_rows_are_int32_and_248_wide_in_the_order_of_the_texts(tokenizer: Tokenizer) -> None:
    rows = tokenizer.encode(["a river", "", "two ships"])
    assert rows.shape == (3, 248)
    assert rows.dtype == np.int32
    assert rows[1, :3].tolist() == [SOT, EOT, 0]
    assert (rows[2] == tokenizer.encode("two ships")[0]).all()
    assert tokenizer.encode([]).shape == (0, 248)


def test_a_text_that_just_fits_is_not_cut_and_one_more_token_is(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode_batch(["7" * 246, "7" * 247, "7" * 400, "7"])
    assert batch.cut.tolist() == [False, True, True, False]
    assert batch.eot.tolist() == [247, 247, 247, 2]
    assert (batch.tokens[:3, -1] == EOT).all()
    assert (batch.tokens[0] == batch.tokens[1]).all()
    assert (batch.tokens[np.arange(4), batch.eot] == EOT).all()
    assert len(batch) == 4
    assert "2 cut" in repr(batch)


def test_another_context_length_cuts_there() -> None:
    row = Tokenizer(context_length=5).encode("one two three four five")[0]
    assert row.tolist() == [SOT, 637, 1237, 2097, EOT]


@pytest.mark.parametrize("special", SPECIALS)
def test_special_strings_are_ordinary_text(tokenizer: Tokenizer, special: str) -> None:
    variants = [
        special,
        special.upper(),
        f"a {special} field",
        f"x{special}y",
        special * 3,
        f"&lt;{special[1:]}",
    ]
    for text in variants:
        batch = tokenizer.encode_batch(text)
        inner = batch.tokens[0, 1 : batch.eot[0]]
        assert len(inner) > 5
        assert inner.max() < SOT
        assert tokenizer.decode(inner).replace(" ", "") == clean_text(text).replace(" ", "")


def test_hostile_text_equals_open_clip(tokenizer: Tokenizer, reference: Any) -> None:
    for text in HOSTILE:
        assert (tokenizer.encode(text)[0] == reference(text)[0].numpy()).all(), ascii(text[:80])


def test_every_short_ascii_text_equals_open_clip(tokenizer: Tokenizer, reference: Any) -> None:
    letters = [chr(code) for code in range(256)]
    texts = [*letters, *(f"{a}b&{a}{a} 1{a}'s" for a in letters)]
    assert (tokenizer.encode(texts) == reference(texts).numpy()).all()


PIECES = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="ab'sStTdDlL &#;<>0123456789\t\r\n\x00\x1b[m", max_size=12),
    st.sampled_from(
        ["&amp;", "&lt;", "&", "amp;", "\u00c3\u00a9", "\u00e2\u20ac\u2122", "'ve", "\u0301", "\u2028"]
    ),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_any_text_equals_open_clip(reference: Any, text: str) -> None:
    if not any(special in full_clean(text) for special in SPECIALS):
        assert (Tokenizer().encode(text)[0] == reference(text)[0].numpy()).all()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_the_short_cuts_of_the_cleaning_change_nothing(text: str) -> None:
    assert clean_text(text) == full_clean(text)


@pytest.mark.parametrize("levels", [1, 2, 15, 16, 17, 60])
@pytest.mark.parametrize("tail", ["", "lt;", "eacute;", "x", " & <b>", "\n<b>&lt;", "#38;#38;lt;"])
def test_an_ampersand_escaped_many_times_is_cleaned_like_any_other(levels: int, tail: str) -> None:
    for text in (
        "&" + "amp;" * levels + tail,
        "<i>\n&" + "amp;" * levels + tail,
        "&#x26;" + "#38;" * levels + tail,
    ):
        assert clean_text(text) == full_clean(text)


def captions(data_dir: Path) -> list[str]:
    texts: dict[str, None] = {}
    files = [*sorted((data_dir / "text").glob("*.jsonl")), data_dir / "aid_rsicd" / "pairs.jsonl"]
    assert len(files) > 5
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            record = json.loads(line)
            long = [record["long"]] if "long" in record else []
            texts.update(dict.fromkeys([*record.get("captions", []), *record.get("short", []), *long]))
    return list(texts)


def test_a_tenth_of_all_real_captions_equals_open_clip(
    data_dir: Path, tokenizer: Tokenizer, reference: Any
) -> None:
    texts = captions(data_dir)[::10]
    assert (tokenizer.encode(texts) == reference(texts).numpy()).all()


@pytest.mark.slow
def test_every_real_caption_equals_open_clip(data_dir: Path, tokenizer: Tokenizer, reference: Any) -> None:
    texts = captions(data_dir)
    assert len(texts) > 50_000
    assert int((tokenizer.encode(texts) != reference(texts).numpy()).sum()) == 0


def words() -> Iterator[str]:
    rng = random.Random(7)
    yield from ("a", "aaaaaaa", "ab" * 9, "\u00e9\u00e9\u00e9", "\U0001f6a2" * 5)
    for length in (2, 3, 5, 8, 13, 40, 200):
        for alphabet in ("ab", "aeinrst", "abcdefghijklmnopqrstuvwxyz", "!?.-", "\u00e9\u6e2f\u0301"):
            yield from ("".join(rng.choices(alphabet, k=length)) for _ in range(20))
    yield "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=4000))
    yield "the" * 1000


def test_merging_with_a_heap_equals_merging_round_by_round(tokenizer: Tokenizer) -> None:
    vocabulary = vocabulary_from_file(tokenizer.path)
    letters = [vocabulary.symbols[i] for i in range(256)]
    # Ids 0..93 are "!".."~" and so on: the byte of a symbol follows from printable Latin-1 order.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = [*printable, *(b for b in range(256) if b not in printable)]
    symbol = dict(zip(order, letters, strict=True))
    for word in words():
        parts = [symbol[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while True:
            pairs = {pair: vocabulary.ranks.get(pair, MERGES) for pair in pairwise(parts)}
            best = min(pairs, key=lambda pair: pairs[pair], default=None)
            if best is None or pairs[best] == MERGES:
                break
            merged: list[str] = []
            for part in parts:
                # Only a pair of untouched neighbours: a merged symbol is longer than either half.
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        assert list(vocabulary.ids_from_word(word)) == [vocabulary.ids[part] for part in parts], word[:60]


def test_all_places_of_a_merge_come_before_a_lower_one_that_it_makes_possible() -> None:
    # "abc" has two spellings, so the merge of rank 2 makes the pair of rank 1 possible.
    ranks = {("b", "c"): 0, ("abc", "a"): 1, ("a", "bc"): 2, ("ab", "c"): 3}
    symbols = ("abc", "b</w>", "abca", "bc")
    vocabulary = Vocabulary("", {symbol: i for i, symbol in enumerate(symbols)}, symbols, ranks)
    assert vocabulary.ids_from_word("abcabcb") == (0, 0, 1)


def test_words_of_a_few_kilobytes_equal_open_clip(tokenizer: Tokenizer, reference: Any) -> None:
    rng = random.Random(3)
    for alphabet in ("ab", "abcdefghijklmnopqrstuvwxyz", "\u00e9\u6e2f"):
        word = "".join(rng.choices(alphabet, k=2000))
        ids = [i for part in [word] for i in vocabulary_from_file(tokenizer.path).ids_from_word(part)]
        assert ids == reference.encode(word)


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "ab",
        "the",
        "7",
        "!",
        "&",
        "&amp;",
        "amp;",
        "<",
        "\u6e2f",
        "\U0001f6a2",
        "\u00c3\u00a9",
        "'s",
        "\x1b[1m",
    ],
)
def test_a_hundred_kilobytes_without_a_space_are_encoded(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for variant in (text, "&" + text):
        batch = tokenizer.encode_batch(variant)
        assert batch.tokens[0, batch.eot[0]] == EOT
        assert batch.tokens[0, 1 : batch.eot[0]].max(initial=0) < SOT


def test_threads_share_one_tokenizer() -> None:
    texts = [
        f"{word} {number}"
        for word in ("harbour", "tanks", "caf\u00c3\u00a9", "q" * 70)
        for number in range(300)
    ]
    expected = Tokenizer().encode(texts)
    shared = Tokenizer()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: shared.encode(texts), range(16)))
    assert all((result == expected).all() for result in results)


def test_the_cache_of_words_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrsclip_rt.tokenizer._CACHED_WORDS", 10)
    tokenizer = Tokenizer()
    texts = [f"word{i} " + "x" * 100 for i in range(50)]
    assert (tokenizer.encode(texts) == Tokenizer().encode(texts)).all()
    assert 0 < len(tokenizer._words) <= 10
    assert all(len(word) < 100 for word in tokenizer._words)


def test_decoding_undoes_encoding_up_to_the_cleaning(tokenizer: Tokenizer) -> None:
    text = "  White storage\ttanks near the caf\u00e9 \u6e2f \U0001f6a2 "
    row = tokenizer.encode(text)[0]
    assert tokenizer.decode(row) == clean_text(text)
    assert tokenizer.decode(tokenizer.encode("")[0]) == ""
    assert tokenizer.decode([SOT, 320, EOT, 1570]) == "a"
    assert tokenizer.decode([162]) == "\ufffd"


@pytest.mark.parametrize("bad", [-1, 49408])
def test_decoding_an_id_outside_the_vocabulary_is_an_error(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(InputError, match=f"token id {bad} is not in the vocabulary"):
        tokenizer.decode([320, bad])


def test_blank_texts_are_those_without_a_token(tokenizer: Tokenizer) -> None:
    texts = ["a", "", " \t\n", "\u00a0\u3000", "\x00\x1b[0m", "&#32;", "\u200b", "0", "\ufeff"]
    assert blank_texts(texts) == (1, 2, 3, 4, 5, 8)
    assert blank_texts(texts) == tuple(np.flatnonzero(tokenizer.encode_batch(texts).eot == 1))
    assert blank_texts(" ") == (0,)


def test_what_is_no_text_is_refused_with_its_position(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"text 1 is a bytes, expected a str"):
        tokenizer.encode(["a", b"b"])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"text 0 is a NoneType"):
        blank_texts([None])  # type: ignore[list-item]


def test_a_context_too_short_for_sot_and_eot_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        Tokenizer(context_length=1)


def test_the_built_in_vocabulary_is_clips(tokenizer: Tokenizer) -> None:
    assert tokenizer.sha256 == SHA256


def test_nothing_is_read_before_the_first_use(tmp_path: Path) -> None:
    missing = Tokenizer(tmp_path / "vocabulary.txt.gz")
    with pytest.raises(BundleError, match="cannot be read"):
        missing.encode("a")
    with pytest.raises(BundleError, match="cannot be read"):
        _ = missing.sha256


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "holds 0 merges"),
        (b"not gzip at all", "is not a gzip text file"),
        (gzip.compress(b"title\na b\nc d\n"), f"holds 2 merges, expected {MERGES}"),
        (gzip.compress(b"\xff\xfe" * 100), "is not a gzip text file"),
        (gzip.compress(b"x" * (64 << 20)), "holds 0 merges"),
    ],
    ids=["empty", "text", "short", "binary", "bomb"],
)
def test_a_wrong_vocabulary_file_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "vocabulary.txt.gz"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=found):
        Tokenizer(path).encode("a")


def test_a_cut_off_vocabulary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt.gz"
    path.write_bytes(Tokenizer().path.read_bytes()[:500_000])
    with pytest.raises(BundleError, match="is not a gzip text file"):
        Tokenizer(path).encode("a")


def test_a_huge_vocabulary_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt.gz"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole: it takes no room on the disk
    with pytest.raises(BundleError, match="has 1099511627776 bytes, expected about"):
        Tokenizer(path).encode("a")


def test_a_replaced_vocabulary_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt.gz"
    path.write_bytes(Tokenizer().path.read_bytes())
    assert Tokenizer(path).sha256 == SHA256
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text, mtime=1))
    assert Tokenizer(path).sha256 != SHA256
    assert (Tokenizer(path).encode("a farm") == Tokenizer().encode("a farm")).all()


def test_plain_text_needs_neither_torch_nor_ftfy() -> None:
    program = (
        "import sys; from lrsclip_rt.tokenizer import Tokenizer; Tokenizer().encode('boats & piers, 3.5 m');"
        "print(sorted({'torch', 'ftfy', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_words_of_ascii_are_split_as_by_the_module_that_knows_all_letters() -> None:
    from lrsclip_rt.tokenizer import _ASCII_PARTS, _parts_finder

    rng = np.random.default_rng(5)
    letters = [*map(chr, range(128)), *"'''stremvldSTREMVLD019"]
    for _ in range(5000):
        for word in "".join(rng.choice(letters, rng.integers(1, 14))).split():
            assert _ASCII_PARTS.findall(word) == _parts_finder()(word), repr(word)
