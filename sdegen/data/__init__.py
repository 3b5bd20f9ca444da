"""Data: toy laws whose density is known, images as bytes, and batches of anything a user brings.

`laws` are Gaussian mixtures, `toys` and `wells` other laws with densities; `images` sets of bytes with their
labels, `scaling` their numbers and the way back, `sets` the published ones, found or fetched by `files`,
`readers` the user's own, `pictures` the way to files;
`source` the batches that training takes, `rows` those of a `Dataset`, `stream` those that the user makes;
`table` named columns of many kinds, `columns` and `gaps`, as vectors, and `table_rows` batches of them in which some are known.
Images stay bytes until a batch is drawn, and are scaled only as the user says.
"""

from .columns import (
    CategoryColumn,
    Column,
    CountColumn,
    IntervalColumn,
    NumberColumn,
    PositiveColumn,
)
from .files import File
from .gaps import GappedColumn
from .images import Images, Scaled, Split
from .laws import gaussian_grid, gaussian_ring, random_mixture
from .pictures import save_pngs
from .readers import from_arrays, from_dataset, from_folder
from .rows import collect
from .scaling import Dequantisation, Scaling
from .sets import digits, fashion_mnist, mnist, sprites, sprites_held_out
from .source import Batch, Source
from .stream import Stream
from .table import Table
from .table_rows import TableRows
from .toys import Banana, Checkerboard, Funnel, Moons, Rings
from .wells import ManyWell

__all__ = [
    "Banana",
    "Batch",
    "CategoryColumn",
    "Checkerboard",
    "Column",
    "CountColumn",
    "Dequantisation",
    "File",
    "Funnel",
    "GappedColumn",
    "Images",
    "IntervalColumn",
    "ManyWell",
    "Moons",
    "NumberColumn",
    "PositiveColumn",
    "Rings",
    "Scaled",
    "Scaling",
    "Source",
    "Split",
    "Stream",
    "Table",
    "TableRows",
    "collect",
    "digits",
    "fashion_mnist",
    "from_arrays",
    "from_dataset",
    "from_folder",
    "gaussian_grid",
    "gaussian_ring",
    "mnist",
    "random_mixture",
    "save_pngs",
    "sprites",
    "sprites_held_out",
]
