"""Data: toy laws whose density is known, images as bytes, and batches of anything a user brings.

- Laws with exact densities: `mixtures` of Gaussians, `toys` and `wells` that are none.
- Images: `images` are sets of bytes with their labels, `scaling` makes numbers of bytes and bytes of numbers, `sets` are the
  published ones, which `files` finds or downloads, `readers` make sets of a user's own, and `pictures` writes PNG files. Images
  stay bytes until a batch is drawn, and are scaled only as the user says.
- Tables: `table` makes vectors of named columns, each of a kind of `columns` or `gaps`, and `table_rows` trains on them with
  random columns known.
- Batches: `source` draws them at random from anything with rows or a law, `stream` takes them from a user's own iterable. Rows
  that are read anew whenever they are drawn are those of a `Dataset` (`rows`), of a memory map (`arrays`) or of a table.
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
from .mixtures import gaussian_grid, gaussian_ring, random_mixture
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
