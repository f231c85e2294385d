"""Named data sets and folders of pictures, in batches that are ready for a network."""

from .batches import images_of, split_batch
from .catalog import Entry, describe
from .catalog import names as list
from .loaders import LoaderSplit, from_loaders
from .loading import load
from .photos import images
from .split import Batch, Data, MemoryStore, Split, Store
from .transform import Transform
from .unlabelled import UnlabelledSplit
from .variety import varied

__all__ = [
    "Batch",
    "Data",
    "Entry",
    "LoaderSplit",
    "MemoryStore",
    "Split",
    "Store",
    "Transform",
    "UnlabelledSplit",
    "describe",
    "from_loaders",
    "images",
    "images_of",
    "list",
    "load",
    "split_batch",
    "varied",
]
