"""The commands of the theory: each builds a model and its samples, computes, and writes numbers and figures."""
