"""The registry: names, cards, options, the Heidelberg data sets by name, and what is said where files are missing."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tonic
import torch

from event_files import write_shd
from lsc_snn.datasets import EventDataset, card, load, load_digits, names, options, registry
from lsc_snn.datasets.cards import CARDS


def dense(dataset: EventDataset) -> torch.Tensor:
    return dataset.batch(np.arange(len(dataset)))[0].to_dense()


SPEAKERS = [0, 1, 2, 3, 4] * 8


def test_every_name_has_a_card_a_reader_and_a_source() -> None:
    assert sorted(names()) == sorted(each.name for each in CARDS)
    for name in names():
        each = card(name)
        for text in (each.title, each.duration, each.bins, each.splits, each.licence, each.citation, each.source):
            assert len(text) > 2
        assert min(each.classes, each.channels) >= 1
        assert bool(each.files) == bool(each.folders)
        assert isinstance(options(name), dict)
        json.dumps(each.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", ["digits", "manifolds"])
def test_what_needs_no_file_loads_as_its_card_says(name: str, tmp_path: Path) -> None:
    train, validation, test, dropped = load(name, tmp_path)
    for part in (train, validation, test):
        assert (part.num_classes, part.num_units) == (card(name).classes, card(name).channels)
    assert dropped == 0
    assert list(tmp_path.iterdir()) == []


def test_digits_by_name_are_the_embedded_ones() -> None:
    for ours, theirs in zip(load("digits", seed=3)[:3], load_digits(seed=3), strict=True):
        assert np.array_equal(ours.times, theirs.times)
        assert np.array_equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("name", [each.name for each in CARDS if each.files])
def test_offline_with_nothing_on_disk_one_line_says_what_is_expected_where(name: str, tmp_path: Path) -> None:
    root = tmp_path / "nothing"
    with pytest.raises(
        ValueError, match=rf"^{root}/{card(name).folders[0]}/\S+: expected this file of .*, got none;"
    ) as e:
        load(name, root)
    assert "\n" not in str(e.value)
    assert ("download=True" in str(e.value)) == card(name).downloads
    assert (f"lsc-snn data show {name} --download" in str(e.value)) == card(name).downloads
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_and_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"dataset: expected one of .*, got 'ssd'; did you mean 'ssc'"):
        load("ssd")
    with pytest.raises(
        ValueError, match=r"bin_sm: expected bin_ms, num_steps, .* for shd, got 'bin_sm'; did you mean bin_ms"
    ):
        load("shd", bin_sm=4)
    with pytest.raises(ValueError, match="level: expected no option for s-mnist, got 'level'; leave it out"):
        load("s-mnist", level="word")
    with pytest.raises(ValueError, match="seed: expected an integer >= 0"):
        load("digits", seed=-1)
    with pytest.raises(ValueError, match="validation: expected nothing for manifolds"):
        load("manifolds", validation=0.2)


def test_the_root_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LSC_SNN_DATA", str(tmp_path / "named"))
    assert registry.request("shd").places[0] == tmp_path / "named/shd"
    monkeypatch.delenv("LSC_SNN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.request("shd").places[0] == tmp_path / "lsc_snn/data/shd"
    assert registry.request("shd").cache == tmp_path / "lsc_snn/events"


@pytest.fixture
def shd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a root with a small SHD and SSC, and cards that take their sizes for the published ones."""
    write_shd(tmp_path / "shd/shd_train.h5", np.arange(40) % 20, SPEAKERS)
    write_shd(tmp_path / "shd/shd_test.h5", np.arange(20), [0, 9] * 10, seed=1)
    sizes = {"train": 70, "valid": 35, "test": 36}
    for seed, (part, size) in enumerate(sizes.items()):
        write_shd(tmp_path / f"ssc/ssc_{part}.h5", np.arange(size) % 35, np.arange(size) % 4, seed=seed)
    small = {
        "shd": replace(card("shd"), samples=(("train", 40), ("test", 20))),
        "ssc": replace(card("ssc"), samples=(("train", 70), ("validation", 35), ("test", 36))),
    }
    monkeypatch.setattr(registry, "_CARDS", registry._CARDS | small)
    return tmp_path


