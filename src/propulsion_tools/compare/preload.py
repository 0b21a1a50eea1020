"""What every run needs, imported once by the process that the runs are forked from: it takes longer than a run may."""

import gc

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401

import propulsion_tools.training.console
import propulsion_tools.training.run  # noqa: F401
from propulsion_tools.methods import method_names
from propulsion_tools.tasks import task_names

# These import every method and every task.
method_names()
task_names()

# Every run collects garbage, which would go through all of this, and so copy it into the memory of that run.
gc.collect()
gc.freeze()
