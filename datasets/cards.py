"""What one should know of each dataset before using it: sizes, bins, splits, licence, citation, source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Facts of one dataset."""

    name: str
    """What ``load`` and the command line call it."""
    title: str
    classes: int
    """Labels, or symbols of the vocabulary for text."""
    channels: int
    """Input units with the default options."""
    duration: str
    """How long a sample is."""
    bins: str
    """What a time step is by default."""
    samples: tuple[tuple[str, int], ...]
    """Official parts and their published sizes, checked when they are read; empty where there is nothing to check."""
    splits: str
    """Who made the parts, and where validation comes from."""
    licence: str
    citation: str
    source: str
    """Where the data comes from."""
    files: tuple[str, ...] = ()
    """Files or folders expected on disk; empty for data that is embedded or drawn."""
    folders: tuple[str, ...] = ()
    """Subfolders of the root to look in; the first one receives downloads."""
    downloads: bool = False
    """Whether ``load(..., download=True)`` can fetch the files."""
    text: bool = False
    """Language modelling: parts are token streams, not event datasets."""

    def to_dict(self) -> dict[str, object]:
        """Return the card as JSON-ready values."""
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "samples": dict(self.samples)}


_CRAMER = (
    "B. Cramer, Y. Stradmann, J. Schemmel and F. Zenke, The Heidelberg Spiking Data Sets for the Systematic Evaluation "
    "of Spiking Neural Networks, IEEE Trans. Neural Netw. Learn. Syst. 33, 2744, 2022"
)
_LECUN = (
    "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to document recognition, "
    "Proc. IEEE 86, 2278, 1998"
)
_MNIST_LICENCE = "CC BY-SA 3.0"
_MNIST_SOURCE = "MNIST, the original idx files, packed or not"
_MNIST_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_MNIST_SPLITS = "official train and test; validation stratified from train"
_MNIST_10K = "of the 10,000 test images: first 8,000 train, next 1,000 validation, last 1,000 test"
_MNIST_10K_SAMPLES = (("train", 8000), ("validation", 1000), ("test", 1000))
_MNIST_FOLDERS = ("mnist", "MNIST/raw", "smnist")
_LATENCY_BINS = "100 steps; a pixel fires once, brighter earlier"
_SEQUENCE_BINS = "784 steps of one pixel's intensity, row by row"
_MERITY = "S. Merity, C. Xiong, J. Bradbury and R. Socher, Pointer Sentinel Mixture Models, ICLR 2017"
_WORDS = "one step for each word and end of line, or for each character with level='char'"

