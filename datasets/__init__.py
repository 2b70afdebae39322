"""Event datasets, installed as ``lsc_snn.datasets``; importing it needs none of h5py, scikit-learn and tonic."""

from lsc_snn.datasets.augment import Augmentation
from lsc_snn.datasets.cache import cached, file_digest
from lsc_snn.datasets.digits import DigitSplits, load_digits
from lsc_snn.datasets.events_dataset import EventDataset, EventSample
from lsc_snn.datasets.loader import EventLoader
from lsc_snn.datasets.manifolds import load_manifolds
from lsc_snn.datasets.mnist import latency_events, pixel_sequences, read_idx, read_mnist
from lsc_snn.datasets.registry import Card, card, load, names, options
from lsc_snn.datasets.shd import load_folder, read_shd
from lsc_snn.datasets.splits import (
    EventSplits,
    check_speakers_disjoint,
    hold_out,
    leave_one_speaker_out,
    split_by_speaker,
    split_stratified,
)
from lsc_snn.datasets.text import TextSplits, TokenStream, Vocabulary, one_hot_events, read_symbols, split_texts

__all__ = [
    # datasets and batches
    "EventDataset",
    "EventLoader",
    "EventSample",
    "Augmentation",
    "cached",
    "file_digest",
    # any of them, by name
    "load",
    "names",
    "card",
    "options",
    "Card",
    "EventSplits",
    "TextSplits",
    # sources
    "load_digits",
    "DigitSplits",
    "load_folder",
    "read_shd",
    "load_manifolds",
    "read_idx",
    "read_mnist",
    "latency_events",
    "pixel_sequences",
    # text
    "read_symbols",
    "split_texts",
    "TokenStream",
    "Vocabulary",
    "one_hot_events",
    # splits
    "split_by_speaker",
    "split_stratified",
    "hold_out",
    "leave_one_speaker_out",
    "check_speakers_disjoint",
]