def test_shd_holds_speakers_out_and_ssc_keeps_its_own_split(shd: Path) -> None:
    train, validation, test, _ = load("shd", shd, cache=shd / "cache")
    assert len(set(validation.speakers)) == 1
    assert not set(train.speakers) & set(validation.speakers)
    assert len(train) + len(validation) == 40
    assert (len(test), test.num_classes, test.num_units) == (20, 20, 700)
    named = load("shd", shd, cache=shd / "cache", validation=[3, 1], bin_ms=10.0, binary=True)
    assert set(named.validation.speakers) == {1, 3}
    assert max(part.num_steps for part in named[:3]) <= 51
    pooled = load("shd", shd, cache=shd / "cache", pool=5).test
    assert torch.equal(dense(pooled), dense(test).unflatten(2, (140, 5)).sum(3))
    official = load("ssc", shd, cache=shd / "cache")
    assert [len(part) for part in official[:3]] == [70, 35, 36]
    with pytest.raises(ValueError, match="validation: expected nothing for ssc"):
        load("ssc", shd, cache=shd / "cache", validation=0.1)


def test_cropped_spikes_are_counted(shd: Path) -> None:
    splits = load("shd", shd, cache=shd / "cache", num_steps=50, crop=True)
    assert splits.num_dropped > 0
    assert (
        splits.num_dropped + sum(len(p.times) if p.counts is None else int(p.counts.sum()) for p in splits[:3]) == 300
    )
    with pytest.raises(ValueError, match=r"shd_train\.h5: sample \d+: expected at most 50 steps"):
        load("shd", shd, cache=shd / "cache", num_steps=50)


def test_swapped_and_foreign_files_are_refused(shd: Path) -> None:
    folder = shd / "shd"
    (folder / "shd_train.h5").rename(folder / "kept")
    (folder / "shd_train.h5").symlink_to(folder / "shd_test.h5")
    with pytest.raises(ValueError, match=r"shd_train\.h5: expected the 40 samples of .*, train, as published, got 20"):
        load("shd", shd, cache=shd / "cache")
    shutil.copy(shd / "ssc/ssc_test.h5", folder / "shd_test.h5")
    (folder / "shd_train.h5").unlink()
    (folder / "kept").rename(folder / "shd_train.h5")
    with pytest.raises(ValueError, match=r"shd_test\.h5: sample 20: expected labels in 0\.\.19, got 20"):
        load("shd", shd, cache=shd / "cache")
    write_shd(folder / "shd_test.h5", [0] * 20, [0] * 20)
    with pytest.raises(
        ValueError, match=r"shd_test\.h5: expected samples of 20 classes of .*, got 1; check for a swapped"
    ):
        load("shd", shd, cache=shd / "cache")
    assert len(load("shd", shd, cache=shd / "cache", verify=False).test) == 20


def test_a_packed_file_is_checked_and_unpacked(shd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = shd / "home/SHD"
    home.mkdir(parents=True)
    for part in ("train", "test"):
        shutil.make_archive(str(home / f"shd_{part}.h5"), "zip", shd / "shd", f"shd_{part}.h5")
    expected = tonic.datasets.SHD.train_md5
    with pytest.raises(ValueError, match=rf"shd_train\.h5\.zip: expected the MD5 sum {expected}, got [0-9a-f]{{32}};"):
        load("shd", home.parent, cache=shd / "cache")
    for part in ("train", "test"):
        found = hashlib.md5((home / f"shd_{part}.h5.zip").read_bytes()).hexdigest()
        monkeypatch.setattr(tonic.datasets.SHD, f"{part}_md5", found)
    monkeypatch.setattr(tonic.datasets.SHD, "base_url", home.as_uri() + "/")
    assert len(load("shd", home.parent, cache=shd / "cache").test) == 20
    fetched = load("shd", shd / "fresh", cache=shd / "cache", download=True)
    assert np.array_equal(fetched.test.labels, np.arange(20))
    assert (shd / "fresh/shd/shd_train.h5").is_file()


def test_a_truncated_archive_of_the_right_sum_leaves_nothing(shd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = shd / "home"
    home.mkdir()
    archive = home / "shd_train.h5.zip"
    archive.write_bytes(b"PK" + b"0" * 100)
    monkeypatch.setattr(tonic.datasets.SHD, "train_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"shd_train\.h5\.zip: expected a whole \.zip or \.tar\.gz file"):
        load("shd", home, cache=shd / "cache")
    assert list(home.iterdir()) == [archive]


def test_without_tonic_files_on_disk_are_read_and_a_download_names_the_extra(
    shd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    assert len(load("shd", shd, cache=shd / "cache").test) == 20
    with pytest.raises(ImportError, match=r'pip install "lsc-snn\[data\]"'):
        load("shd", shd / "absent", download=True)