CARDS = (
    Card(
        name="digits",
        title="Handwritten digits of scikit-learn as spike latencies",
        classes=10,
        channels=64,
        duration="40 steps",
        bins="40 steps; a pixel fires once, brighter earlier",
        samples=(),
        splits="ours: 20 % of each class test, 15 % of the rest validation",
        licence="CC BY 4.0",
        citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
        "Repository, 1998",
        source="embedded in scikit-learn",
    ),
    Card(
        name="shd",
        title="Spiking Heidelberg Digits",
        classes=20,
        channels=700,
        duration="about 1 s, at most 1.4 s",
        bins="4 ms",
        samples=(("train", 8156), ("test", 2264)),
        splits="official train and test (two of twelve speakers in test alone); validation by speaker from train",
        licence="CC BY 4.0",
        citation=_CRAMER,
        source="zenkelab.org, Spiking Heidelberg Digits",
        files=("shd_train.h5", "shd_test.h5"),
        folders=("shd", "SHD"),
        downloads=True,
    ),
    Card(
        name="ssc",
        title="Spiking Speech Commands",
        classes=35,
        channels=700,
        duration="1 s",
        bins="4 ms",
        samples=(("train", 75466), ("validation", 9981), ("test", 20382)),
        splits="official train, validation and test",
        licence="CC BY 4.0",
        citation=_CRAMER,
        source="zenkelab.org, Spiking Speech Commands",
        files=("ssc_train.h5", "ssc_valid.h5", "ssc_test.h5"),
        folders=("ssc", "SSC"),
        downloads=True,
    ),
    Card(
        name="n-mnist",
        title="N-MNIST: MNIST seen by an event camera in three saccades",
        classes=10,
        channels=2 * 34 * 34,
        duration="about 0.3 s",
        bins="10 ms, 34 x 34 pixels of 2 polarities",
        samples=(("train", 60000), ("test", 10000)),
        splits="official train and test; validation stratified from train",
        licence="CC BY-SA 4.0",
        citation="G. Orchard, A. Jayawant, G. Cohen and N. Thakor, Converting Static Image Datasets to Spiking "
        "Neuromorphic Datasets Using Saccades, Front. Neurosci. 9, 437, 2015",
        source="garrickorchard.com, N-MNIST, as tonic fetches it",
        files=("Train", "Test"),
        folders=("n-mnist", "NMNIST"),
        downloads=True,
    ),
    Card(
        name="dvs-gesture",
        title="DVS128 Gesture: hand and arm gestures seen by an event camera",
        classes=11,
        channels=2 * 32 * 32,
        duration="about 6 s",
        bins="20 ms, 128 x 128 pixels of 2 polarities pooled 4 x 4",
        samples=(),
        splits="official train and test, by user; validation by user from train",
        licence="CC BY 4.0",
        citation="A. Amir et al., A Low Power, Fully Event-Based Gesture Recognition System, CVPR 2017",
        source="IBM Research, DVS128 Gesture, cut into samples by tonic",
        files=("ibmGestureTrain", "ibmGestureTest"),
        folders=("dvs-gesture", "DVSGesture"),
        downloads=True,
    ),
    Card(
        name="cifar10-dvs",
        title="CIFAR10-DVS: moving CIFAR-10 images seen by an event camera",
        classes=10,
        channels=2 * 32 * 32,
        duration="about 1.3 s",
        bins="10 ms, 128 x 128 pixels of 2 polarities pooled 4 x 4",
        samples=(("all", 10000),),
        splits="none official; ours: 10 % of each class test, always the same, validation stratified from the rest",
        licence="CC BY 4.0",
        citation="H. Li, H. Liu, X. Ji, G. Li and L. Shi, CIFAR10-DVS: An Event-Stream Dataset for Object "
        "Classification, Front. Neurosci. 11, 309, 2017",
        source="figshare, CIFAR10-DVS, in the AEDAT4 form that tonic fetches",
        files=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        folders=("cifar10-dvs", "CIFAR10DVS"),
        downloads=True,
    ),
    Card(
        name="sl-mnist",
        title="Spike-latency MNIST",
        classes=10,
        channels=784,
        duration="100 steps",
        bins=_LATENCY_BINS,
        samples=(("train", 60000), ("test", 10000)),
        splits=_MNIST_SPLITS,
        licence=_MNIST_LICENCE,
        citation=_LECUN,
        source=_MNIST_SOURCE,
        files=_MNIST_FILES,
        folders=_MNIST_FOLDERS,
        downloads=True,
    ),
    Card(
        name="s-mnist",
        title="Sequential MNIST",
        classes=10,
        channels=1,
        duration="784 steps",
        bins=_SEQUENCE_BINS,
        samples=(("train", 60000), ("test", 10000)),
        splits=_MNIST_SPLITS,
        licence=_MNIST_LICENCE,
        citation=_LECUN,
        source=_MNIST_SOURCE,
        files=_MNIST_FILES,
        folders=_MNIST_FOLDERS,
        downloads=True,
    ),
    Card(
        name="sl-mnist-10k",
        title="MNIST-10k as spike latencies",
        classes=10,
        channels=784,
        duration="100 steps",
        bins=_LATENCY_BINS,
        samples=_MNIST_10K_SAMPLES,
        splits=_MNIST_10K,
        licence=_MNIST_LICENCE,
        citation=_LECUN,
        source=_MNIST_SOURCE,
        files=_MNIST_FILES[2:],
        folders=_MNIST_FOLDERS,
        downloads=True,
    ),
    Card(
        name="s-mnist-10k",
        title="MNIST-10k as sequences of pixels",
        classes=10,
        channels=1,
        duration="784 steps",
        bins=_SEQUENCE_BINS,
        samples=_MNIST_10K_SAMPLES,
        splits=_MNIST_10K,
        licence=_MNIST_LICENCE,
        citation=_LECUN,
        source=_MNIST_SOURCE,
        files=_MNIST_FILES[2:],
        folders=_MNIST_FOLDERS,
        downloads=True,
    ),
    Card(
        name="ptb",
        title="Penn Treebank, language modelling",
        classes=10000,
        channels=10000,
        duration="929,589 training words",
        bins=_WORDS,
        samples=(("train", 929589), ("validation", 73760), ("test", 82430)),
        splits="official train, validation and test",
        licence="of the Linguistic Data Consortium; not to be redistributed",
        citation="M. Marcus, B. Santorini and M. Marcinkiewicz, Building a Large Annotated Corpus of English, Comput. "
        "Linguist. 19, 313, 1993; prepared by T. Mikolov et al., Interspeech 2010",
        source="the text files of T. Mikolov's examples; by hand",
        files=("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        folders=("ptb",),
        text=True,
    ),
    Card(
        name="wikitext-2",
        title="WikiText-2, language modelling",
        classes=33278,
        channels=33278,
        duration="2,088,628 training words",
        bins=_WORDS,
        samples=(("train", 2088628), ("validation", 217646), ("test", 245569)),
        splits="official train, validation and test",
        licence="CC BY-SA 3.0",
        citation=_MERITY,
        source="Salesforce Research, WikiText-2, word level; by hand",
        files=("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        folders=("wikitext-2", "wikitext2"),
        text=True,
    ),
    Card(
        name="wikitext-2-small",
        title="WikiText-2-small, language modelling",
        classes=14143,
        channels=14143,
        duration="245,569 training words",
        bins=_WORDS,
        samples=(("train", 245569), ("validation", 108823), ("test", 108823)),
        splits="ours: train on WikiText-2's test text, halves of its validation text for validation and test",
        licence="CC BY-SA 3.0",
        citation=_MERITY,
        source="Salesforce Research, WikiText-2, word level; by hand",
        files=("wiki.valid.tokens", "wiki.test.tokens"),
        folders=("wikitext-2", "wikitext2"),
        text=True,
    ),
    Card(
        name="manifolds",
        title="Smooth random manifolds of controlled difficulty",
        classes=10,
        channels=20,
        duration="100 steps",
        bins="100 steps; a unit fires once",
        samples=(),
        splits="drawn: 80 % train, 10 % validation, 10 % test of each class",
        licence="drawn by this package",
        citation="F. Zenke and T. P. Vogels, The Remarkable Robustness of Surrogate Gradient Learning for Instilling "
        "Complex Function in Spiking Neural Networks, Neural Comput. 33, 899, 2021",
        source="drawn from a seed",
    ),
)
"""Every dataset that ``lsc_snn.datasets.load`` knows."""


def spellings(file: str) -> tuple[str, ...]:
    """Return the names under which a file of a card is accepted: idx files packed too, WikiText as plain text.

    >>> spellings("wiki.test.tokens"), spellings("shd_test.h5")
    (('wiki.test.tokens', 'test.txt'), ('shd_test.h5',))
    """
    if file.endswith("-ubyte"):
        return file, f"{file}.gz"
    if file.startswith("wiki."):
        return file, f"{file.split('.')[1]}.txt"
    return (file,)
