"""The tokenizer equals the package `tokenizers`, and says what is wrong with texts and files."""

from __future__ import annotations

import copy
import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from sam2edge.bundle.words import WordsModel
from sam2edge.errors import CorruptFileError, InputError, SchemaError
from sam2edge.runtime.words.tokenizer import Tokenizer
from tests.conftest import REPO

START, END = "<|startoftext|>", "<|endoftext|>"
SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u200b\u2028\u202f\u3000\ufeff"
EMOJI = ("👍🏽", "👩‍👩‍👧", "🏳️‍🌈", "🇩🇪", "1️⃣", "☕", "🫠")
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "’s", "'S", "'LL")
MARKS = "\u0301\u0308\u0323\u0338\u20dd\ufe0f\u200d\u3099"
WORDS = (
    "red",
    "cup",
    "Größe",
    "İstanbul",
    "ΟΔΥΣΣΕΥΣ",
    "ǅ",
    "ﬁn",
    "²½Ⅷ",
    "日本",
    "क्षि",
    "한국",
    "A\u030a",
    "<|start",
    "!",
)
# assigned in Unicode 3.2, so that Python and the package, of whatever versions, know them alike
ASSIGNED = [code for code in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs")]


def random_texts(count: int) -> list[str]:
    draw = random.Random(7)
    kinds: list[Callable[[], str]] = [
        lambda: chr(draw.choice(ASSIGNED)),
        lambda: chr(draw.randrange(0x20, 0x250)),
        lambda: chr(draw.randrange(0x21, 0x7F)),
        *(lambda options=options: draw.choice(options) for options in (SPACES, EMOJI, CONTRACTIONS, MARKS, WORDS)),
    ]
    return ["x" + "".join(draw.choice(kinds)() for _ in range(draw.randrange(1, 24))) for _ in range(count)]


@pytest.fixture(scope="module")
def reference() -> tokenizers.Tokenizer:
    """A tokenizer as CLIP's, whose merges come from texts like those of the test."""
    normal = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    learner = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = normal, split
    trainer = trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(random_texts(4000), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # as in CLIP's vocabulary: the bytes in their order, so that "!" is 0, then each as the end of a word
    ordered = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda char: (ord(char) >= 256, ord(char)))
    parts = [*ordered, *(char + "</w>" for char in ordered), *map("".join, merges), START, END]
    vocabulary = {part: number for number, part in enumerate(parts)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    made.normalizer, made.pre_tokenizer = normal, split
    made.add_special_tokens(["!", START, END])
    made.post_processor = processors.RobertaProcessing((END, vocabulary[END]), (START, vocabulary[START]), False, False)
    return made


@pytest.fixture(scope="module")
def file(reference: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    reference.save(str(path))
    return path


@pytest.fixture(scope="module")
def model(reference: tokenizers.Tokenizer) -> WordsModel:
    size = reference.get_vocab_size()
    return WordsModel(64, 16, 8, 16, size, size - 2, size - 1, 0, letterbox=True, objectness=True)


@pytest.fixture(scope="module")
def tokenizer(file: Path, model: WordsModel) -> Tokenizer:
    return Tokenizer(file, model)


def test_equals_tokenizers(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    texts = random_texts(3000)
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    assert [tokenizer.encode(text) for text in texts] == expected
    merged = sum(len("".join(text.split()).encode()) - len(ids) for text, ids in zip(texts, expected, strict=True))
    assert merged > 10_000


def test_equals_tokenizers_with_the_bundled_words() -> None:
    """That file was written by transformers, whose pattern also has the special tokens."""
    file = REPO / "samples" / "words" / "tokenizer.json"
    reference = tokenizers.Tokenizer.from_file(str(file))
    size = reference.get_vocab_size()
    ours = Tokenizer(file, WordsModel(64, 16, 8, 16, size, size - 2, size - 1, 0, letterbox=True, objectness=True))
    for text in ("red ball", "a Yellow  star!", "everything's blue", "1234 triangles"):
        assert ours.encode(text) == reference.encode(text).ids


def test_merges_may_be_pairs_or_texts(tokenizer: Tokenizer, file: Path, model: WordsModel, tmp_path: Path) -> None:
    data = json.loads(file.read_text())
    assert isinstance(data["model"]["merges"][0], list)
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    older = Tokenizer(tmp_path / "tokenizer.json", model)
    assert [older.encode(text) for text in WORDS] == [tokenizer.encode(text) for text in WORDS]


def test_table(tokenizer: Tokenizer, model: WordsModel) -> None:
    table = tokenizer.table(["red cup", "日本", "red  CUP\n"])
    assert (table.dtype, table.shape) == ("int32", (3, 16))
    for row, text in zip(table, ("red cup", "日本"), strict=False):
        ids = tokenizer.encode(text)
        assert row.tolist() == ids + [0] * (16 - len(ids))
    assert (table[0] == table[2]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "a text must be a string but got NoneType"),
        ("", "a text must name an object but is ''"),
        (" \t\u3000\u200b", "a text must name an object"),
        ("\x00\x1f", "a text must name an object"),
        ("a <|endoftext|> cup", r"has <\|endoftext\|> in it, which marks the ends of texts"),
        ("<|StartOfText|>cup", r"has <\|startoftext\|> in it"),
        ("cup \ud83d", "has half a character"),
        ("cup " * 300, r"'cup cup .*'… has 1200 characters; name an object in a few words"),
        ("1 23 4567 890 123 4567 8", r"has 18 tokens, but at most 14 fit; '1 23 4567 890 123' would fit"),
        ("123456789012345", r"'123456789012345' has 15 tokens, but at most 14 fit$"),
    ],
)
def test_texts_that_cannot_be_used(tokenizer: Tokenizer, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer.table(["red cup", text])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "type"), "Unigram", "its model is Unigram, expected BPE"),
        (("model", "end_of_word_suffix"), "", "its words do not end with </w>"),
        (("model", "merges"), [["red", "qqqqq"]], "its vocabulary lacks redqqqqq"),
        (("model", "vocab", "Ġ</w>"), 70_000, "its tokens are not all below"),
        (("model", "vocab"), {}, "its vocabulary lacks"),
        (("normalizer",), {"type": "NFC"}, "its normalizer is NFC, expected NFC Replace Lowercase"),
        (("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"), r"\w+", r"it splits words by \\w\+"),
        (("added_tokens",), [], "its added tokens are {}"),
        (("added_tokens", 0, "id"), 9, "its added tokens are"),
        (("model",), None, "NoneType"),
        ((), [], "list indices"),
    ],
)
def test_foreign_tokenizers(
    file: Path, model: WordsModel, tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    data = holder = {"all": copy.deepcopy(json.loads(file.read_text()))}
    keys: tuple[Any, ...] = ("all", *path)
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    (changed := tmp_path / "tokenizer.json").write_text(json.dumps(data["all"]))
    with pytest.raises(SchemaError, match=f"tokenizer.json: not CLIP's byte-pair encoding .*{message}.*export"):
        Tokenizer(changed, model)


def test_damaged_tokenizer(file: Path, model: WordsModel, tmp_path: Path) -> None:
    (cut := tmp_path / "tokenizer.json").write_bytes(file.read_bytes()[:-20])
    for path in (cut, tmp_path / "missing.json"):
        with pytest.raises(CorruptFileError, match=f"{path.name}: not a tokenizer"):
            Tokenizer(path, model)
