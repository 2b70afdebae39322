"""Event datasets, installed as ``lsc_snn.datasets``; importing it needs neither h5py nor scikit-learn."""

from lsc_snn.datasets.digits import DigitSplits, load_digits
from lsc_snn.datasets.events_dataset import EventDataset, EventLoader, EventSample
from lsc_snn.datasets.shd import load_folder, read_shd
from lsc_snn.datasets.splits import check_speakers_disjoint, split_by_speaker, split_stratified

__all__ = [
    # datasets and batches
    "EventDataset",
    "EventLoader",
    "EventSample",
    # sources
    "load_digits",
    "DigitSplits",
    "load_folder",
    "read_shd",
    # splits
    "split_by_speaker",
    "split_stratified",
    "check_speakers_disjoint",
]
