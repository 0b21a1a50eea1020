"""Everything around the method: tasks, peers, training, comparisons, the theory, and the command line."""
