"""The grids of the tests of compare."""

from tests.compare.conftest import make_grid  # noqa: F401
from tests.training.conftest import data_dir, tiny_model  # noqa: F401
