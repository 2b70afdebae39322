"""Language modelling: vocabulary, streams for truncated BPTT, and the layouts of Penn Treebank and WikiText."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_dir import data_dir
from lsc_snn.datasets import TokenStream, Vocabulary, card, load, one_hot_events, read_symbols, split_texts
from lsc_snn.events import EventBatch

TEXT = " the cat sat \n\n the dog , the <unk> \n"


@given(st.integers(2, 60), st.integers(1, 7), st.integers(1, 9))
def test_every_token_is_predicted_once_in_the_order_of_its_column(size: int, batch_size: int, num_steps: int) -> None:
    stream = TokenStream(np.arange(size), size)
    columns = (size - 1) // batch_size
    if columns == 0:
        with pytest.raises(ValueError, match=f"batch_size: expected at most {size - 1}"):
            list(stream.batches(batch_size, num_steps))
        return
    batches = list(stream.batches(batch_size, num_steps))
    assert len(batches) == stream.num_batches(batch_size, num_steps)
    inputs = torch.cat([batch.to_dense().argmax(2) for batch, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(labels, inputs + 1), "the next token"
    assert torch.equal(inputs.T.flatten(), torch.arange(columns * batch_size)), "columns follow each other"
    assert size - 1 - inputs.numel() < batch_size, "what is left out"
    assert all(batch.shape[0] == num_steps for batch, _ in batches[:-1])


def test_a_batch_has_one_event_a_step_and_passes_every_check() -> None:
    tokens = torch.tensor([[3, 0], [1, 1], [2, 3]])
    batch = one_hot_events(tokens, 4)
    expected = torch.nn.functional.one_hot(tokens, 4).float()
    assert torch.equal(batch.to_dense(), expected)
    again = EventBatch.from_dense(expected)
    for field in ("times", "samples", "units", "counts", "lengths"):
        assert torch.equal(getattr(batch, field), getattr(again, field))


def test_words_and_characters(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    words = ["the", "cat", "sat", "<eos>", "<eos>", "the", "dog", ",", "the", "<unk>", "<eos>"]
    assert read_symbols(path) == words
    assert "".join(read_symbols(path, "char")) == TEXT
    path.write_text(TEXT.rstrip("\n"))
    assert read_symbols(path) == words, "a last line without its end"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert read_symbols(path) == words
    path.write_text("one\x0bline\u2028with separators\n")
    assert read_symbols(path).count("<eos>") == 1


def test_the_vocabulary_is_that_of_training_alone() -> None:
    vocabulary = Vocabulary(["b", "a", "c", "a", "b", "a"])
    assert vocabulary.symbols == ["a", "b", "c", "<unk>"]
    assert vocabulary.encode(["c", "zebra", "a"]).tolist() == [2, 3, 0]
    assert Vocabulary(["<unk>", "a"]).symbols == ["<unk>", "a"]
    splits = split_texts(["a", "b", "a"], ["b", "x", "y"], ["a", "a"])
    assert splits.unknown == {"train": 0, "validation": 2, "test": 0}
    assert splits.validation.tokens.tolist() == [1, 2, 2]
    assert splits.test.num_symbols == 3


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (np.array([0.0, 1.0]), TypeError, "tokens: expected integers, got float64"),
        (np.array([0]), ValueError, r"tokens: expected two or more in one axis, got shape \(1,\)"),
        (np.array([[0, 1]]), ValueError, "tokens: expected two or more in one axis"),
        (np.array([0, 1, 3]), ValueError, r"tokens: expected values in 0\.\.2, got 3 at entry 2"),
        (np.array([0, -1]), ValueError, r"tokens: expected values in 0\.\.2, got -1 at entry 1"),
    ],
)
def test_bad_tokens_are_named(tokens: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenStream(tokens, 3)


def test_bad_sizes_are_named() -> None:
    stream = TokenStream(np.arange(5), 5)
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1, got 0"):
        next(stream.batches(0, 2))
    with pytest.raises(TypeError, match="num_steps: expected an integer, got float"):
        next(stream.batches(1, 2.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected text, got no word"),
        (b" \n \n", "expected text, got no word"),
        (b"a \xff b", "expected UTF-8 text, got: "),
        (b"a \x00 b", "expected text, got a zero byte"),
        (b"PK\x03\x04" + bytes(range(256)), "expected UTF-8 text, got: "),
    ],
)
def test_bad_text_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.txt: {message}") as caught:
        read_symbols(tmp_path / "bad.txt")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="expected a text file, got a folder"):
        read_symbols(tmp_path)
    with pytest.raises(ValueError, match="level: expected one of 'word', 'char', got 'words'; did you mean 'word'"):
        read_symbols(tmp_path / "bad.txt", "words")


def test_the_penn_treebank_layout(tmp_path: Path) -> None:
    for part, text in (("train", TEXT), ("valid", " the zebra \n"), ("test", " dog \n")):
        path = tmp_path / f"ptb/ptb.{part}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    splits = load("ptb", tmp_path, verify=False)
    assert [splits.vocabulary.symbols[token] for token in splits.validation.tokens] == ["the", "<unk>", "<eos>"]
    assert len(splits.train) == 11
    characters = load("ptb", tmp_path, verify=False, level="char")
    assert len(characters.train) == len(TEXT)
    with pytest.raises(
        ValueError, match=r"ptb\.train\.txt: expected the 929589 words and line ends of .*, got 11; check"
    ):
        load("ptb", tmp_path)
    (tmp_path / "ptb/ptb.valid.txt").unlink()
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/ptb/ptb\.valid\.txt: expected this file of .*, got none; put it"
    ):
        load("ptb", tmp_path, verify=False)


def test_wikitext_takes_both_names_and_its_own_validation(tmp_path: Path) -> None:
    for name in ("wiki.train.tokens", "valid.txt", "wiki.test.tokens"):
        (tmp_path / name).write_text(TEXT)
    splits = load("wikitext-2", tmp_path, verify=False)
    assert len(splits.train) == len(splits.validation) == len(splits.test) == 11
    with pytest.raises(ValueError, match="validation: expected nothing for wikitext-2, which has one of its own"):
        load("wikitext-2", tmp_path, verify=False, validation=0.1)


def test_wikitext_2_small_is_cut_from_the_original_files() -> None:
    folder = data_dir("wikitext2")
    splits = load("wikitext-2-small", folder.parent)
    sizes = dict(card("wikitext-2-small").samples)
    assert {part: len(getattr(splits, part)) for part in sizes} == sizes
    assert len(splits.vocabulary) == card("wikitext-2-small").classes
    whole = read_symbols(folder / "valid.txt")
    known = [symbol if symbol in splits.vocabulary.numbers else "<unk>" for symbol in whole]
    tokens = np.concatenate([splits.validation.tokens, splits.test.tokens]).tolist()
    assert [splits.vocabulary.symbols[token] for token in tokens] == known
    batch, labels = next(splits.train.batches(32, 100))
    assert batch.shape == (100, 32, 14143)
    assert labels.shape == (100, 32)


def test_swapped_parts_of_wikitext_are_refused(tmp_path: Path) -> None:
    folder = data_dir("wikitext2")
    (tmp_path / "wiki.valid.tokens").symlink_to(folder / "test.txt")
    (tmp_path / "wiki.test.tokens").symlink_to(folder / "valid.txt")
    with pytest.raises(ValueError, match=r"wiki\.valid\.tokens: expected the 108823 words .*, got 122784; check for a"):
        load("wikitext-2-small", tmp_path)
