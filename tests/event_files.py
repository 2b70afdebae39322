"""Small files in the formats of the published datasets, for the tests of their readers."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

Event = tuple[int, int, int, int]
"""x, y, polarity, time in microseconds."""


def write_shd(path: Path, labels: Sequence[int], speakers: Sequence[int], spikes: int = 5, seed: int = 0) -> Path:
    """Write a file of the SHD layout with a few spikes below 0.5 s in each sample."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, kind in (("times", np.float16), ("units", np.uint16)):
            node = file.create_dataset(f"spikes/{key}", (len(labels),), h5py.vlen_dtype(kind))
            for index in range(len(labels)):
                values = rng.uniform(0, 0.5, spikes) if key == "times" else rng.integers(0, 700, spikes)
                node[index] = np.sort(values).astype(kind)
        file["labels"] = np.asarray(labels, np.uint16)
        file["extra/speaker"] = np.asarray(speakers, np.uint16)
    return path


def write_idx(path: Path, array: np.ndarray) -> Path:
    """Write an idx file of unsigned bytes, packed where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def write_nmnist(path: Path, events: Sequence[Event]) -> Path:
    """Write an N-MNIST file: x, y, then one bit of polarity and 23 of time, big end first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [bytes([x, y]) + ((p << 23) | t).to_bytes(3, "big") for x, y, p, t in events]
    path.write_bytes(b"".join(words))
    return path


def write_gesture(path: Path, events: Sequence[Event]) -> Path:
    """Write a DVS Gesture file as tonic's publisher cut them: rows of x, y, polarity and milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array([(x, y, p, t // 1000) for x, y, p, t in events], np.int64).reshape(-1, 4))
    return path


def write_aedat4(path: Path, events: Sequence[Event]) -> Path:
    """Write an AEDAT4 file without compression: a header and one packet, both FlatBuffers laid out by hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    attribute = '<attr key="{}" type="string">{}</attr>'
    stream = attribute.format("compression", "NONE") + attribute.format("typeIdentifier", "EVTS")
    size = '<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr>'
    info = f'<node name="info" path="/mainloop/o/outInfo/0/info/">{size}</node>'
    node = f'<node name="0" path="/mainloop/o/outInfo/0/">{stream}{info}</node>'
    xml = f'<dv version="2.0"><node name="outInfo" path="/mainloop/o/outInfo/">{node}</node></dv>'.encode()
    # Root offset, identifier, vtable (size, table size, offsets of the fields), table, then what the offsets point to.
    vtable = struct.pack("<5H", 10, 20, 4, 8, 16) + b"\0\0"
    table = struct.pack("<iiqI", 12, 0, -1, 4)
    header = struct.pack("<I4s", 8 + len(vtable), b"IOHE") + vtable + table + struct.pack("<I", len(xml)) + xml + b"\0"
    rows = b"".join(struct.pack("<qhh?3x", t, x, y, bool(p)) for x, y, p, t in events)
    vtable, table = struct.pack("<3H", 6, 8, 4) + b"\0\0", struct.pack("<iI", 8, 4)
    packet = struct.pack("<I4s", 8 + len(vtable), b"EVTS") + vtable + table + struct.pack("<I", len(events)) + rows
    payload = struct.pack("<I", len(packet)) + packet
    path.write_bytes(
        b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header + struct.pack("<ii", 0, len(payload)) + payload
    )
    return path
